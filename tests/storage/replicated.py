"""A PostgreSQL and its asynchronous standby, on real streaming replication, which can be cut before a promotion."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import conninfo as conninfos

from tests.e2e.own_server import UNLASTING, quick_place
from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgres, _wrapper, find_bin_dir

_SETTINGS = {**UNLASTING, "synchronous_commit": "on", "wal_level": "replica", "max_wal_senders": "4"}
_PATIENCE_S = 30.0


class Pair:
    """`conninfo` leads to whichever of the two writes."""

    def __init__(self, directory: Path) -> None:
        self.primary = EmbeddedPostgres(directory / "primary", settings=_SETTINGS)
        self.standby = EmbeddedPostgres(directory / "standby", settings=_SETTINGS)
        for server in (self.primary, self.standby):
            server.data_dir.mkdir(mode=0o700)
        self._first = self.primary.start()
        migrate(self._first)
        self._copy()
        self._second = self.standby.start()
        parts = [conninfos.conninfo_to_dict(one) for one in (self._first, self._second)]
        host, port = (",".join(str(part[name]) for part in parts) for name in ("host", "port"))
        self.conninfo = conninfos.make_conninfo(self._first, host=host, port=port, target_session_attrs="read-write")

    def _copy(self) -> None:
        cluster = self.primary.data_dir / "cluster"
        where = conninfos.conninfo_to_dict(self._first)
        program = str(find_bin_dir(None, major=int((cluster / "PG_VERSION").read_text())) / "pg_basebackup")
        command = [*_wrapper(cluster), program, "-D", str(self.standby.data_dir / "cluster"), "-R", "-c", "fast"]
        command += ["-X", "stream", "-h", str(where["host"]), "-p", str(where["port"]), "-U", str(where["user"])]
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def catch_up(self) -> None:
        """The standby has everything."""
        with psycopg.connect(self._first, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        self._wait(f"SELECT pg_last_wal_replay_lsn() >= '{row[0]}'::pg_lsn")

    def cut(self) -> None:
        """From now on it receives nothing."""
        with psycopg.connect(self._second, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")
        self._wait("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def fail_over(self) -> None:
        """The primary is gone, and the standby writes."""
        self.primary.stop()
        with psycopg.connect(self._second, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def stop(self) -> None:
        for server in (self.standby, self.primary):
            server.stop()

    def _wait(self, question: str) -> None:
        gives_up_s = time.monotonic() + _PATIENCE_S
        with psycopg.connect(self._second, autocommit=True) as connection:
            while connection.execute(question).fetchone() != (True,):
                assert time.monotonic() < gives_up_s, question
                time.sleep(0.01)


@contextmanager
def replicated() -> Iterator[Pair]:
    """Both migrated, in step, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="waypost-standby-", dir=quick_place()) as directory:
        pair = Pair(Path(directory))
        try:
            yield pair
        finally:
            pair.stop()
