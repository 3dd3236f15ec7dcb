"""The journal of a gateway that starts: opened when nobody else has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from waypost.app.settings import Settings
from waypost.gateway.journal import Journal
from waypost.kit.clock import Clock

# Of those that are booked, where a standby may be promoted that has not received the bookings: with the one that is
# written, the last 400,000 attempts at least, 40 s of 10,000 a second. 64 MiB of disk each.
KEPT_SEGMENTS = 2
_RETRY_S = 0.5


async def open_journal(
    directory: Path, settings: Settings, clock: Clock, *, patience_s: float, on_failed: Callable[[], None]
) -> Journal:
    """Raises BlockingIOError when another process still has it after `patience_s`."""
    gives_up_s = clock.monotonic_s() + patience_s
    while True:
        try:
            return Journal.open_dir(
                directory,
                on_failed=on_failed,
                survives_power_loss=settings.durability == "power",
                kept_segments=0 if settings.database_url is None else KEPT_SEGMENTS,
            )
        except BlockingIOError:
            if clock.monotonic_s() >= gives_up_s:
                raise
        await asyncio.sleep(_RETRY_S)
