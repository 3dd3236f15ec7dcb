"""One connection that only listens for announcements (LISTEN/NOTIFY). They may be lost: whoever waits polls as well."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import AsyncConnection

from waypost.storage.pool import connect
from waypost.storage.roles import Role


class Announcements:
    """For one event loop, and one waiter at a time."""

    def __init__(self, conninfo: str, role: Role, channel: str) -> None:
        self._conninfo = conninfo
        self._role = role
        self._channel = channel
        self._listener: AsyncConnection | None = None

    async def wait(self, timeout_s: float) -> list[str]:
        """What was announced, as soon as something is; nothing after the time. Without a database it only waits."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            if self._listener is None:
                async with asyncio.timeout_at(deadline):
                    self._listener = await self._listen()
            heard = self._listener.notifies(timeout=max(0.0, deadline - loop.time()), stop_after=1)
            return [each.payload async for each in heard]
        except TimeoutError:
            return []
        except psycopg.OperationalError:
            await self.close()
            await asyncio.sleep(deadline - loop.time())
            return []

    async def close(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()

    async def _listen(self) -> AsyncConnection:
        connection = await connect(self._conninfo, self._role)
        try:
            await connection.execute(f"LISTEN {self._channel}")
        except BaseException:
            await connection.close()
            raise
        return connection
