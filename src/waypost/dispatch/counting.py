"""Our own token counts, off the event loop: a thread does them, and what waits for one goes on when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waypost.metering.tokens import TokenCounter
from waypost.telemetry.events import report_bug

AT_ONCE_BYTES = 4_096  # of text: a tenth of a millisecond


class Counting:
    """One per process."""

    def __init__(self) -> None:
        self.counter = TokenCounter()

    def run(self, count: Callable[[TokenCounter], int], then: Callable[[int | None], None], *, text_bytes: int) -> None:
        """`then` gets the count: at once for a short text, else a moment later; None when it cannot be had."""
        if text_bytes <= AT_ONCE_BYTES and self.counter.is_loaded:
            then(_counted(count, self.counter))
            return
        counted = asyncio.get_running_loop().run_in_executor(None, count, self.counter)
        counted.add_done_callback(lambda done: then(_result(done)))


def _counted(count: Callable[[TokenCounter], int], counter: TokenCounter) -> int | None:
    try:
        return count(counter)
    except Exception as bug:  # noqa: BLE001  an edge: what waits for the count must go on, as it does after a thread
        report_bug(bug)
        return None


def _result(done: asyncio.Future[int]) -> int | None:
    if done.cancelled():
        return None
    error = done.exception()
    if error is not None:
        report_bug(error)
        return None
    return done.result()
