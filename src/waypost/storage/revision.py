"""How new a database's schema and the description of its columns are: a look that spares most starts the migration.

The schema's revision stands in Alembic's table. That table's comment says which words the columns were described with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg

from waypost.privacy import data_map

MIGRATIONS = Path(__file__).parent / "migrations"
_REVISION = "SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version"


def newest() -> str:
    """The last revision of this code."""
    return max(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def of(connection: psycopg.Connection) -> tuple[str, str | None] | None:
    """The schema's revision and what its columns were described with; None when the owner's role has none yet."""
    try:
        return connection.execute(_REVISION).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None


def is_current(connection: psycopg.Connection) -> bool:
    """Whether neither the schema nor the description of its columns has to be changed."""
    return of(connection) == (newest(), _description())


def note_description(connection: psycopg.Connection) -> None:
    """Remember that the columns have just been described."""
    connection.execute(f"COMMENT ON TABLE alembic_version IS '{_description()}'")


def _description() -> str:
    """A digest of the sources that the columns' comments are made from: it changes at least when one of those does."""
    places = [
        *Path(__file__).parent.glob("*tables.py"),
        Path(__file__).with_name("columns.py"),
        Path(data_map.__file__),
    ]
    digest = hashlib.sha256()
    for place in sorted(places):
        digest.update(place.read_bytes())
    return f"described by {digest.hexdigest()}"
