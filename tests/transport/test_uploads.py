"""Bodies that are not held: they flow through the server as they come, bounded, and so they do out of the client."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.transport.loopback import (
    HEAD,
    Recorder,
    Watching,
    connected,
    origin,
    pooling,
    read_answer,
    run,
    send_in_parts,
    serving,
)
from waypost.kit.errors import ErrorCode
from waypost.transport.http1_client import Call, CallTimeouts
from waypost.transport.http1_request import RequestReader
from waypost.transport.http1_response import TransportFailure
from waypost.transport.http1_server import Exchange, Http1Server, ServerLimits
from waypost.transport.incoming import Incoming
from waypost.transport.server_state import ServerState

MIB = 1 << 20
PATH = b"/big"
PUT = b"PUT /big HTTP/1.1\r\nHost: a\r\n"
IMPATIENT = ServerLimits(body_bytes=10, body_grace_s=0.4, body_s=0.6, body_bytes_per_s=100, linger_s=0.2)


def streams(path: bytes) -> int | None:
    return 64 * MIB if path == PATH else None


class Reading:
    """Takes a body, and answers at its end with how long it was and its digest."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.digest = hashlib.sha256()
        self.parts: list[int] = []
        self.failure: ErrorCode | None = None
        self.has_left = False
        exchange.watcher = Watching(leave=self.leave)

    @property
    def incoming(self) -> Incoming:
        assert self.exchange.incoming is not None
        return self.exchange.incoming

    @property
    def arrived(self) -> int:
        return sum(self.parts)

    def leave(self) -> None:
        self.has_left = True

    def on_body(self, data: bytes) -> None:
        self.digest.update(data)
        self.parts.append(len(data))

    def on_body_end(self) -> None:
        self.exchange.respond(200, b"", f"{self.arrived} {self.digest.hexdigest()[:8]}".encode())

    def on_body_failed(self, code: ErrorCode) -> None:
        self.failure = code
        self.exchange.respond(code.status, b"", code.name.encode())


class Server:
    """`seen` are the bodies that have begun; `begin` says what is done with one."""

    def __init__(self, begin: Callable[[Reading], None] | None = None) -> None:
        self.seen: list[Reading] = []
        self.plain: list[Exchange] = []
        self._begin = begin or (lambda reading: reading.incoming.read(reading))

    def __call__(self, exchange: Exchange) -> None:
        if exchange.incoming is None:
            self.plain.append(exchange)
            exchange.respond(200, b"", exchange.body.unwrap())
            return
        reading = Reading(exchange)
        self.seen.append(reading)
        self._begin(reading)


def shown(body: bytes) -> bytes:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()[:8]}".encode()


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110  another peer's pace
            await asyncio.sleep(0.01)


def test_a_body_arrives_as_it_is_sent_and_the_connection_goes_on() -> None:
    async def main() -> None:
        server = Server()
        body = bytes(range(256)) * 2_000
        async with serving(server, streams=streams) as at, connected(at.port) as (reader, writer):
            writer.write(PUT + b"Content-Length: %d\r\n\r\n" % len(body))
            await until(lambda: bool(server.seen))  # before any of it
            assert server.seen[0].arrived == 0
            await send_in_parts(writer, [body[:100], body[100:90_000], body[90_000:]])
            assert (await read_answer(reader)).body == shown(body)

            pipelined = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", b"de")
            pipelined += (
                PUT + b"Content-Length: 2\r\n\r\nfg" + b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nh"
            )
            writer.write(pipelined)
            answers = [(await read_answer(reader)).body for _ in range(3)]
            assert answers == [shown(b"abcde"), shown(b"fg"), b"h"]
            assert [each.exchange.incoming and each.exchange.incoming.length for each in server.seen[1:]] == [None, 2]
            assert at.buffered_bytes == 0

    run(main())


def test_nobody_reads_ahead_of_whoever_takes_the_body() -> None:
    async def main() -> None:
        def stop_at_once(reading: Reading) -> None:
            reading.incoming.read(reading)
            reading.incoming.pause()

        server, size = Server(stop_at_once), 24 * MIB
        async with serving(server, streams=streams) as at, connected(at.port) as (reader, writer):
            writer.write(PUT + b"Content-Length: %d\r\n\r\n" % size)
            sending = asyncio.ensure_future(_send(writer, bytes(size)))
            await until(lambda: bool(server.seen))
            (reading,) = server.seen
            for _ in range(5):
                await asyncio.sleep(0.1)
                held = sum(len(part) for part in reading.incoming._parts)
                assert held <= 2 * MIB
                assert not sending.done()
                before = reading.arrived
                reading.incoming.resume()
                reading.incoming.pause()
                assert reading.arrived == before + held
            reading.incoming.resume()
            assert (await read_answer(reader)).body == shown(bytes(size))
            await sending
            assert max(reading.parts) <= 2 * MIB

    run(main())


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    for at in range(0, len(body), MIB):
        writer.write(body[at : at + MIB])
        await writer.drain()


