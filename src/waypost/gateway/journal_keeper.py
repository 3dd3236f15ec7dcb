"""The thread beside a journal: what was written is synced soon, whatever the event loop does meanwhile.

A thread of its own, since handing each sync to a pool of threads, a hundred times a second, took 1.6 % of the loop's
time; of this it takes 0.3 %.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sized


class Keeper:
    """Calls `maintain` in its thread, and afterwards `then` in the loop's where somebody is among the `waiting`.

    `maintain` says whether it has done all; if not it is called again after `retry_s` at the latest."""

    def __init__(
        self,
        maintain: Callable[[], bool],
        waiting: Sized,
        then: Callable[[], None],
        *,
        pause_s: float,
        retry_s: float,
    ) -> None:
        self._maintain = maintain
        self._waiting = waiting
        self._then = then
        self._pause_s = pause_s
        self._retry_s = retry_s
        self._has_work = threading.Event()
        self._has_work.set()
        self._is_hurried = threading.Event()
        self._is_over = False

    def wake(self) -> None:
        """There is something to do, within `pause_s`."""
        self._has_work.set()

    def hurry(self) -> None:
        """There is something to do now."""
        self._is_hurried.set()
        self._has_work.set()

    def end(self) -> None:
        """`run` returns."""
        self._is_over = True
        self.hurry()

    async def run(self) -> None:
        """Until cancelled or ended. Raises what `maintain` raised."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        is_left = threading.Event()
        threading.Thread(target=self._work, args=(loop, ended, is_left), name="journal", daemon=True).start()
        try:
            await ended
        finally:
            is_left.set()
            self.hurry()

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None], is_left: threading.Event) -> None:
        error: BaseException | None = None
        has_done_all = False
        while not self._is_over and error is None:
            self._has_work.wait(None if has_done_all else self._retry_s)
            self._is_hurried.wait(self._pause_s)
            # Before the work: whatever comes during it is for the next round.
            self._is_hurried.clear()
            self._has_work.clear()
            if is_left.is_set():
                return
            try:
                has_done_all = self._maintain()
            except BaseException as caught:  # noqa: BLE001  an edge: `run` raises it in the loop's thread
                error = caught
            else:
                if self._waiting:
                    _tell(loop, self._then)
        _tell(loop, _resolve, ended, error)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    """From another thread, unless the loop has ended meanwhile."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def _resolve(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
