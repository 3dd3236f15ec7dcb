"""What the server does about callers that are slow, stalled, gone, greedy, or in the way of a restart."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from tests.transport.loopback import Watching, connected, echo, read_answer, run, serving
from waypost.kit.values import replace
from waypost.transport.http1_server import Exchange, ServerLimits

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
# Short, yet longer than a busy machine may keep the loop from turning.
HASTY = ServerLimits(head_s=0.5, body_s=0.6, body_grace_s=0.3, keep_alive_s=0.3, stalled_reader_s=0.3, linger_s=0.1)


class Held:
    """A handler that answers nothing by itself, and remembers what it was told."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.disconnects = 0
        self.arrived = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.blocked = asyncio.Event()
        self.writable = asyncio.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.watcher = Watching(self._on_disconnect, self.blocked.set, self.writable.set)
        self.exchanges.append(exchange)
        self.arrived.set()

    def _on_disconnect(self) -> None:
        self.disconnects += 1
        self.disconnected.set()


@pytest.mark.parametrize("start", [b"G", GET[:-2], GET + b"G"], ids=["first byte", "no blank line", "second request"])
def test_a_head_that_does_not_arrive_in_time_gets_408(start: bytes) -> None:
    async def main() -> None:
        limits = replace(HASTY, keep_alive_s=60.0)
        async with serving(echo, limits) as server, connected(server.port) as (reader, writer):
            writer.write(start)
            if start.startswith(GET):
                assert (await read_answer(reader)).status == 200
            assert (await read_answer(reader)).status == 408
            assert await reader.read() == b""

    run(main())


def test_dripping_bytes_buys_a_head_no_time() -> None:
    async def main() -> None:
        async with serving(echo, HASTY) as server, connected(server.port) as (reader, writer):

            async def drip() -> None:
                while True:
                    writer.write(b"G" if not dripped else b"E" if len(dripped) == 1 else b"T")
                    dripped.append(1)
                    await asyncio.sleep(0.02)

            dripped: list[int] = []
            writer.write(b"GET / HTTP/1.1\r\nX-A: ")
            dripping = asyncio.create_task(drip())
            assert (await read_answer(reader)).status == 408
            dripping.cancel()

    run(main())


def test_a_body_that_arrives_too_slowly_gets_408() -> None:
    async def main() -> None:
        async with serving(echo, HASTY) as server:
            for framing in (b"Content-Length: 10\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\n"):
                async with connected(server.port) as (reader, writer):
                    writer.write(POST + framing + b"x")
                    assert (await read_answer(reader)).status == 408
                    assert await reader.read() == b""
            assert server.buffered_bytes == 0

    run(main())