def test_whoever_waits_to_be_asked_is_asked_when_somebody_takes_the_body() -> None:
    async def main() -> None:
        server = Server(lambda _: None)
        head = PUT + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        async with serving(server, streams=streams) as at:
            async with connected(at.port) as (reader, writer):
                writer.write(head)
                await until(lambda: bool(server.seen))
                waiting = asyncio.ensure_future(read_answer(reader))
                await asyncio.sleep(0.1)
                assert not waiting.done()
                server.seen[0].incoming.read(server.seen[0])
                assert (await waiting).status == 100
                writer.write(b"abc")
                assert (await read_answer(reader)).body == shown(b"abc")
            async with connected(at.port) as (reader, writer):
                writer.write(head)
                await until(lambda: len(server.seen) == 2)
                server.seen[1].exchange.respond(401, b"", b"no")
                answer = await read_answer(reader)
                assert (answer.status, answer.headers["connection"]) == (401, "close")
                assert await reader.read() == b""

    run(main())


def test_an_answer_before_the_end_is_the_last_of_its_connection() -> None:
    async def main() -> None:
        server = Server(lambda reading: reading.exchange.respond(409, b"", b"over"))
        async with serving(server, streams=streams) as at, connected(at.port) as (reader, writer):
            writer.write(PUT + b"Content-Length: 300\r\n\r\nabc" + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (409, "close")
            assert await reader.read() == b""
            assert server.plain == []

    run(main())


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (PUT + b"Content-Length: %d\r\n\r\n" % (64 * MIB + 1), ErrorCode.PAYLOAD_TOO_LARGE),
        (b"PUT /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", ErrorCode.PAYLOAD_TOO_LARGE),
        (b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", ErrorCode.PAYLOAD_TOO_LARGE),
        (PUT + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
        (PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
        (PUT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
        (PUT + b"Content-Length: 3\r\nExpect: x\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
        (PUT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
    ],
)
def test_what_a_head_may_not_say_is_refused_before_anybody_is_asked(request_bytes: bytes, code: ErrorCode) -> None:
    async def main() -> None:
        server = Server()
        async with serving(server, IMPATIENT, streams=streams) as at, connected(at.port) as (reader, writer):
            writer.write(request_bytes)
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["x-refused"]) == (code.status, "yes")
            assert server.seen == []

    run(main())


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (chunked(bytes(32 * MIB), bytes(32 * MIB), b"x"), ErrorCode.PAYLOAD_TOO_LARGE),
        (b"3\r\nabcX", ErrorCode.INPUT_VALIDATION_ERROR),
        (b"zz\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
        (b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", ErrorCode.INPUT_VALIDATION_ERROR),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_that_turns_out_wrong_fails_and_ends_its_connection(rest: bytes, code: ErrorCode, at_once: bool) -> None:
    async def main() -> None:
        server = Server()
        async with serving(server, streams=streams) as at, connected(at.port) as (reader, writer):
            head = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
            if at_once:
                writer.write(head + rest)
            else:
                writer.write(head)
                await until(lambda: bool(server.seen))
                writer.write(rest)
            assert (await read_answer(reader)).body == code.name.encode()
            assert await _rest(reader) == b""
            (reading,) = server.seen
            assert reading.failure is code
            assert not reading.has_left

    run(main())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def test_a_slow_sender_is_cut_off_and_one_who_waits_for_us_is_not() -> None:
    async def main() -> None:
        server = Server()
        async with serving(server, IMPATIENT, streams=streams) as at:
            async with connected(at.port) as (reader, writer):
                writer.write(PUT + b"Content-Length: 5000\r\n\r\n")
                answer = asyncio.ensure_future(read_answer(reader))
                while not answer.done():
                    writer.write(b"x")
                    await asyncio.wait({answer}, timeout=0.05)
                assert answer.result().body == b"REQUEST_TIMEOUT"
                assert server.seen[0].arrived < 100

            async with connected(at.port) as (reader, writer):
                writer.write(PUT + b"Content-Length: 2000\r\n\r\n")
                await until(lambda: len(server.seen) == 2)
                reading = server.seen[1]
                writer.write(b"x")
                await until(lambda: reading.arrived == 1)
                reading.incoming.pause()
                writer.write(b"x")
                await asyncio.sleep(2 * IMPATIENT.body_s)
                reading.incoming.resume()
                for _ in range(6):  # longer than a body that is held may take, and much faster than it must be
                    writer.write(b"x" * 333)
                    await asyncio.sleep(0.15)
                assert (await read_answer(reader)).body == shown(b"x" * 2000)

    run(main())


def test_a_caller_who_hangs_up_in_the_middle_is_told_of() -> None:
    async def main() -> None:
        server = Server()
        async with serving(server, streams=streams) as at, connected(at.port) as (_, writer):
            writer.write(PUT + b"Content-Length: 5000\r\n\r\nabc")
            await until(lambda: bool(server.seen) and server.seen[0].arrived == 3)
            writer.transport.abort()
            await until(lambda: server.seen[0].has_left)
            assert server.seen[0].failure is None

    run(main())


def test_a_server_that_drains_lets_an_upload_end() -> None:
    async def main() -> None:
        server = Server()
        at = Http1Server(server, lambda code: (b"", code.name.encode()), streams=streams)
        await at.listen(host="127.0.0.1")
        async with connected(at.port) as (reader, writer):
            writer.write(PUT + b"Content-Length: 6\r\n\r\nabc")
            await until(lambda: bool(server.seen))
            draining = asyncio.ensure_future(at.drain(5.0))
            await asyncio.sleep(0.1)
            writer.write(b"def")
            answer = await read_answer(reader)
            assert (answer.body, answer.headers["connection"]) == (shown(b"abcdef"), "close")
            await draining

    run(main())


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.sets(st.integers(1, 400)), st.booleans())
def test_any_cut_gives_the_same_bytes(parts: list[bytes], cuts: set[int], is_chunked: bool) -> None:
    body = b"".join(parts)
    framed = (
        PUT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*parts)
        if is_chunked
        else PUT + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    sent = framed + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    seen: list[tuple[str, Incoming | None]] = []

    def on_request(reader: RequestReader) -> None:
        seen.append((reader.method, reader.incoming))

    state = ServerState()
    reader = RequestReader(ServerLimits(), state, on_request, streams)
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    for begin, end in pairwise(edges):
        assert reader.feed(sent[begin:end]) is None
    (method, incoming), after = seen
    assert (method, after) == ("PUT", ("GET", None))
    assert incoming is not None
    assert (incoming.is_ended, incoming.is_kept, b"".join(incoming._parts)) == (True, True, body)
    assert state.buffered_bytes == 0


class Writing:
    """An upload by the client: `parts` as far as the origin takes them."""

    def __init__(self, parts: list[bytes], *, is_known: bool = True, ends: bool = True) -> None:
        self.length = sum(map(len, parts)) if is_known else None
        self.parts = list(parts)
        self.written = 0
        self.blocks = 0
        self._ends = ends
        self._is_blocked = False
        self._call: Call | None = None

    def begin(self, call: Call) -> None:
        self._call = call
        self._go_on()

    def on_continue(self) -> None: ...

    def on_blocked(self) -> None:
        self._is_blocked = True
        self.blocks += 1

    def on_writable(self) -> None:
        self._is_blocked = False
        self._go_on()

    def _go_on(self) -> None:
        assert self._call is not None
        while self.parts and not self._is_blocked:
            part = self.parts.pop(0)
            self.written += len(part)
            self._call.write(part)
        if not self.parts and self._ends:
            self._ends = False
            self._call.end()


@pytest.mark.parametrize("is_known", [True, False])
def test_the_client_writes_a_body_as_the_origin_takes_it(is_known: bool) -> None:
    async def main() -> None:
        server, parts = Server(), [bytes([at]) * (MIB // 2) for at in range(40)]
        body = b"".join(parts)
        async with serving(server, streams=streams) as at, pooling(at.port) as pool:
            for _ in range(2):
                recorder, upload = Recorder(), Writing(parts, is_known=is_known)
                pool.call(
                    PUT, upload, recorder, CallTimeouts(connect_s=3.0, first_byte_s=5.0, idle_s=5.0, total_s=30.0)
                )
                await recorder.is_over.wait()
                assert recorder.body == shown(body)
                assert upload.blocks
            assert (pool.open, pool.idle, at.accepted) == (1, 1, 1)

    run(main())


def test_an_origin_that_takes_nothing_more_times_out_and_one_that_answers_early_is_heard() -> None:
    async def main() -> None:
        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(60)

        timeouts = CallTimeouts(connect_s=3.0, first_byte_s=0.3, idle_s=0.3, total_s=30.0)
        async with origin(ignore) as port, pooling(port) as pool:
            recorder, upload = Recorder(), Writing([bytes(MIB)] * 64)
            pool.call(HEAD, upload, recorder, timeouts)
            await recorder.is_over.wait()
            assert recorder.failure is TransportFailure.FIRST_BYTE_TIMEOUT
            assert upload.written < 32 * MIB

            waiting = Writing([b"abc"], is_known=False, ends=False)
            recorder = Recorder()
            call = pool.call(HEAD, waiting, recorder, timeouts)
            await asyncio.sleep(0.8)  # whoever uploads may be slow: that is not the origin's silence
            assert not recorder.is_over.is_set()
            call.end()
            await recorder.is_over.wait()
            assert recorder.failure is TransportFailure.FIRST_BYTE_TIMEOUT

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await asyncio.sleep(60)

        async with origin(refuse) as port, pooling(port) as pool:
            recorder = Recorder()
            pool.call(HEAD, Writing([b"x"], is_known=False, ends=False), recorder, timeouts)
            await recorder.is_over.wait()
            assert recorder.status == 413
            await until(lambda: pool.open == 0)  # the rest of the body was never sent on it

    run(main())
