"""How answers leave the server: framing, order, keep-alive, and what a handler's mistake becomes."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from tests.transport.loopback import connected, echo, read_answer, run, serving
from waypost.transport.http1_server import Exchange, Http1Server

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET10 = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def stream(exchange: Exchange) -> None:
    exchange.begin(200, b"content-type: text/event-stream\r\n")
    exchange.write(b"one")
    exchange.write(b"")
    exchange.end(b"two")


async def ask(server: Http1Server, data: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    async with connected(server.port) as (reader, writer):
        writer.write(data)
        return await reader.read()


def test_after_a_streamed_answer_the_next_request_is_read_in_any_cut() -> None:
    async def main() -> None:
        body = b"0123456789"
        request = POST + b"Content-Length: 10\r\n\r\n" + body
        seen: list[tuple[str, dict[bytes, bytes], bytes]] = []

        def handler(exchange: Exchange) -> None:
            seen.append((exchange.method, exchange.headers, exchange.body.unwrap()))
            stream(exchange)

        async with serving(handler) as server, connected(server.port) as (reader, writer):
            for cut in range(1, len(request)):
                writer.write(request[:cut])
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(request[cut:])
                assert (await reader.readuntil(b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.write(request + b"GET / HTTP/1.1\r\n" + b"Host: b\r\n\r\n")  # sent ahead
            for _ in range(2):
                assert (await reader.readuntil(b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert seen[:-1] == [("POST", {b"host": b"a", b"content-length": b"10"}, body)] * len(request)
        assert seen[-1] == ("GET", {b"host": b"b"}, b"")

    run(main())


def without_date(answer: bytes) -> bytes:
    return b"\r\n".join(line for line in answer.split(b"\r\n") if not line.startswith(b"date: "))


def test_an_answer_carries_date_length_and_the_handlers_headers_and_nothing_else() -> None:
    async def main() -> None:
        async with serving(lambda exchange: exchange.respond(200, b"x-a: b\r\n", b"hello")) as server:
            answer = await ask(server, LAST)
            assert b"\r\ndate: " in answer
            assert without_date(answer) == (
                b"HTTP/1.1 200 OK\r\nconnection: close\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello"
            )

    run(main())


def test_a_status_without_a_registered_name_is_sent_with_an_empty_one() -> None:
    async def main() -> None:
        async with serving(lambda exchange: exchange.respond(529, b"", b"")) as server:
            assert (await ask(server, LAST)).startswith(b"HTTP/1.1 529 \r\n")

    run(main())


def test_a_streamed_answer_is_chunked_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with serving(stream) as server:
            answer = without_date(await ask(server, GET + LAST))
            body = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            assert answer == (
                b"HTTP/1.1 200 OK\r\n" + head + body + b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + head + body
            )

    run(main())


def test_a_streamed_answer_without_any_write_is_empty_and_complete() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.begin(200, b"")
        exchange.end()

    async def main() -> None:
        async with serving(handler) as server:
            assert (await ask(server, LAST)).endswith(b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n")

    run(main())


def test_the_head_of_a_stream_can_leave_before_its_first_write() -> None:
    async def main() -> None:
        begun: list[Exchange] = []

        def handler(exchange: Exchange) -> None:
            exchange.begin(200, b"")
            exchange.flush_head()
            begun.append(exchange)

        async with serving(handler) as server, connected(server.port) as (reader, writer):
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
            begun[0].write(b"x")
            begun[0].end()
            assert await reader.readuntil(b"0\r\n\r\n") == b"1\r\nx\r\n0\r\n\r\n"

    run(main())


def test_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    async def main() -> None:
        async with serving(stream) as server:
            for request in (GET10, GET10[:-2] + b"Connection: keep-alive\r\n\r\n"):
                answer = without_date(await ask(server, request))
                expected = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\nonetwo"
                assert answer == expected

    run(main())


def test_http_1_0_is_kept_alive_only_when_asked() -> None:
    async def main() -> None:
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            writer.write(GET10[:-2] + b"Connection: keep-alive\r\n\r\n")
            assert (await read_answer(reader)).headers["connection"] == "keep-alive"
            writer.write(GET10)
            assert (await read_answer(reader)).headers["connection"] == "close"
            assert await reader.read() == b""

    run(main())


def test_head_is_answered_without_a_body_but_with_its_length() -> None:
    async def main() -> None:
        async with serving(lambda exchange: exchange.respond(200, b"", b"hello")) as server:
            answer = without_date(await ask(server, HEAD + LAST))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\n")
        async with serving(stream) as server:
            answer = without_date(await ask(server, HEAD + LAST))
            assert b"chunked\r\n\r\nHTTP/1.1 200 OK\r\n" in answer
        async with serving(echo) as server:
            assert (await ask(server, HEAD[:-2] + b"Host: b\r\n\r\n")).endswith(b"\r\n\r\n")

    run(main())


def test_204_and_304_have_neither_body_nor_length() -> None:
    async def main() -> None:
        async with serving(lambda exchange: exchange.respond(int(exchange.path[1:]), b"", b"")) as server:
            for status in (b"204", b"304"):
                answer = await ask(server, LAST.replace(b"last", status))
                assert b"content-length" not in answer
                assert answer.endswith(b"\r\n\r\n")

    run(main())


def test_pipelined_requests_are_handled_one_at_a_time_and_answered_in_order() -> None:
    async def main() -> None:
        waiting: list[Exchange] = []
        arrived = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            waiting.append(exchange)
            arrived.set()

        async with serving(handler) as server, connected(server.port) as (reader, writer):
            writer.write(b"".join(GET.replace(b"/ ", b"/%d " % n) for n in range(5)))
            for n in range(5):
                await arrived.wait()
                arrived.clear()
                assert len(waiting) == n + 1
                waiting[n].respond(200, b"", waiting[n].path.encode())
                assert (await read_answer(reader)).body == b"/%d" % n

    run(main())


def test_more_requests_in_one_read_than_may_wait_are_refused_after_the_others_were_answered() -> None:
    async def main() -> None:
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            writer.write(GET * 70)
            statuses = [(await read_answer(reader)).status for _ in range(65)]
            assert statuses == [200] * 64 + [429]
            assert await reader.read() == b""

    run(main())


def test_what_is_sent_ahead_of_an_answer_stays_in_the_kernel() -> None:
    async def main() -> None:
        waiting: list[Exchange] = []
        arrived = asyncio.Event()

        def handler(exchange: Exchange) -> None:
            waiting.append(exchange)
            arrived.set()

        big = POST + b"Content-Length: 8000000\r\n\r\n" + b"x" * 8_000_000
        async with serving(handler) as server, connected(server.port) as (reader, writer):
            writer.write(GET)
            await arrived.wait()
            arrived.clear()
            writer.write(big)
            async with connected(server.port) as (_, other):  # a full turn of the server for another caller
                other.write(GET)
                await arrived.wait()
            assert server.buffered_bytes <= 256 * 1024
            arrived.clear()
            waiting[0].respond(200, b"", b"")
            assert (await read_answer(reader)).status == 200
            await arrived.wait()
            assert len(waiting[-1].body) == 8_000_000

    run(main())


def test_a_caller_that_expects_100_continue_gets_it_before_it_sends_the_body() -> None:
    async def main() -> None:
        expecting = POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            writer.write(expecting)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert (await read_answer(reader)).status == 200
            writer.write(expecting + b"abc")  # did not wait: needs no 100
            assert (await read_answer(reader)).status == 200
            writer.write(GET + expecting)
            assert [(await read_answer(reader)).status for _ in range(2)] == [200, 100]
            writer.write(b"abc")
            assert (await read_answer(reader)).status == 200

    run(main())


def test_an_aborted_stream_has_no_end_that_a_caller_could_take_for_one() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.begin(200, b"")
        exchange.write(b"part")
        exchange.abort()
        exchange.write(b"more")
        exchange.end()
        assert not exchange.is_open

    async def main() -> None:
        async with serving(handler) as server:
            assert (await ask(server, GET)).endswith(b"\r\n\r\n4\r\npart\r\n")
            # In HTTP/1.0 the end of the connection is an end: only a reset tells.
            with pytest.raises(ConnectionResetError):
                await ask(server, GET10)

    run(main())


def test_an_exception_out_of_the_handler_is_our_error_and_never_shown() -> None:
    def handler(exchange: Exchange) -> None:
        if exchange.path == "/streamed":
            exchange.begin(200, b"")
            exchange.write(b"part")
        elif exchange.path == "/begun":
            exchange.begin(200, b"")
        elif exchange.path == "/answered":
            exchange.respond(200, b"", b"fine")
        raise RuntimeError("secret")

    async def main() -> None:
        bugs: list[BaseException] = []
        async with serving(handler, on_bug=bugs.append) as server:
            answer = await ask(server, LAST)
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert answer.endswith(b"\r\n\r\nINTERNAL_ERROR")
            assert (await ask(server, LAST.replace(b"/last", b"/begun"))).startswith(b"HTTP/1.1 500 ")
            assert (await ask(server, LAST.replace(b"/last", b"/streamed"))).endswith(b"4\r\npart\r\n")
            assert (await ask(server, LAST.replace(b"/last", b"/answered"))).endswith(b"fine")
            assert server.bugs == len(bugs) == 4

    run(main())


def test_a_refusal_that_cannot_be_rendered_closes_the_connection() -> None:
    def broken(code: object) -> tuple[bytes, bytes]:
        raise RuntimeError("secret")

    async def main() -> None:
        async with serving(echo, refuse=broken) as server:
            async with connected(server.port) as (reader, writer):
                writer.write(b"bad\r\n\r\n")
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            assert server.bugs == 1

    run(main())


def test_a_unix_socket_serves_as_well_and_has_no_client_host(tmp_path: Path) -> None:
    async def main() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.respond(200, b"", repr(exchange.client_host).encode())

        path = str(tmp_path / "s")
        async with serving(handler, unix_path=path) as server:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(LAST)
            assert (await read_answer(reader)).body == b"''"
            writer.close()
            assert (await ask(server, LAST)).endswith(b"'127.0.0.1'")

    run(main())


def test_a_large_body_arrives_whole_by_length_and_in_chunks() -> None:
    async def main() -> None:
        body = bytes(range(256)) * 8192
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:70000], body[70000:]))
        by_length = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            for request in (by_length, chunked):
                writer.write(request)
                assert ast.literal_eval((await read_answer(reader)).body.decode())[4] == body

    run(main())
