"""What is asked of a database before it is used: is its schema the newest, does it answer, what time is it there."""

from __future__ import annotations

from datetime import datetime

import msgspec
import psycopg

from waypost.storage import revision
from waypost.storage.pool import Pool
from waypost.storage.roles import Role

HEALTH = "SELECT current_setting('server_version'), clock_timestamp()"


# Who receives the log is seen by everybody, what it has of it is not.
REPLICATION = """
SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit'),
       (SELECT count(*) FROM pg_stat_replication)
"""


class Replication(msgspec.Struct, frozen=True):
    standby_names: str
    commit: str
    receivers: int  # standbys that are connected; a copy that is being made counts too


class Health(msgspec.Struct, frozen=True):
    server_version: str
    now: datetime  # the server's clock


def is_migrated(conninfo: str) -> bool:
    """Whether the schema is at the newest revision: a look that spares a short command all that migrating takes.

    Raises psycopg.OperationalError when the server does not answer."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        try:
            connection.execute(f"SET ROLE {Role.OWNER.value}")
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege):
            return False  # no such role, or not for this log-in: migrating makes it, or says what an administrator runs
        found = revision.of(connection)
        return found is not None and found[0] == revision.newest()


async def replication(pool: Pool) -> Replication:
    """What commits of this server wait for. Raises LedgerUnavailable."""
    async with pool.connection() as connection:
        row = await (await connection.execute(REPLICATION)).fetchone()
    assert row is not None
    return Replication(*row)


async def health(pool: Pool) -> Health:
    """Raises LedgerUnavailable when nobody answers."""
    async with pool.connection() as connection:
        row = await (await connection.execute(HEALTH)).fetchone()
    assert row is not None
    return Health(*row)
