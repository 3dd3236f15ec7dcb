"""The partitions of the months ahead, made at the start of a gateway and looked after as long as it serves; and those
of months that are over, which go with all that is to go then.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from waypost.kit.clock import Clock
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.partitions import ensure_partitions
from waypost.storage.pool import Pool
from waypost.storage.retention import forget_old
from waypost.storage.roles import Role
from waypost.telemetry.events import report_bug

FIRST_S = 60.0  # what is old can wait until a start is over
LOOK_S = 6 * 3600.0
RETRY_S = 60.0


class PartitionKeeper:
    """Any number of processes may do so at once."""

    def __init__(self, conninfo: str, clock: Clock) -> None:
        self._conninfo = conninfo
        self._clock = clock

    async def make(self) -> None:
        """Make what is missing. Raises LedgerUnavailable."""
        await self._look(is_start=True)

    async def look(self) -> None:
        """Make what is missing, and let go of what is old. Raises LedgerUnavailable."""
        await self._look(is_start=False)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        pause_s = FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = LOOK_S
            try:
                await self.look()
            except LedgerUnavailable:
                pause_s = RETRY_S
            except Exception as error:  # noqa: BLE001  the edge of a task: those of the months ahead are there already
                report_bug(error)

    async def _look(self, *, is_start: bool) -> None:
        now_ms = self._clock.unix_ns() // 1_000_000
        owner = Pool(self._conninfo, Role.OWNER, size=1)
        try:
            await ensure_partitions(owner, now_ms)
            if not is_start:
                await forget_old(owner, datetime.fromtimestamp(now_ms // 1000, UTC).date())
        finally:
            await owner.close()
