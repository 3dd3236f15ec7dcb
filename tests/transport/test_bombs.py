"""Requests made to take memory: each is refused or answered, and takes 16 MiB at most beyond what the server had."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BYTES_MAX = 16 << 20
BODY_BYTES = 16 << 20  # of a body that is taken until it is over its bound
ROOT = Path(__file__).parents[2]
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_MIB = 1 << 20


def _json(body: bytes) -> Iterator[bytes]:
    yield POST % b"/read" + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _repeat(start: bytes, part: bytes, count: int) -> Iterator[bytes]:
    yield start
    for _ in range(count):
        yield part


BOMBS = {
    "headers without end": lambda: _repeat(POST % b"/", b"x-%b: y\r\n" % (b"h" * 1000), 64_000),
    "a header without end": lambda: _repeat(POST % b"/" + b"x: ", b"y" * 65_536, 1000),
    "a target without end": lambda: _repeat(b"GET /", b"y" * 65_536, 1000),
    "one header again and again": lambda: _repeat(POST % b"/", b"accept: %b\r\n" % (b"a" * 400), 64_000),
    "a length over the bound": lambda: _repeat(POST % b"/" + b"Content-Length: 99999999\r\n\r\n", b"x" * 65_536, 1000),
    "tiny chunks": lambda: _repeat(POST % b"/" + CHUNKED, b"1\r\nx\r\n" * 10_000, 100),
    "a chunk extension without end": lambda: _repeat(POST % b"/" + CHUNKED + b"1;", b"e" * 65_536, 1000),
    "chunk extensions": lambda: _repeat(POST % b"/" + CHUNKED, b"1;%b\r\nx\r\n" % (b"e" * 4000), 16_000),
    "trailers without end": lambda: _repeat(POST % b"/" + CHUNKED + b"0\r\n", b"t: %b\r\n" % (b"v" * 4000), 16_000),
    "requests sent ahead": lambda: _repeat(b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, 1000),
    "nested arrays": lambda: _json(b"[" * (4 * _MIB)),
    "nested objects in a field": lambda: _json(b'{"model":"m","x":' + b'{"a":' * _MIB),
    "a number without end": lambda: _json(b'{"model":"m","n":' + b"9" * (4 * _MIB) + b"}"),
    "numbers with exponents": lambda: _json(b'{"x":[%b1]}' % (b"1e999," * (_MIB // 2))),
    "many small values": lambda: _json(b'{"x":[%b1]}' % (b"{}," * _MIB)),
    "a line of events without end": lambda: iter(
        [POST % b"/events" + b"Content-Length: %d\r\n\r\n" % _MIB + b"d" * _MIB]
    ),
    "comments of events": lambda: iter(
        [POST % b"/events" + b"Content-Length: %d\r\n\r\n" % _MIB + b":\n" * (_MIB // 2)]
    ),
    # Last: what it has taken stays with the process, and would hide what the others take.
    "chunks over the bound": lambda: _repeat(POST % b"/" + CHUNKED, b"10000\r\n%b\r\n" % (b"x" * 65_536), 1000),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.transport.bombed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def peak_bytes(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port)) as asking:
        asking.sendall(b"GET /peak HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        said = b""
        while part := asking.recv(65_536):
            said += part
    return int(said.rpartition(b"\r\n\r\n")[2])


def send(port: int, parts: Iterator[bytes]) -> None:
    """Until the server does not take any more, or there is no more."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as bombing:
        try:
            for part in parts:
                bombing.sendall(part)
            bombing.settimeout(0.5)
            while bombing.recv(65_536):
                pass
        except OSError:  # reset or timed out: it may wait for an end that never comes
            return


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_no_more_than_its_share(port: int, name: str) -> None:
    peak_bytes(port)
    before = peak_bytes(port)

    send(port, BOMBS[name]())

    taken = peak_bytes(port) - before
    assert taken <= (BYTES_MAX if name != "chunks over the bound" else BODY_BYTES + BYTES_MAX // 4)
