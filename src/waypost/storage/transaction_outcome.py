"""Whether a transaction of ours was committed, asked after its answer was lost.

The server remembers how its transactions ended: so nobody has to conclude it from rows, which others may have written.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection

from waypost.ledger.record import LedgerUnavailable
from waypost.storage.pool import Pool

NUMBER = "SELECT pg_current_xact_id()::text"
STATUS = "SELECT pg_xact_status(%(number)s::xid8)"


async def number_of(connection: AsyncConnection) -> str:
    """Of the connection's transaction, for `was_committed`."""
    row = await (await connection.execute(NUMBER)).fetchone()
    assert row is not None
    return str(row[0])


async def was_committed(pool: Pool, number: str) -> bool:
    """Raises LedgerUnavailable while that cannot be told: it is still under way, the server does not answer, or it is
    one that does not know of it."""
    try:
        async with pool.connection() as connection:
            row = await (await connection.execute(STATUS, {"number": number})).fetchone()
    except psycopg.DataError:  # in the future: the server that had it is not the one that writes now
        raise LedgerUnavailable from None
    if row is None or row[0] not in ("committed", "aborted"):
        raise LedgerUnavailable
    return bool(row[0] == "committed")
