"""Tasks that run as long as their process does: the end of one of them is told, never overlooked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from waypost.telemetry.events import report_bug


class Background:
    """`on_died` is called when a task ends that nobody has ended; its error, if it had one, is reported before."""

    def __init__(self, on_died: Callable[[], None]) -> None:
        self._on_died = on_died
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[None, None, None], *, may_end: bool = False) -> None:
        """`may_end`: it has something to bring to an end, and only its error is a death."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended if may_end else self._died)
        self._tasks.append(task)

    async def end(self) -> None:
        """Cancel all of them, and wait for it."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.remove_done_callback(self._died)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._died(task)

    def _died(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            report_bug(error)
        self._on_died()
