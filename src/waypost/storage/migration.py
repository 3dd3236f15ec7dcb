"""What a schema that is not the newest goes through: revisions by Alembic, then the description of every column.

Of all that serves only this module and the tables need SQLAlchemy, so it is imported when there is something to do.
"""

from __future__ import annotations

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from psycopg import sql

from waypost.privacy.data_map import sentence
from waypost.storage.revision import MIGRATIONS
from waypost.storage.tables import data_map


def upgrade(connection: psycopg.Connection, to: str = "head") -> None:
    """Run the revisions that are missing up to that one, as the connection's role: all of them or, on error, none."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    # All of it in one transaction: what is killed half-way leaves nothing, and the next start begins anew.
    connection.autocommit = False
    try:
        command.upgrade(config, to)
    finally:
        connection.rollback()
        connection.autocommit = True


def describe_columns(connection: psycopg.Connection) -> None:
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
