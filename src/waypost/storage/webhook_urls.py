"""URLs in rows of before they were sealed: found by an index that holds nothing else, and sealed in place."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from waypost.storage.pool import Pool

_BATCH = 500  # rows of a transaction

# (table, its column, whose the URL is)
_ENDPOINTS = ("webhook_endpoint", "url", "id")
_DELIVERIES = ("webhook_delivery", "url", "org_id")
_EXECUTIONS = ("asynchronous_execution", "webhook_url", "org_id")


def _plain(table: str, column: str, owner: str) -> str:
    return f"""
    SELECT id, {owner}, {column} FROM {table} WHERE {column} NOT LIKE 'sealed:%%' AND id > %(after)s
     ORDER BY id LIMIT {_BATCH} FOR UPDATE
    """  # noqa: S608 - put together from the names above, here and below


def _replace(table: str, column: str) -> str:
    return f"""
    UPDATE {table} SET {column} = told.url
      FROM unnest(%(ids)s::uuid[], %(urls)s::text[]) AS told (id, url) WHERE {table}.id = told.id
    """  # noqa: S608


async def seal_plain_urls(pool: Pool, books: Pool, seal: Callable[[bytes, str], str]) -> int:
    """Seal what is not, by `seal(owner, url)`; how many. It may be stopped at any moment and begun again, and others go
    on meanwhile: executions come first, as deliveries are made from them. `pool` is the app's, `books` the settling
    role's, which alone changes executions."""
    count = await _seal(books, _EXECUTIONS, seal)
    for table in (_ENDPOINTS, _DELIVERIES):
        count += await _seal(pool, table, seal)
    return count


async def _seal(pool: Pool, table: tuple[str, str, str], seal: Callable[[bytes, str], str]) -> int:
    count, after = 0, UUID(int=0)
    while True:
        async with pool.system() as connection:
            rows = await (await connection.execute(_plain(*table), {"after": after})).fetchall()
            sealed = [seal(owner.bytes, url) for _, owner, url in rows]
            await connection.execute(_replace(*table[:2]), {"ids": [row[0] for row in rows], "urls": sealed})
        count += len(rows)
        if len(rows) < _BATCH:
            return count
        after = rows[-1][0]  # what was sealed still stands in the index for a while: it is not looked at again
