"""Listeners that count who connects, and a record of every connection that this process makes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

_watched: list[list[object]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _watched:
        place = arguments[1]
        if isinstance(place, tuple):  # a network address; the tests' own database is at another kind
            for record in _watched:
                record.append(place)


sys.addaudithook(_watch)


@contextlib.contextmanager
def connections() -> Iterator[list[object]]:
    """Where this process connects to meanwhile."""
    record: list[object] = []
    _watched.append(record)
    try:
        yield record
    finally:
        _watched.remove(record)


class Trap:
    """Listens at one port of 127.0.0.1, 127.0.0.2 and, where there is one, ::1."""

    def __init__(self) -> None:
        self.port = 0
        self.visits: list[str] = []

    async def visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append(writer.get_extra_info("sockname")[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()


@contextlib.asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    """A trap that is set."""
    found = Trap()
    servers = [await asyncio.start_server(found.visited, "127.0.0.1", 0)]
    found.port = servers[0].sockets[0].getsockname()[1]
    for host in ("127.0.0.2", "::1"):
        with contextlib.suppress(OSError):
            servers.append(await asyncio.start_server(found.visited, host, found.port))
    try:
        yield found
    finally:
        for server in servers:
            server.close()
