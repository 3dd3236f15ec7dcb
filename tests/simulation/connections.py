"""How schedules reach the real books: as the product's roles do, and as the owner, who looks at all of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
from psycopg import AsyncConnection

from waypost.storage.ledger import PostgresLedger
from waypost.storage.pool import Pool, connect
from waypost.storage.roles import Role


class Connections(msgspec.Struct, frozen=True):
    ledger: PostgresLedger
    app: Pool
    owner: AsyncConnection  # in autocommit, and sees every organisation


@contextlib.asynccontextmanager
async def connected(conninfo: str) -> AsyncIterator[Connections]:
    ledger, app, owner = PostgresLedger(conninfo), Pool(conninfo, Role.APP), await connect(conninfo, Role.OWNER)
    try:
        await owner.execute("SELECT set_config('waypost.scope', 'system', false)")
        yield Connections(ledger, app, owner)
    finally:
        await ledger.close_connections()
        await app.close()
        await owner.close()
