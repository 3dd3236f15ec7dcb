"""What the transport's tests share: a server, raw peers on both sides, and receivers that remember."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop

from waypost.kit.errors import ErrorCode
from waypost.transport.http1_client import CallTimeouts, ClientLimits, Pool, TransportFailure
from waypost.transport.http1_request import Streams, TakesImages
from waypost.transport.http1_server import Exchange, Http1Server, Refuse, ServerLimits
from waypost.transport.origin import Origin

PATIENT = CallTimeouts(connect_s=3.0, first_byte_s=30.0, idle_s=30.0, total_s=60.0)


def run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop, as in production, and never for longer than a test may take."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    uvloop.run(bounded())


def refuse(code: ErrorCode) -> tuple[bytes, bytes]:
    return b"x-refused: yes\r\n", code.name.encode()


def _ignore() -> None:
    pass


class Watching:
    """Of an answer: whom a test wants told."""

    def __init__(
        self,
        leave: Callable[[], None] = _ignore,
        pause: Callable[[], None] = _ignore,
        resume: Callable[[], None] = _ignore,
    ) -> None:
        self.leave = leave
        self.pause = pause
        self.resume = resume


def echo(exchange: Exchange) -> None:
    """What the handler saw, as an answer."""
    headers = sorted(exchange.headers.items())
    seen = (exchange.method, exchange.path, exchange.query, headers, exchange.body.unwrap())
    exchange.respond(200, b"content-type: text/plain\r\n", repr(seen).encode())


@asynccontextmanager
async def serving(
    handler: Callable[[Exchange], None],
    limits: ServerLimits | None = None,
    *,
    on_bug: Callable[[BaseException], None] | None = None,
    refuse: Refuse = refuse,
    unix_path: str = "",
    ssl_context: ssl.SSLContext | None = None,
    streams: Streams | None = None,
    takes_images: TakesImages | None = None,
) -> AsyncIterator[Http1Server]:
    server = Http1Server(handler, refuse, limits, on_bug=on_bug, streams=streams, takes_images=takes_images)
    await server.listen(host="127.0.0.1", ssl_context=ssl_context)
    if unix_path:
        await server.listen(unix_path=unix_path)
    try:
        yield server
    finally:
        await server.drain(0.0)
        assert (server.connections, server.exchanges, server.buffered_bytes) == (0, 0, 0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


class Answer:
    """One answer, as it came over the wire."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


async def read_answer(reader: asyncio.StreamReader, *, is_head_request: bool = False) -> Answer:
    """Raises asyncio.IncompleteReadError when the connection ends before the answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    if status < 200:
        return Answer(status, headers, b"")
    body = b""
    if is_head_request:
        pass
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        assert await reader.readexactly(2) == b"\r\n"
    elif status not in (204, 304):
        body = await reader.read()
    return Answer(status, headers, body)


async def send_in_parts(writer: asyncio.StreamWriter, parts: Iterable[bytes]) -> None:
    """Each part in a segment of its own, with a few turns of the loop for the other side to read it."""
    for part in parts:
        writer.write(part)
        for _ in range(3):
            await asyncio.sleep(0)


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def origin(script: Script, *, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server whose every connection runs a script of the test's, and is closed after it; its port."""
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def play() -> None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):  # the client may hang up, if that is tested
                await script(reader, writer)

        def finish(task: asyncio.Task[None]) -> None:
            running.discard(task)
            writer.close()

        task = asyncio.ensure_future(play())
        running.add(task)
        task.add_done_callback(finish)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=ssl_context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Head and body of a request with a content-length. Raises asyncio.IncompleteReadError at the end."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    return head + await reader.readexactly(int(length.split()[1]))


def playing(answer: bytes) -> Script:
    """An origin that gives the same bytes to every request on a connection, and then waits for the next one."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)

    return script


@asynccontextmanager
async def pooling(
    port: int,
    limits: ClientLimits | None = None,
    *,
    host: str = "127.0.0.1",
    unix_path: str = "",
    ssl_context: ssl.SSLContext | None = None,
    on_bug: Callable[[BaseException], None] | None = None,
) -> AsyncIterator[Pool]:
    pool = Pool(
        Origin(host=host, port=port, unix_path=unix_path, ssl_context=ssl_context), limits=limits, on_bug=on_bug
    )
    try:
        yield pool
    finally:
        await pool.close()
        assert (pool.idle, pool.open) == (0, 0)


HEAD = b"POST /v1 HTTP/1.1\r\nhost: a\r\n"


async def fetch(pool: Pool, body: bytes = b"", *, head: bytes = HEAD, timeouts: CallTimeouts = PATIENT) -> Recorder:
    """One call, until it is over."""
    recorder = Recorder()
    pool.call(head, body, recorder, timeouts)
    assert not recorder.is_over.is_set(), "told from inside call()"
    await recorder.is_over.wait()
    return recorder


class Recorder:
    """A receiver that keeps everything, and tells when it is over."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.failure: TransportFailure | None = None
        self.ends = 0
        self.has_head = asyncio.Event()
        self.has_data = asyncio.Event()
        self.is_over = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        assert not self.has_head.is_set()
        assert not self.is_over.is_set()
        self.status, self.headers = status, headers
        self.has_head.set()

    def on_data(self, data: bytes) -> None:
        assert self.has_head.is_set()
        assert not self.is_over.is_set()
        self.parts.append(data)
        self.has_data.set()

    def on_end(self) -> None:
        self.ends += 1
        self._finish()

    def on_failure(self, failure: TransportFailure) -> None:
        self.failure = failure
        self._finish()

    def _finish(self) -> None:
        assert not self.is_over.is_set(), "told twice that it is over"
        self.is_over.set()
