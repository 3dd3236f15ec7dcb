"""Keys and the catalogue, as a gateway follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import View
from waypost.storage.announcements import Announcements
from waypost.storage.api_key_digests import move_digests
from waypost.storage.api_keys import api_keys_since
from waypost.storage.catalogues import EarlierViews, catalogue_since
from waypost.storage.changes import CHANNEL
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.tenancy.api_key import ApiKey


class PostgresDirectory:
    """`gateway.ports.Directory` on PostgreSQL: two connections, one of which only listens."""

    def __init__(self, conninfo: str) -> None:
        self._pool = Pool(conninfo, Role.APP, size=1)
        self._earlier = EarlierViews(self._pool)
        self._changes = Announcements(conninfo, Role.APP, CHANNEL)

    async def api_keys_since(self, version: int) -> tuple[Sequence[ApiKey], int]:
        return await api_keys_since(self._pool, version)

    async def move_digests(self, moved: Mapping[bytes, bytes], pepper_version: int) -> None:
        await move_digests(self._pool, moved, pepper_version)

    async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
        return await catalogue_since(self._pool, version)

    async def view_at(self, version: int) -> View | None:
        return await self._earlier.at(version)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Without a database it only waits, since the caller polls anyway."""
        await self._changes.wait(timeout_s)

    async def close_connections(self) -> None:
        await self._changes.close()
        await self._pool.close()
