"""Looking for what must not be there: markers in every form that bytes take on their way to a disk.

All markers of a run begin with the same TAG_CHARACTERS random characters, so that one search finds any of them. Nothing
on a payload's way compresses; what PostgreSQL compresses by itself (TOAST) is read as text instead.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import psycopg
from psycopg import sql

MARKER_CHARACTERS = 32
TAG_CHARACTERS = 16
_ALPHABET = string.ascii_letters + string.digits


class Markers:
    """Markers by name, made when they are first asked for."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.tag = self._characters(TAG_CHARACTERS)
        self.made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self.made:
            self.made[name] = self.tag + self._characters(MARKER_CHARACTERS - TAG_CHARACTERS)
        return self.made[name]

    def _characters(self, count: int) -> str:
        return "".join(self._dice.choices(_ALPHABET, k=count))


def forms(text: str) -> dict[str, bytes]:
    """The bytes that betray an ASCII text, by the name of the form."""
    data = text.encode()
    found = {
        "plain": data,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "URL": "".join(f"%{byte:02x}" for byte in data).encode(),
        "URL, upper case": "".join(f"%{byte:02X}" for byte in data).encode(),
        "JSON escapes": "".join(f"\\u{byte:04x}" for byte in data).encode(),
        "UTF-16": b"\0".join(bytes([byte]) for byte in data),  # of either byte order
    }
    for offset in range(3):
        # What stands before and after decides on the first and last characters: they are left out.
        whole = base64.b64encode(b"\0" * offset + data)
        kept = whole[(0, 2, 3)[offset] : len(whole) - (0, 3, 2)[(offset + len(data)) % 3]]
        found[f"base64 at {offset}"] = kept
        found[f"base64url at {offset}"] = kept.translate(bytes.maketrans(b"+/", b"-_"))
    return found


class Scanner:
    """Finds any of some texts, in any form."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._needles = {(text, form): needle for text in texts for form, needle in forms(text).items()}

    def hits(self, sink: str, data: bytes) -> list[str]:
        """Where and in which form; the text itself is not shown but for its beginning."""
        return [f"{sink}: {text[:4]}… ({form})" for (text, form), needle in self._needles.items() if needle in data]


Sink = dict[str, bytes]
"""Name of a place in a sink → its bytes."""


def files(directory: Path) -> Sink:
    """Every file below a directory, whole; also those that vanish or come meanwhile, as far as they can be read."""
    return dict(_read(path for path in directory.rglob("*") if path.is_file()))


def database_files(conninfo: str, since_wal: str) -> Sink:
    """Heap, indexes and TOAST of a database, what the cluster shares, the server's log, and WAL since a position."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute(
            "SELECT current_setting('data_directory'), oid, pg_walfile_name(%s),"
            " pg_walfile_name(pg_current_wal_insert_lsn()) FROM pg_database WHERE datname = current_database()",
            (since_wal,),
        ).fetchone()
    assert row is not None
    cluster, oid, first_wal, last_wal = row
    root = Path(cluster)
    others = [path for path in root.iterdir() if path.name not in ("base", "pg_wal") and path.is_dir()]
    wal = [path for path in (root / "pg_wal").iterdir() if first_wal <= path.name <= last_wal]
    found = {**files(root / "base" / str(oid)), **dict(_read(wal)), **dict(_read(root.parent.glob("*.log")))}
    for directory in others:
        found |= files(directory)
    return found


def wal_position(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return cast(str, row[0])


def database_dump(conninfo: str) -> Sink:
    """Every row of every table as text, by table."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        return {name: _table_text(connection, name) for (name,) in tables}


def _table_text(connection: psycopg.Connection[Any], table: str) -> bytes:
    query = sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))
    return "\n".join(row[0] for row in connection.execute(query)).encode()


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        try:
            # Journal and WAL are made of zeros long before they are written.
            yield str(path), path.name.encode() + b"\n" + path.read_bytes().rstrip(b"\0")
        except (FileNotFoundError, PermissionError):
            continue
