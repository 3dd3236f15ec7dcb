"""Several gateways under one `up`: who answers, who takes over, and their replacement one after the other."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.supervisor.test_up import Up, base, eventually, get, is_alive, run_until_left

__all__ = ["base"]


@pytest.fixture
def pair(base: Path, database: str) -> Iterator[Up]:
    yield from run_until_left(Up(base, database, workers=2))


def pids(up: Up, at_least: int = 2) -> set[str]:
    """Who answers new connections."""
    seen: set[str] = set()

    def are_all_seen() -> bool:
        seen.add(get(up.url))
        return len(seen) >= at_least

    assert eventually(are_all_seen)
    return seen


def test_every_gateway_answers_and_the_metrics_tell_them_apart(pair: Up) -> None:
    assert len(pids(pair)) == 2
    page = get(f"{pair.metrics_url}/metrics")
    assert 'answers_total{process="gateway-0"} 7' in page
    assert 'answers_total{process="gateway-1"} 7' in page
    assert 'waypost_children_up{process="supervisor"} 2' in page


def test_who_is_killed_comes_back_and_the_other_serves_meanwhile(pair: Up) -> None:
    killed, other = sorted(pids(pair))
    os.kill(int(killed), signal.SIGKILL)

    seen = pids(pair)

    assert killed not in seen
    assert other in seen


def test_a_second_up_is_refused_a_port_that_gateways_share(pair: Up, database: str, tmp_path: Path) -> None:
    (tmp_path / "waypost.toml").write_text("first")
    port = urlsplit(pair.url).port
    assert port is not None
    second = Up(tmp_path, database, port=port, workers=2)

    assert second.process.wait(30) == 1
    assert f"Port {port} cannot be used" in second.said()
    second.stdout.close()


class Caller(threading.Thread):
    """Asks again and again on a connection that it keeps while the server does."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._address = urlsplit(url).netloc
        self.is_done = threading.Event()
        self.seen: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        while not self.is_done.is_set():
            try:
                connection.request("GET", "/")
                self.seen.append(connection.getresponse().read().decode())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(type(error).__name__)
                connection.close()
        connection.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_all_are_replaced_and_no_request_is_lost(base: Path, database: str, workers: int) -> None:
    up = Up(base, database, workers=workers)
    running = run_until_left(up)
    next(running)
    before = pids(up, workers)
    callers = [Caller(up.url) for _ in range(4)]
    for caller in callers:
        caller.start()

    up.process.send_signal(signal.SIGUSR2)
    assert eventually(lambda: up.said().count("WorkerReplaced") == workers)
    after = pids(up, workers)
    for caller in callers:
        caller.is_done.set()
        caller.join()

    assert [caller.failures for caller in callers] == [[]] * 4
    assert not before & after
    assert not any(is_alive(int(pid)) for pid in before)
    assert all(set(caller.seen) & after for caller in callers)
    next(running, None)


def test_what_serves_goes_on_when_its_replacement_cannot_start(base: Path, database: str) -> None:
    child = base / "child.py"
    child.write_text((Path(__file__).parent / "answerer.py").read_text())
    up = Up(base, database, str(child))
    running = run_until_left(up)
    next(running)
    before = get(up.url)
    child.write_text("raise SystemExit(4)")

    up.process.send_signal(signal.SIGUSR2)

    assert eventually(lambda: "WorkerNotReplaced" in up.said())
    assert get(up.url) == before
    next(running, None)
