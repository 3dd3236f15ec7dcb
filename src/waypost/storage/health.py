"""What is asked of a database before it is used: is its schema the newest, does it answer, what time is it there."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import psycopg

from waypost.storage.pool import Pool
from waypost.storage.roles import Role

_REVISIONS = Path(__file__).parent / "migrations" / "versions"
REVISION = "SELECT version_num FROM alembic_version"
HEALTH = "SELECT current_setting('server_version'), clock_timestamp()"


class Health(msgspec.Struct, frozen=True):
    server_version: str
    now: datetime  # the server's clock


def is_migrated(conninfo: str) -> bool:
    """Whether the schema is at the newest revision: a look that spares a short command all that migrating takes.

    Raises psycopg.OperationalError when the server does not answer."""
    newest = max(path.stem.partition("_")[0] for path in _REVISIONS.glob("[0-9]*.py"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        try:
            connection.execute(f"SET ROLE {Role.OWNER.value}")
            return connection.execute(REVISION).fetchone() == (newest,)
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError):
                raise
            return False  # no such role, or no such table: nobody has migrated it yet


async def health(pool: Pool) -> Health:
    """Raises LedgerUnavailable when nobody answers."""
    async with pool.connection() as connection:
        row = await (await connection.execute(HEALTH)).fetchone()
    assert row is not None
    return Health(*row)
