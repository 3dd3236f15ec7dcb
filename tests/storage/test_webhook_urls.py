"""URLs of before they were sealed are found by an index that holds nothing else, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from psycopg import AsyncConnection

from tests.storage.books import open_books
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.webhook_urls import seal_plain_urls

COUNT = 1_203  # more than two batches

DELIVERIES = """
INSERT INTO webhook_delivery (id, org_id, url, lane, event_id, event, sequence, state, due_at, expires_at)
SELECT gen_random_uuid(), %(org_id)s, 'https://hooks.example.com/' || n, gen_random_uuid(), gen_random_uuid(),
       'execution.started', 1, 'PENDING', now(), now()
  FROM generate_series(1, %(count)s) AS n
"""


async def test_all_batches_are_sealed_each_url_once_and_then_nothing(database: str) -> None:
    async with open_books(database) as books:
        org_id, settling = await books.org(), Pool(database, Role.SETTLE, size=1)
        async with books.app.system() as connection:
            await connection.execute(DELIVERIES, {"org_id": UUID(bytes=org_id), "count": COUNT})
        asked: list[tuple[bytes, str]] = []

        def seal(owner: bytes, url: str) -> str:
            asked.append((owner, url))
            return f"sealed:{url.rpartition('/')[2]}"

        assert await seal_plain_urls(books.app, settling, seal) == COUNT
        assert await seal_plain_urls(books.app, settling, seal) == 0
        await settling.close()

        assert len(asked) == len(set(asked)) == COUNT
        assert {owner for owner, _ in asked} == {org_id}
        async with books.app.system() as connection:
            rows = await (await connection.execute("SELECT url FROM webhook_delivery")).fetchall()
        assert {url for (url,) in rows} == {f"sealed:{n}" for n in range(1, COUNT + 1)}


class Watched(Pool):
    """Reads no table from end to end where there is another way."""

    @asynccontextmanager
    async def system(self, *, is_view: bool = False, is_patient: bool = False) -> AsyncIterator[AsyncConnection]:
        async with super().system(is_view=is_view, is_patient=is_patient) as connection:
            await connection.execute("SET LOCAL enable_seqscan = off")
            yield connection


async def test_what_is_plain_is_looked_for_in_the_indexes_of_what_is_plain(database: str) -> None:
    app, settling = Watched(database, Role.APP, size=1), Watched(database, Role.SETTLE, size=1)
    assert await seal_plain_urls(app, settling, lambda _, url: url) == 0
    for pool in (app, settling):
        await pool.close()  # so that the server counts what they did
    query = "SELECT indexrelname FROM pg_stat_user_indexes WHERE indexrelname LIKE '%_plain_%' AND idx_scan > 0"
    used: list[tuple[str]] = []
    async with open_books(database) as books, asyncio.timeout(20):
        while len(used) < 3:
            async with books.app.system() as connection:
                used = await (await connection.execute(query)).fetchall()