def test_a_body_that_keeps_its_rate_may_take_until_the_whole_time_is_over() -> None:
    async def main() -> None:
        limits = replace(HASTY, body_bytes_per_s=1)
        async with serving(echo, limits) as server, connected(server.port) as (reader, writer):
            writer.write(POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
            assert (await read_answer(reader)).status == 408

    run(main())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def main() -> None:
        async with serving(echo, HASTY) as server:
            async with connected(server.port) as (fresh, _):
                assert await fresh.read() == b""
            async with connected(server.port) as (used, writer):
                writer.write(GET)
                assert (await read_answer(used)).status == 200
                assert await used.read() == b""

    run(main())


def test_many_slow_callers_do_not_keep_a_good_one_waiting_and_are_cut() -> None:
    async def main() -> None:
        async with serving(echo, HASTY) as server:
            slow = []
            for _ in range(100):
                slow.append(await asyncio.open_connection("127.0.0.1", server.port))
                slow[-1][1].write(GET[:10])
            async with connected(server.port) as (reader, writer):
                writer.write(GET)
                assert (await read_answer(reader)).status == 200
            assert {(await read_answer(reader)).status for reader, _ in slow} == {408}
            for _, writer in slow:
                writer.close()

    run(main())


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("has_begun", [False, True], ids=["before the answer", "within the answer"])
def test_a_caller_that_goes_away_is_reported_once_and_later_writes_have_no_effect(
    is_reset: bool, has_begun: bool
) -> None:
    async def main() -> None:
        held = Held()
        async with serving(held) as server, connected(server.port) as (reader, writer):
            writer.write(GET)
            await held.arrived.wait()
            exchange = held.exchanges[0]
            if has_begun:
                exchange.begin(200, b"")
                exchange.write(b"part")
                await reader.readuntil(b"part")
            if is_reset:
                writer.transport.abort()
            else:
                writer.close()
            await held.disconnected.wait()
            assert not exchange.is_open
            assert server.exchanges == 0
            if not has_begun:
                exchange.respond(200, b"", b"late")
            exchange.write(b"late")
            exchange.end()
            exchange.abort()
        assert held.disconnects == 1

    run(main())


def test_a_caller_that_goes_away_after_its_answer_is_no_disconnect() -> None:
    async def main() -> None:
        held = Held()
        async with serving(held) as server, connected(server.port) as (reader, writer):
            writer.write(GET)
            await held.arrived.wait()
            held.exchanges[0].respond(200, b"", b"")
            assert (await read_answer(reader)).status == 200
        assert held.disconnects == 0

    run(main())


def _small_socket(port: int) -> socket.socket:
    """A connected socket that takes little in before its owner reads."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.setblocking(False)
    return raw


async def _write_until_blocked(held: Held, exchange: Exchange) -> int:
    written = 0
    while not held.blocked.is_set():
        exchange.write(b"x" * 16384)
        written += 16384
        await asyncio.sleep(0)
    return written


def test_a_reader_that_stalls_blocks_the_writer_until_it_reads_again() -> None:
    async def main() -> None:
        held = Held()
        loop = asyncio.get_running_loop()
        async with serving(held) as server:
            raw = _small_socket(server.port)
            await loop.sock_sendall(raw, GET)
            await held.arrived.wait()
            exchange = held.exchanges[0]
            exchange.begin(200, b"")
            written = await _write_until_blocked(held, exchange)
            received = 0
            while not held.writable.is_set():
                received += len(await loop.sock_recv(raw, 65536))
            exchange.end()
            while received < written:
                received += len(await loop.sock_recv(raw, 65536))
            assert exchange.is_open is False
            assert held.disconnects == 0
            raw.close()

    run(main())


def test_a_reader_that_stalls_too_long_counts_as_gone() -> None:
    async def main() -> None:
        held = Held()
        loop = asyncio.get_running_loop()
        async with serving(held, HASTY) as server:
            raw = _small_socket(server.port)
            await loop.sock_sendall(raw, GET)
            await held.arrived.wait()
            held.exchanges[0].begin(200, b"")
            await _write_until_blocked(held, held.exchanges[0])
            await held.disconnected.wait()
            raw.close()

    run(main())


def test_a_caller_that_reads_no_answers_gets_no_more_requests_handled() -> None:
    async def main() -> None:
        handled = []

        def handler(exchange: Exchange) -> None:
            handled.append(exchange.path)
            exchange.respond(200, b"", b"x" * 1_000_000)

        loop = asyncio.get_running_loop()
        async with serving(handler, replace(HASTY, stalled_reader_s=0.5)) as server:
            raw = _small_socket(server.port)
            await loop.sock_sendall(raw, GET * 60)
            async with connected(server.port) as (reader, writer):
                writer.write(GET.replace(b"/ ", b"/other "))
                assert (await read_answer(reader)).status == 200
            # A first answer fills the sockets' buffers; the one after it stands above the high water.
            assert handled.count("/") <= 8
            while server.connections:  # noqa: ASYNC110  a gauge has no event
                await asyncio.sleep(0.05)
            assert handled.count("/") <= 8
            raw.close()

    run(main())


def test_a_refused_body_still_on_its_way_does_not_reset_the_answer_away() -> None:
    async def main() -> None:
        limits = ServerLimits(body_bytes=1000)
        async with serving(echo, limits) as server:
            for _ in range(20):
                async with connected(server.port) as (reader, writer):
                    writer.write(POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60000)
                    assert (await read_answer(reader)).status == 413
                    assert await reader.read() == b""

    run(main())


def test_a_body_may_be_larger_where_images_are_taken() -> None:
    async def main() -> None:
        limits = ServerLimits(body_bytes=1000, image_body_bytes=2000)
        async with serving(echo, limits, takes_images=b"/images".__eq__) as server:
            for path, size, status in ((b"/images", 2000, 200), (b"/images", 2001, 413), (b"/", 1001, 413)):
                head = b"POST %b?a=1 HTTP/1.1\r\nHost: a\r\n" % path
                whole = b"Content-Length: %d\r\n\r\n%b" % (size, b"x" * size)
                chunks = b"400\r\n%b\r\n" % (b"x" * 1024)
                last = b"%x\r\n%b\r\n0\r\n\r\n" % (size % 1024, b"x" * (size % 1024))
                chunked = b"Transfer-Encoding: chunked\r\n\r\n" + chunks * (size // 1024) + last
                for framed in (whole, chunked):
                    async with connected(server.port) as (reader, writer):
                        writer.write(head + framed)
                        answer = await read_answer(reader)
                        assert answer.status == status, (path, size, framed[:20])
                        assert status == 413 or b"x" * size in answer.body

    run(main())


async def _send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


def test_a_refused_caller_that_never_stops_sending_is_cut() -> None:
    async def main() -> None:
        async with serving(echo, ServerLimits(body_bytes=1000)) as server, connected(server.port) as (_, writer):
            writer.write(POST + b"Content-Length: 60000000\r\n\r\n")
            with pytest.raises(ConnectionError):
                await _send_for_ever(writer)

    run(main())


def test_all_bodies_together_are_bounded_and_the_bound_is_freed_again() -> None:
    async def main() -> None:
        held = Held()
        async with serving(held, ServerLimits(buffered_bytes=1500)) as server:
            body = POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
            async with connected(server.port) as (first, first_writer), connected(server.port) as (second, writer):
                first_writer.write(body)
                await held.arrived.wait()
                assert server.buffered_bytes == 1000
                writer.write(body)
                assert (await read_answer(second)).status == 503
                assert await second.read() == b""
                held.exchanges[0].respond(200, b"", b"")
                assert (await read_answer(first)).status == 200
                assert server.buffered_bytes == 0
                held.arrived.clear()
                first_writer.write(body)
                await held.arrived.wait()

    run(main())


def test_draining_ends_what_is_idle_waits_for_what_runs_and_takes_nothing_new() -> None:
    async def main() -> None:
        held = Held()
        async with serving(held) as server:
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
            busy, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET)
            await held.arrived.wait()
            draining = asyncio.create_task(server.drain(30.0))
            assert await idle.read() == b""
            assert not draining.done()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
            held.exchanges[0].respond(200, b"", b"done")
            answer = await read_answer(busy)
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            await draining
            writer.close()
            idle_writer.close()

    run(main())


def test_who_is_between_two_requests_may_send_one_more_before_draining() -> None:
    async def main() -> None:
        async with serving(echo) as server, connected(server.port) as (reader, writer), connected(server.port) as other:
            writer.write(GET)
            assert "connection" not in (await read_answer(reader)).headers
            other[1].write(GET)
            await read_answer(other[0])
            server.stop_accepting()
            leaving = asyncio.create_task(server.let_idle_leave(0.2))
            writer.write(GET)
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            await leaving
            draining = asyncio.create_task(server.drain(30.0))
            assert await other[0].read() == b""  # had its time, and used none of it
            await draining

    run(main())


def test_draining_aborts_what_runs_on_after_its_time() -> None:
    async def main() -> None:
        held = Held()
        async with serving(held) as server, connected(server.port) as (reader, writer):
            writer.write(GET)
            await held.arrived.wait()
            held.exchanges[0].begin(200, b"")
            held.exchanges[0].write(b"part")
            await reader.readuntil(b"part")
            await server.drain(0.05)
            assert (server.connections, server.exchanges, held.disconnects) == (0, 0, 1)
            with pytest.raises(ConnectionResetError):
                await reader.read()

    run(main())


def test_a_bug_in_a_callback_is_counted_and_takes_nothing_down() -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    async def main() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.watcher = Watching(leave=fail)
            arrived.set()

        arrived = asyncio.Event()
        failed = asyncio.Event()
        async with serving(handler, on_bug=lambda _: failed.set()) as server:
            async with connected(server.port) as (_, writer):
                writer.write(GET)
                await arrived.wait()
            await failed.wait()
            assert (server.bugs, server.exchanges) == (1, 0)

    run(main())


def test_callers_that_wait_to_be_accepted_are_counted() -> None:
    async def main() -> None:
        async with serving(echo) as server:
            # While this goes on the loop accepts nobody.
            callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(9)]
            assert (server.waiting, server.accepted) == (9 if sys.platform == "linux" else 0, 0)
            async with asyncio.timeout(20):
                while server.accepted < 9:  # noqa: ASYNC110  nothing tells
                    await asyncio.sleep(0.01)
            assert server.waiting == 0
            for caller in callers:
                caller.close()

    run(main())


def test_all_who_wait_are_accepted_in_few_turns_of_the_loop() -> None:
    async def main() -> None:
        async with serving(echo) as server:
            callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
            turns = 0
            while server.accepted < 200:
                await asyncio.sleep(0)
                turns += 1
                assert turns < 50
            for caller in callers:
                caller.close()

    run(main())


def test_who_is_answered_early_is_answered_between_two_requests_alone() -> None:
    async def main() -> None:
        def answer(data: bytes, date_line: bytes) -> bytes:
            assert date_line.startswith(b"date: ")
            return b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n" if data.startswith(b"GET /early") else b""

        early = b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n"
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            server.answer_early(answer)
            for path, status in ((b"/early", 503), (b"/", 200), (b"/early", 503), (b"/early", 503)):
                writer.write(early.replace(b"/early", path))
                assert (await read_answer(reader)).status == status
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(early))
            await asyncio.sleep(0.05)
            writer.write(early)  # the body of that
            assert repr(early) in (await read_answer(reader)).body.decode()
            server.answer_early(None)
            writer.write(early)
            assert (await read_answer(reader)).status == 200
            server.answer_early(answer)
            server.stop_accepting()
            writer.write(early)  # the last one, which has to be told so
            assert (await read_answer(reader)).headers["connection"] == "close"

    run(main())


def test_who_is_answered_early_and_reads_nothing_is_cut() -> None:
    async def main() -> None:
        big = b"HTTP/1.1 503 Busy\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
        limits = ServerLimits(stalled_reader_s=0.3)
        async with serving(echo, limits) as server:
            server.answer_early(lambda _data, _date_line: big)
            _, writer = await asyncio.open_connection(sock=_small_socket(server.port))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(10):
                while server.connections or not server.accepted:
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    await asyncio.sleep(0.01)
            writer.transport.abort()

    run(main())
