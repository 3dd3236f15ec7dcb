"""Connections to the database, and its schema brought to the newest revision."""

from __future__ import annotations

from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
MAJOR_MIN = 15
# Any constant will do, as long as everybody who migrates this product's database uses the same one.
_MIGRATION_LOCK = 0x77617970_6F7374


class DatabaseUnfit(Exception):
    """The database cannot be used as it is. The message says why and what to do."""


def migrate(conninfo: str) -> None:
    """Bring the schema to the newest revision. Several processes may do so at once. Raises DatabaseUnfit, and
    psycopg.OperationalError when the server does not answer."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if connection.info.server_version // 10000 < MAJOR_MIN:
            raise DatabaseUnfit(
                f"The database is PostgreSQL {connection.info.server_version // 10000}; {MAJOR_MIN} or later is needed."
            )
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=sqlalchemy.NullPool
        )
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["engine"] = engine
        command.upgrade(config, "head")
