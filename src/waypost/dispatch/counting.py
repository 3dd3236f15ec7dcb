"""Our own token counts, off the event loop: a thread does them, and what waits for one goes on when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from waypost.metering.tokens import TokenCounter
from waypost.telemetry.events import report_bug

AT_ONCE_BYTES = 4_096  # of text: a tenth of a millisecond
BEFORE_CALLS_MAX = 4  # counts before a call that wait or run: each may be of 16 MiB, a second's work that nobody pays

Count = TypeVar("Count")


class Counting:
    """One per process."""

    def __init__(self) -> None:
        self.counter = TokenCounter()
        # Threads of its own, so that counts of long texts keep nothing else waiting; and those that somebody may cause
        # who pays nothing for them keep no bill waiting.
        self._after = ThreadPoolExecutor(2, thread_name_prefix="counting")
        self._before = ThreadPoolExecutor(1, thread_name_prefix="counting-before")
        self._calls_before = 0

    def run(self, count: Callable[[TokenCounter], int], then: Callable[[int | None], None], *, text_bytes: int) -> None:
        """`then` gets the count: at once for a short text, else a moment later; None when it cannot be had."""
        if text_bytes <= AT_ONCE_BYTES and self.counter.is_loaded:
            then(_counted(count, self.counter))
            return
        counted = asyncio.get_running_loop().run_in_executor(self._after, count, self.counter)
        counted.add_done_callback(lambda done: then(_result(done)))

    async def before_call(self, count: Callable[[TokenCounter], Count]) -> Count | None:
        """A count that a call waits for before it is admitted; None when too many wait for theirs."""
        if self._calls_before >= BEFORE_CALLS_MAX:
            return None
        self._calls_before += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._before, count, self.counter)
        finally:
            self._calls_before -= 1


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
