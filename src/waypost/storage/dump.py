"""A database as a file and back, by PostgreSQL's own pg_dump and pg_restore.

Both run as the tables' owner in the system's scope, so a log-in that is only a member of our roles will do: row-level
security then lets every row through. What they are told travels in a file of their own, because a command line is
readable by every user of the machine.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import conninfo as conninfos

from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgresError, find_bin_dir
from waypost.storage.roles import Role, ensure_roles

_SERVICE = "waypost"
_SCOPE = "-c waypost.scope=system"
# Whatever ran before stays behind the restored deployment's nodes, however often it had started since the dump.
EPOCHS_AHEAD = 1_000_000

FENCE = "UPDATE node SET epoch = epoch + %(ahead)s, registered_at = now()"


class DumpFailed(Exception):
    """The database cannot be dumped or restored. The message says why and what to do."""


def dump_database(conninfo: str, file: Path) -> None:
    """Write everything to a file in pg_dump's own format. Raises DumpFailed."""
    _run(conninfo, "pg_dump", "--format=custom", "--no-password", "--enable-row-security", f"--file={file}")


def restore_database(conninfo: str, file: Path) -> None:
    """Fill an empty database from such a file, bring it to this version's schema, and fence what ran on it before.

    Raises DumpFailed, also when the database is not empty; DatabaseUnfit, RolesMissing."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchone()
        if row != (0,):
            raise DumpFailed("the database is not empty: restore into one that nothing was ever kept in")
        ensure_roles(connection)
    options = ("--no-owner", "--single-transaction", "--exit-on-error", "--no-password", "--enable-row-security")
    database = conninfos.conninfo_to_dict(conninfo).get("dbname") or "waypost"
    _run(conninfo, "pg_restore", *options, f"--dbname={database}", str(file))
    migrate(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"SET ROLE {Role.OWNER.value}")
        connection.execute(FENCE, {"ahead": EPOCHS_AHEAD})


def _run(conninfo: str, program: str, *words: str) -> None:
    path = _program(program)
    with _service_file(conninfo) as environment:
        command = [str(path), f"--role={Role.OWNER.value}", *words]
        done = subprocess.run(  # noqa: S603 - a program of the found bin directory
            command, capture_output=True, text=True, errors="replace", check=False, env=environment
        )
    if done.returncode == 0:
        return
    if "server version mismatch" in done.stderr:
        raise DumpFailed(
            f"{path} is older than the server: put the {program} of the server's version on PATH, or back the database "
            "up with the server's own means"
        )
    # What it says about a row can quote the row.
    raise DumpFailed(f"{program} failed (exit code {done.returncode}): run `waypost doctor`, and look for a full disk")


def _program(name: str) -> Path:
    try:
        bin_dir = find_bin_dir(None, major=None)
    except EmbeddedPostgresError:
        bin_dir = None
    if bin_dir is None or not (bin_dir / name).exists():
        raise DumpFailed(
            f"there is no {name} here: install PostgreSQL's client programs beside `postgres` on PATH, or back the "
            "database up with the server's own means"
        )
    return bin_dir / name


@contextmanager
def _service_file(conninfo: str) -> Iterator[dict[str, str]]:
    """The environment in which libpq finds this database."""
    parameters = {name: str(value) for name, value in conninfos.conninfo_to_dict(conninfo).items() if value is not None}
    parameters["options"] = f"{parameters.get('options', '')} {_SCOPE}".strip()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "service.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join([f"[{_SERVICE}]", *(f"{name}={value}" for name, value in parameters.items()), ""]))
        yield {**os.environ, "PGSERVICEFILE": str(path), "PGSERVICE": _SERVICE}
