"""A PostgreSQL of its own with one migrated database, for the proofs that run by command."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import conninfo as conninfos

from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgres


@contextlib.contextmanager
def own_database() -> Iterator[tuple[str, str]]:
    """Conninfo, and a directory to work in; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="waypost-proof-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        try:
            maintenance = server.start()
            with psycopg.connect(maintenance, autocommit=True) as connection:
                connection.execute("CREATE DATABASE proof")
            database = conninfos.make_conninfo(maintenance, dbname="proof")
            migrate(database)
            yield database, directory
        finally:
            server.stop()
