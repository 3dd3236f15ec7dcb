"""The schema: brought to the newest revision, described in the database itself, and read back from it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg import sql

from waypost.privacy.data_map import sentence
from waypost.storage.roles import Role, ensure_roles
from waypost.storage.tables import data_map

MAJOR_MIN = 15
_MIGRATIONS = Path(__file__).parent / "migrations"
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
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        ensure_roles(connection)
        connection.execute(f"SET ROLE {Role.OWNER.value}")
        # One connection for everything, so that the lock ends with the work, however it ends.
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
        )
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["engine"] = engine
        # All of it in one transaction: what is killed half-way leaves nothing, and the next start begins anew.
        connection.autocommit = False
        try:
            command.upgrade(config, "head")
        finally:
            connection.rollback()
            connection.autocommit = True
        _describe_columns(connection)


def _describe_columns(connection: psycopg.Connection) -> None:
    """Let each column's comment say what the data map says of it; only changed ones are written."""
    live = connection.execute(
        """
        SELECT c.relname, a.attname, col_description(c.oid, a.attnum)
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
        """
    ).fetchall()
    comments = {(table, column): comment for table, column, comment in live}
    for column in data_map().columns:
        assert column.annotation is not None, column.place
        wanted = sentence(column.annotation)
        if comments.get((column.table, column.name)) != wanted:
            statement = sql.SQL("COMMENT ON COLUMN {}.{} IS {}")
            place = sql.Identifier(column.table), sql.Identifier(column.name)
            connection.execute(statement.format(*place, sql.Literal(wanted)))


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
