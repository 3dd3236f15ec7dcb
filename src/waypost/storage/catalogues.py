"""Versions of the catalogue: applied, followed, listed, rolled back to."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime

import msgspec
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from waypost.policy.catalogue import Catalogue
from waypost.policy.document import catalogue_document, read_catalogue, with_creation_times
from waypost.policy.snapshot import View, build_view
from waypost.storage.changes import Followed, take_version
from waypost.storage.pool import Pool

INSERT = """
INSERT INTO catalogue_version (version, content_hash, document, source)
VALUES (%(version)s, %(content_hash)s, %(document)s, %(source)s)
"""
# A demo on the same database does not hold as a rollback does: who starts with a file wants the file.
LAST_OF_SOURCE = """
SELECT content_hash
  FROM catalogue_version
 WHERE source = %(source)s
   AND version > (SELECT coalesce(max(version), 0) FROM catalogue_version WHERE source LIKE 'demo at %%')
 ORDER BY version DESC LIMIT 1
"""
NEWEST = "SELECT version, document FROM catalogue_version ORDER BY version DESC LIMIT 1"
ONE = "SELECT content_hash, document FROM catalogue_version WHERE version = %(version)s"
HISTORY = (
    "SELECT version, source, applied_at, content_hash FROM catalogue_version ORDER BY version DESC LIMIT %(count)s"
)


EARLIER_VIEWS_MAX = 32  # kept at hand, 400 KiB each with 200 models: more are hardly in use at the same time


class CatalogueVersion(msgspec.Struct, frozen=True):
    version: int
    source: str  # "file", "command", or "rollback to N"
    applied_at: datetime
    content_hash: bytes


async def apply_catalogue(pool: Pool, catalogue: Catalogue, *, source: str, now_s: int) -> int | None:
    """Make a catalogue the newest version, unless its content is what was last applied from this source; its version.

    So a file that did not change is not applied again, unless a demo came between, and a rollback holds until it does.
    `now_s` (Unix) becomes the creation time of models that have none. Raises ValueError when a credential stands in it.
    `pool` is the app's."""
    document = catalogue_document(catalogue)
    content_hash = hashlib.sha256(msgspec.json.encode(document, order="deterministic")).digest()
    async with pool.system() as connection:
        version = await take_version(connection, Followed.CATALOGUES)
        last = await (await connection.execute(LAST_OF_SOURCE, {"source": source})).fetchone()
        if last == (content_hash,):
            return None
        previous = await _newest(connection)
        dated = with_creation_times(catalogue, previous[0] if previous else Catalogue(), now_s)
        await _insert(connection, version, content_hash, catalogue_document(dated), source)
    return version


async def roll_back_catalogue(pool: Pool, version: int) -> int:
    """Make an earlier version's content the newest version; its number. Raises LookupError."""
    async with pool.system() as connection:
        new_version = await take_version(connection, Followed.CATALOGUES)
        row = await (await connection.execute(ONE, {"version": version})).fetchone()
        if row is None:
            raise LookupError(f"there is no catalogue version {version}")
        await _insert(connection, new_version, row[0], row[1], f"rollback to {version}")
    return new_version


async def newest_catalogue(pool: Pool) -> tuple[Catalogue, int] | None:
    async with pool.connection() as connection:
        return await _newest(connection)


async def catalogue_of(pool: Pool, version: int) -> Catalogue:
    """That version. Raises LookupError when there is none."""
    async with pool.connection() as connection:
        row = await (await connection.execute(ONE, {"version": version})).fetchone()
    if row is None:
        raise LookupError(f"there is no catalogue version {version}")
    return read_catalogue(row[1])


async def catalogue_history(pool: Pool, *, count: int = 100) -> list[CatalogueVersion]:
    """The newest first."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(HISTORY, {"count": count})).fetchall()
    return [CatalogueVersion(*row) for row in rows]


async def catalogue_since(pool: Pool, version: int) -> tuple[Catalogue, int] | None:
    """The newest catalogue when it is newer than `version`."""
    newest_version = "SELECT coalesce(max(version), 0) FROM catalogue_version"
    async with pool.connection() as connection:
        row = await (await connection.execute(newest_version)).fetchone()
        return await _newest(connection) if row is not None and row[0] > version else None


class EarlierViews:
    """Views of versions that are no longer in force, for what was accepted under them. One per process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._views: dict[int, View] = {}  # by their last use
        self._loading: dict[int, asyncio.Future[View | None]] = {}

    async def at(self, version: int) -> View | None:
        """That version; None when there is none. Raises LedgerUnavailable.

        It is loaded once for all who ask meanwhile: after a change a whole backlog does, and a large catalogue takes
        the loop some milliseconds."""
        view = self._views.pop(version, None)
        if view is not None:
            self._views[version] = view
            return view
        loading = self._loading.get(version)
        if loading is None:
            loading = self._loading[version] = asyncio.ensure_future(self._load(version))
            loading.add_done_callback(lambda done: self._loaded(version, done))
        return await asyncio.shield(loading)  # who gives up waiting takes it from nobody

    async def _load(self, version: int) -> View | None:
        try:
            return build_view(await catalogue_of(self._pool, version), version)
        except LookupError:
            return None

    def _loaded(self, version: int, done: asyncio.Future[View | None]) -> None:
        del self._loading[version]
        view = None if done.cancelled() or done.exception() is not None else done.result()
        if view is not None:
            while len(self._views) >= EARLIER_VIEWS_MAX:
                del self._views[next(iter(self._views))]
            self._views[version] = view


async def _newest(connection: AsyncConnection) -> tuple[Catalogue, int] | None:
    row = await (await connection.execute(NEWEST)).fetchone()
    return None if row is None else (read_catalogue(row[1]), row[0])


async def _insert(
    connection: AsyncConnection, version: int, content_hash: bytes, document: dict[str, object], source: str
) -> None:
    parameters = {"version": version, "content_hash": content_hash, "document": Jsonb(document), "source": source}
    await connection.execute(INSERT, parameters)
