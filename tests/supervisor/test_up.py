"""`up` with real processes: start, restart, reload, refusals, end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest
from psycopg import conninfo

from tests.ports import reserved_port

HERE = Path(__file__).parent
PATIENCE_S = 30.0


class Up:
    """One running `up`, with what it said when it was ready."""

    def __init__(self, base: Path, database: str, *child: str, port: int = 0, workers: int = 1) -> None:
        command = [sys.executable, str(HERE / "starter.py"), str(base / "data"), database, str(port)]
        with (base / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, *(child or (str(HERE / "answerer.py"),))],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "TEST_WORKERS": str(workers)},
            )
        self.base = base
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        self.url, _, self.metrics_url = self.stdout.readline().strip().partition(" ")

    def said(self) -> str:
        return (self.base / "stderr").read_text()

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wp") as name:  # short: it holds a Unix socket
        (Path(name) / "waypost.toml").write_text("first")
        yield Path(name)


@pytest.fixture
def up(base: Path, database: str) -> Iterator[Up]:
    """One of a test's own."""
    yield from run_until_left(Up(base, database))


@pytest.fixture(scope="module")
def shared_up(postgres: str) -> Iterator[Up]:
    """One for the tests that leave it as they found it."""
    name = f"up_{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="wp") as base, psycopg.connect(postgres, autocommit=True) as connection:
        (Path(base) / "waypost.toml").write_text("first")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE waypost_template")
        yield from run_until_left(Up(Path(base), conninfo.make_conninfo(postgres, dbname=name)))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run_until_left(up: Up) -> Iterator[Up]:
    yield up
    if up.process.poll() is None:
        up.process.kill()
    up.process.wait()
    up.stdout.close()


def get(url: str) -> str:
    with urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return is_so()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_it_serves_says_so_once_and_ends_with_its_children(up: Up) -> None:
    child_pid = int(get(up.url))

    exit_code = up.end()

    assert exit_code == 0
    assert up.stdout.read() == ""
    assert not is_alive(child_pid)


def test_the_metrics_page_has_every_process(shared_up: Up) -> None:
    page = get(f"{shared_up.metrics_url}/metrics")

    assert 'answers_total{process="gateway-0"} 7' in page
    assert 'waypost_children_up{process="supervisor"} 1' in page
    with pytest.raises(URLError, match="404"):
        get(f"{shared_up.metrics_url}/")


def test_a_child_that_dies_is_restarted_and_nobody_is_turned_away_meanwhile(shared_up: Up) -> None:
    before = get(shared_up.url)
    os.kill(int(before), signal.SIGKILL)

    after = get(shared_up.url)  # waits in the queue of the socket that the supervisor holds

    assert after != before
    assert 'waypost_restarts_total{process="supervisor",child="gateway-0"} 1' in get(f"{shared_up.metrics_url}/metrics")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_end_when_the_supervisor_is_killed(up: Up) -> None:
    child_pid = int(get(up.url))

    up.process.kill()
    up.process.wait()

    assert eventually(lambda: not is_alive(child_pid))


def test_a_changed_file_is_applied_and_a_bad_one_is_refused_aloud(shared_up: Up) -> None:
    config, applied = shared_up.base / "waypost.toml", shared_up.base / "applied"
    assert applied.read_text() == "first"

    config.write_text("bad news")
    assert eventually(lambda: "waypost: bad news: refused" in shared_up.said())
    assert applied.read_text() == "first"

    config.write_text("second")
    assert eventually(lambda: applied.read_text() == "second")


def test_a_hangup_signal_applies_the_file_again(shared_up: Up) -> None:
    (shared_up.base / "applied").unlink()

    shared_up.process.send_signal(signal.SIGHUP)

    assert eventually((shared_up.base / "applied").exists)


def test_a_second_one_on_the_same_data_is_refused(shared_up: Up) -> None:
    second = Up(shared_up.base, "postgresql:///unused")

    assert second.process.wait(PATIENCE_S) == 1
    said = f"already runs on {shared_up.base / 'data'} (process {shared_up.process.pid})"
    assert said in shared_up.said()
    second.stdout.close()


def test_a_port_that_is_taken_is_named(base: Path, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        up = Up(base, database, port=port)
        assert up.process.wait(PATIENCE_S) == 1

    assert f"Port {port} cannot be used (Address already in use)" in up.said()
    up.stdout.close()


def test_a_child_that_cannot_start_ends_it_with_a_sentence(base: Path, database: str) -> None:
    up = Up(base, database, "-c", "raise SystemExit(4)")

    assert up.process.wait(PATIENCE_S) == 1
    assert "gateway-0 ended 5 times in a row right after its start, last with exit code 4" in up.said()
    up.stdout.close()


def test_a_database_that_does_not_answer_is_named_without_its_password(base: Path) -> None:
    with reserved_port() as port:
        up = Up(base, f"postgresql://waypost:hunter2@127.0.0.1:{port}/waypost")
        assert up.process.wait(PATIENCE_S) == 1

    assert "The database does not answer" in up.said()
    assert "hunter2" not in up.said()
    up.stdout.close()
