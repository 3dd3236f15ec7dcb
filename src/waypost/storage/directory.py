"""Keys and the catalogue, as a gateway follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from waypost.policy.catalogue import Catalogue
from waypost.storage.api_keys import api_keys_since
from waypost.storage.catalogues import catalogue_since
from waypost.storage.changes import CHANNEL
from waypost.storage.pool import Pool, connect
from waypost.storage.roles import Role
from waypost.tenancy.api_key import ApiKey


class PostgresDirectory:
    """`gateway.ports.Directory` on PostgreSQL: two connections, one of which only listens."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._pool = Pool(conninfo, Role.APP, size=1)
        self._listener: AsyncConnection | None = None

    async def api_keys_since(self, version: int) -> tuple[Sequence[ApiKey], int]:
        return await api_keys_since(self._pool, version)

    async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
        return await catalogue_since(self._pool, version)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Without a database it only waits, since the caller polls anyway."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            if self._listener is None:
                async with asyncio.timeout_at(deadline):
                    self._listener = await self._listen()
            async for _ in self._listener.notifies(timeout=max(0.0, deadline - loop.time()), stop_after=1):
                pass
        except TimeoutError:
            return
        except psycopg.OperationalError:
            await self._stop_listening()
            await asyncio.sleep(deadline - loop.time())

    async def close_connections(self) -> None:
        await self._stop_listening()
        await self._pool.close()

    async def _listen(self) -> AsyncConnection:
        connection = await connect(self._conninfo, Role.APP)
        await connection.execute(f"LISTEN {CHANNEL}")
        return connection

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()
