"""What `waypost doctor` asks a database."""

from __future__ import annotations

from datetime import datetime

import msgspec

from waypost.storage.pool import Pool

ASK = "SELECT current_setting('server_version'), clock_timestamp(), (SELECT version_num FROM alembic_version)"


class Health(msgspec.Struct, frozen=True):
    server_version: str
    now: datetime  # the server's clock
    revision: str  # of the schema


async def health(pool: Pool) -> Health:
    """Ask once. Raises LedgerUnavailable when nobody answers."""
    async with pool.connection() as connection:
        row = await (await connection.execute(ASK)).fetchone()
    assert row is not None
    return Health(*row)
