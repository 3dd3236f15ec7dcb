"""The systems under test and the mocks behind them, each started on its core and stopped at the end of the run."""

from __future__ import annotations

import contextlib
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench import baseline
from bench.baseline import Ports
from bench.process import BenchError, Child, wait_until
from bench.tools import Cores, Tools

DIRECT, NGINX, ENVOY, WAYPOST, TARGET = "direct", "nginx", "envoy", "waypost", "target"


class Place(msgspec.Struct, frozen=True):
    """Where a run takes place: programs, cores, ports, a private folder, and how many connections must fit."""

    tools: Tools
    cores: Cores
    ports: Ports
    folder: Path
    connections: int


class System(msgspec.Struct, frozen=True):
    """One thing to measure: where it listens and which processes it consists of."""

    name: str
    plain_port: int
    stream_port: int
    roots: Callable[[], list[int]]  # pids; their descendants count too
    authorization: str = ""
    plain_headers: tuple[tuple[str, str], ...] = ()  # beside it, of plain calls
    stream_headers: tuple[tuple[str, str], ...] = ()  # and of streams
    scenarios: tuple[str, ...] = ()  # the only ones it is measured in; all of them when empty


def direct(place: Place) -> System:
    """No proxy at all: the load speaks to the mocks. What latency is compared with."""
    return System(DIRECT, place.ports.plain_mocks[0], place.ports.stream_mocks[0], list, scenarios=("latency",))


def target(port: int, pid: int) -> System:
    """A server that somebody else started, and that forwards to the mocks."""
    return System(TARGET, port, port, lambda: [pid])


@contextlib.contextmanager
def mocks(place: Place) -> Iterator[None]:
    """nginx for plain answers and our own server for streams, on the cores that the proxy does not use."""
    ports = place.ports
    require_free((*ports.plain_mocks, *ports.stream_mocks, ports.mock_status))
    folder = place.folder / "mock"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(baseline.mock_config(folder, ports, place.connections))
    stream_command = [sys.executable, "-m", "bench.mock", *map(str, ports.stream_mocks)]
    with (
        Child(_nginx_command(place, config, folder), cores=place.cores.others, log=folder / "out.log") as plain,
        Child(stream_command, cores=place.cores.others, log=folder / "stream.log") as streaming,
    ):
        wait_listening(plain, (*ports.plain_mocks, ports.mock_status))
        wait_listening(streaming, ports.stream_mocks)
        yield


@contextlib.contextmanager
def nginx(place: Place) -> Iterator[System]:
    ports = place.ports
    require_free((ports.nginx_plain, ports.nginx_stream))
    folder = place.folder / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(baseline.nginx_config(folder, ports, place.connections))
    with Child(_nginx_command(place, config, folder), cores=(place.cores.proxy,), log=folder / "out.log") as child:
        wait_listening(child, (ports.nginx_plain, ports.nginx_stream))
        yield System(NGINX, ports.nginx_plain, ports.nginx_stream, lambda: [child.pid])


@contextlib.contextmanager
def envoy(place: Place) -> Iterator[System]:
    ports = place.ports
    assert place.tools.envoy
    require_free((ports.envoy_plain, ports.envoy_stream))
    folder = place.folder / "envoy"
    folder.mkdir()
    config = folder / "envoy.json"
    config.write_text(baseline.envoy_config(ports, place.connections))
    command = [
        place.tools.envoy,
        "-c",
        str(config),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]
    with Child(command, cores=(place.cores.proxy,), log=folder / "out.log") as child:
        wait_listening(child, (ports.envoy_plain, ports.envoy_stream))
        yield System(ENVOY, ports.envoy_plain, ports.envoy_stream, lambda: [child.pid])


def _nginx_command(place: Place, config: Path, folder: Path) -> list[str]:
    return [place.tools.nginx, "-c", str(config), "-p", str(folder), "-e", str(folder / "nginx.log")]


def plain_calls(place: Place) -> int:
    """Calls that the plain mock has answered so far, those for this number included."""
    with urllib.request.urlopen(f"http://127.0.0.1:{place.ports.mock_status}/", timeout=5) as answer:
        return parse_status(answer.read().decode())


def parse_status(text: str) -> int:
    """The number of requests in nginx's `stub_status`: accepts, handled and requests stand in the third line."""
    return int(text.splitlines()[2].split()[2])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def require_free(ports: tuple[int, ...]) -> None:
    """
    Raises:
        BenchError: somebody listens on one of them already.
    """
    for port in ports:
        if is_listening(port):
            raise BenchError(f"Port {port} is in use; choose other ports with --port-base.")


def wait_listening(child: Child, ports: tuple[int, ...], *, timeout_s: float = 20.0) -> None:
    def are_open() -> bool:
        child.require_alive()
        return all(map(is_listening, ports))

    wait_until(are_open, f"{child.name} listening on {ports}", timeout_s=timeout_s)
