"""Who waits for an execution is told when it takes a step: one connection listens for all of them. News may be lost,
as when the connection breaks; whoever waits looks again after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from waypost.storage.asynchronous_executions import CHANNEL
from waypost.storage.pool import connect
from waypost.storage.roles import Role

_RETRY_S = 1.0  # to listen again, after the connection broke


class Steps:
    """What one waiter has heard: `version` is the row's after the newest step, 0 = nobody knows."""

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until there was a step since the last wait, or there may have been one."""
        await self._event.wait()
        self._event.clear()

    def heard(self, version: int) -> None:
        self.version = version
        self._event.set()


class ExecutionNews:
    """For one event loop. Nobody is told anything before `run` does."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._waiting: dict[str, set[Steps]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                connection = await connect(self._conninfo, Role.APP)
                try:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._tell_all()  # what happened while nobody listened
                    async for notice in connection.notifies():
                        key, _, version = notice.payload.partition(" ")
                        for steps in self._waiting.get(key, ()):
                            steps.heard(int(version))
                finally:
                    await connection.close()
            except psycopg.OperationalError:
                await asyncio.sleep(_RETRY_S)

    @contextmanager
    def of(self, execution_id: bytes) -> Iterator[Steps]:
        """The steps that the execution takes from now on."""
        key, steps = execution_id.hex(), Steps()
        self._waiting.setdefault(key, set()).add(steps)
        try:
            yield steps
        finally:
            waiting = self._waiting[key]
            waiting.discard(steps)
            if not waiting:
                del self._waiting[key]

    def _tell_all(self) -> None:
        for waiting in self._waiting.values():
            for steps in waiting:
                steps.heard(0)
