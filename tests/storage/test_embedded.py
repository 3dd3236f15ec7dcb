"""The embedded PostgreSQL: started, shared, adopted, and restarted after any death."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from waypost.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError, find_bin_dir
from waypost.storage.server_process import ProcessState, process_state


@pytest.fixture(scope="module")
def made_cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster that was set up once and stopped: a copy of it saves every test an initdb."""
    directory = tmp_path_factory.mktemp("made")
    server = EmbeddedPostgres(directory, settings={"fsync": "off"})
    server.start()
    server.stop()
    return directory / "cluster"


@pytest.fixture
def server(tmp_path: Path, made_cluster: Path) -> Iterator[EmbeddedPostgres]:
    shutil.copytree(made_cluster, tmp_path / "cluster")
    server = EmbeddedPostgres(tmp_path, settings={"fsync": "off"})
    yield server
    server.stop()


def test_a_started_server_answers_on_a_socket_only(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.start()) as connection:
        assert connection.info.dbname == "waypost"
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_data_outlives_a_stop(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    server.stop()
    assert not server.is_running
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)


def test_a_second_user_adopts_the_live_server_and_the_last_one_stops_it(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    server.start()
    second = EmbeddedPostgres(tmp_path)
    second.start()
    assert second.pid == server.pid
    server.stop()
    assert second.is_running
    second.stop()
    assert not second.is_running


def test_a_killed_postmaster_is_replaced(server: EmbeddedPostgres) -> None:
    server.start()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert server.pid != first


def test_another_user_replaces_a_postmaster_whose_zombie_was_never_reaped(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    server.start()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    other = EmbeddedPostgres(tmp_path)
    other.start()
    assert other.pid not in (None, first)
    other.stop()
    server.stop()


def test_a_pid_file_that_names_another_program_is_no_obstacle(server: EmbeddedPostgres, tmp_path: Path) -> None:
    server.start()
    server.stop()
    pid_file = tmp_path / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{tmp_path / 'cluster'}\n")
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_set_up_that_was_interrupted_is_done_again_and_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    (deep / "cluster.unfinished").mkdir(parents=True)
    server = EmbeddedPostgres(deep, settings={"fsync": "off"})
    with psycopg.connect(server.start()) as connection:
        socket_dir = Path(connection.info.host)
    assert len(str(socket_dir)) < 90
    server.stop()
    assert not socket_dir.exists()


def test_without_a_usable_postgresql_the_message_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="WAYPOST_DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "data", bin_dir=tmp_path).start()


def test_a_cluster_of_another_major_version_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="made by 9"):
        EmbeddedPostgres(tmp_path).start()


def test_the_server_writes_down_no_statement_and_no_value(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with psycopg.connect(server.start(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 'marker-7c1e', 1/0")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT %s::int", ("marker-7c1e",))
    server.stop()
    assert b"marker-7c1e" not in (tmp_path / "postgres.log").read_bytes()


def test_the_wheel_is_found() -> None:
    assert (find_bin_dir(None, major=None) / "initdb").exists()


def test_a_pid_is_told_from_a_postgres() -> None:
    assert process_state(os.getpid()) is ProcessState.ANOTHER
    assert process_state(2**22 + 1) is ProcessState.GONE


def test_the_server_keeps_nothing_open_that_whoever_started_it_had(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    server = EmbeddedPostgres(tmp_path / "pg")
    try:
        server.start()
        os.close(writing)
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b""  # its end: nobody else has the other one
    finally:
        server.stop()
        os.close(reading)
