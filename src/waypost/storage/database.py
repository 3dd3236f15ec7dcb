"""The schema: brought to the newest revision when it is not there, and read back from the database itself."""

from __future__ import annotations

import psycopg

from waypost.storage import revision
from waypost.storage.roles import Role, ensure_roles

MAJOR_MIN = 15
# Any number will do, as long as everybody who migrates this database takes the same one.
_MIGRATION_LOCK = 0x7761_7970_6F73_7400


class DatabaseUnfit(Exception):
    """The database cannot be used as it is. The message says why and what to do."""


def migrate(conninfo: str) -> None:
    """Bring the schema to the newest revision; several processes may do so at once.

    Raises DatabaseUnfit or RolesMissing, and psycopg.OperationalError when the server does not answer."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        major = connection.info.server_version // 10_000
        if major < MAJOR_MIN:
            raise DatabaseUnfit(f"The database is PostgreSQL {major}; Waypost needs {MAJOR_MIN} or later.")
        # One connection for everything, so that the lock ends with the work, however it ends.
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        ensure_roles(connection)
        connection.execute(f"SET ROLE {Role.OWNER.value}")
        if revision.is_current(connection):
            return
        from waypost.storage.migration import describe_columns, upgrade  # noqa: PLC0415  Alembic takes half a second to import

        upgrade(connection)
        describe_columns(connection)
        revision.note_description(connection)


def live_columns(conninfo: str) -> list[tuple[str, str]]:
    """Every (table, column) that exists outside PostgreSQL's own schemas; partitions count as their table."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(
            """
            SELECT columns.table_name::text, columns.column_name::text
              FROM information_schema.columns AS columns
              JOIN pg_class ON pg_class.oid = format('%I.%I', columns.table_schema, columns.table_name)::regclass
             WHERE columns.table_schema NOT IN ('pg_catalog', 'information_schema') AND NOT pg_class.relispartition
            """
        ).fetchall()
