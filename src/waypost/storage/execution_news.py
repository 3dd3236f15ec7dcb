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


class ExecutionNews:
    """For one event loop. Nobody is told anything before `run` does."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                connection = await connect(self._conninfo, Role.APP)
                try:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._tell_all()  # what happened while nobody listened
                    async for notice in connection.notifies():
                        for event in self._waiting.get(notice.payload, ()):
                            event.set()
                finally:
                    await connection.close()
            except psycopg.OperationalError:
                await asyncio.sleep(_RETRY_S)

    @contextmanager
    def of(self, execution_id: bytes) -> Iterator[asyncio.Event]:
        """Set with each step that the execution takes from now on."""
        key, event = execution_id.hex(), asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[key]
            waiting.discard(event)
            if not waiting:
                del self._waiting[key]

    def _tell_all(self) -> None:
        for events in self._waiting.values():
            for event in events:
                event.set()
