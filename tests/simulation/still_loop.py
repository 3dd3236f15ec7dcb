"""An event loop for schedules, on which one thing happens at a time and nothing is waited for.

A schedule decides what happens next, so it has to know when everybody has done what they can: the loop tells. And while
one call is at the database nobody else has anything to do, so its answer is awaited in place, without the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from psycopg import AsyncConnection, waiting
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from waypost.storage import pool

Answer = TypeVar("Answer")
_TURNS_MAX = 10_000  # any chain of callbacks here is shorter than twenty


class StillLoop(asyncio.SelectorEventLoop):
    @property
    def is_still(self) -> bool:
        """Whether nobody but who asks can go on."""
        return not self._ready  # type: ignore[attr-defined]


async def let_all_run() -> None:
    """Until everybody waits, for the schedule and for nothing else."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StillLoop)
    for _ in range(_TURNS_MAX):
        if loop.is_still:
            return
        await asyncio.sleep(0)
    raise AssertionError("it goes on and on")


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What `work` returns, on a loop of its own; connections that are made meanwhile wait in place."""
    with _waiting_in_place(), asyncio.Runner(loop_factory=StillLoop) as runner:
        return runner.run(work)


class _StandingConnection(AsyncConnection[TupleRow]):
    async def wait(self, gen: PQGen[Answer], interval: float = 0.1, timeout: float | None = None) -> Answer:  # noqa: ASYNC109
        return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=timeout)


@contextlib.contextmanager
def _waiting_in_place() -> Iterator[None]:
    before = pool.AsyncConnection  # type: ignore[attr-defined]
    pool.AsyncConnection = _StandingConnection  # type: ignore[attr-defined, assignment]
    try:
        yield
    finally:
        pool.AsyncConnection = before  # type: ignore[attr-defined]
