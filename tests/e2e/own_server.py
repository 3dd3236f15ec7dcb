"""A PostgreSQL of its own with one migrated database, for the proofs that run by command."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import conninfo as conninfos

from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgres

# Of a server that loses no power while it is needed: a commit waits for no disk.
UNLASTING = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_FREE_BYTES_MIN = 2 << 30


@contextlib.contextmanager
def own_database(*, is_lasting: bool = True) -> Iterator[tuple[str, str]]:
    """Conninfo, and a directory to work in; both are gone afterwards. What is not lasting is in memory where a machine
    has some to spare, and waits for no disk: for proofs in which PostgreSQL itself is not lost."""
    place = None if is_lasting else quick_place()
    with tempfile.TemporaryDirectory(prefix="waypost-proof-", dir=place) as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", settings=None if is_lasting else UNLASTING)
        try:
            maintenance = server.start()
            with psycopg.connect(maintenance, autocommit=True) as connection:
                connection.execute("CREATE DATABASE proof")
            database = conninfos.make_conninfo(maintenance, dbname="proof")
            migrate(database)
            yield database, directory
        finally:
            server.stop()


def quick_place() -> Path:
    """Memory, where a machine has some to spare: a database is copied there in a tenth of the time."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _FREE_BYTES_MIN:
        return memory
    return Path(tempfile.gettempdir())
