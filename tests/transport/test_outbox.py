"""Bytes of one turn of the loop, written at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.transport.loopback import (
    HEAD,
    PATIENT,
    Recorder,
    connected,
    fetch,
    origin,
    pooling,
    read_answer,
    read_request,
    run,
    serving,
)
from waypost.transport.http1_client import Call, TransportFailure
from waypost.transport.http1_server import Exchange
from waypost.transport.outbox import Outbox

ASKED = b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n"


class Socket(asyncio.Transport):
    """Remembers what was written, in the order of all of them, and then does what it was told to."""

    def __init__(self, written: list[bytes], then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.written = written
        self.then = then
        self.is_shut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_shut
        self.written.append(bytes(data))
        self.then()

    def is_closing(self) -> bool:
        return self.is_shut

    def abort(self) -> None:
        self.is_shut = True


def test_a_turns_bytes_leave_together_in_order_when_it_ends() -> None:
    async def main() -> None:
        outbox, written = Outbox(), list[bytes]()
        one, two = Socket(written), Socket(written)
        for turn in range(2):
            before = outbox.turn
            for transport, data in ((one, b"a"), (two, b"b"), (one, b"c")):
                outbox.add(transport, data)
            assert (written, outbox.turn) == ([b"a", b"b", b"c"] * turn, before)
            await asyncio.sleep(0)
            assert written == [b"a", b"b", b"c"] * (turn + 1)
            assert outbox.turn > before

    run(main())


def test_much_is_written_at_once_so_that_a_full_socket_is_noticed() -> None:
    async def main() -> None:
        outbox, written = Outbox(), list[bytes]()
        socket = Socket(written)
        outbox.add(socket, b"x")
        assert written == []
        outbox.add(socket, b"y" * 262_144)
        assert [len(data) for data in written] == [1, 262_144]

    run(main())


def test_what_a_closed_transport_was_to_say_is_dropped_and_the_rest_is_written() -> None:
    async def main() -> None:
        outbox, written = Outbox(), list[bytes]()
        doomed = Socket(written)

        def hang_up() -> None:
            """As a connection that closes another one while it is told to pause."""
            doomed.abort()
            outbox.flush()

        outbox.add(Socket(written, hang_up), b"first")
        outbox.add(doomed, b"never")
        outbox.add(Socket(written), b"last")
        await asyncio.sleep(0)
        assert written == [b"first", b"last"]

    run(main())


def test_answers_of_one_turn_to_many_callers_reach_each_of_them_whole_though_some_connections_close() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin(200, b"")
        exchange.write(exchange.path.encode())
        exchange.end(b"." * 100)

    async def ask(port: int, number: int) -> tuple[int, bytes, str]:
        async with connected(port) as (reader, writer):
            is_last = number % 3 == 0
            asked = ASKED % number
            writer.write(asked.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") if is_last else asked)
            got = await read_answer(reader)
            assert await reader.read() == b"" if is_last else not reader.at_eof()
            return got.status, got.body, got.headers.get("connection", "")

    async def main() -> None:
        async with serving(answer) as server:
            got = await asyncio.gather(*(ask(server.port, number) for number in range(30)))
            assert got == [(200, b"/%d" % number + b"." * 100, "" if number % 3 else "close") for number in range(30)]

    run(main())


def test_an_origin_that_speaks_before_it_was_asked_is_not_believed() -> None:
    """What comes on an idle connection in the turn in which it is given its next call is no answer to that call."""

    async def main() -> None:
        peers = asyncio.Queue[asyncio.StreamWriter]()
        recorder = Recorder()
        calls: list[Call] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peers.put_nowait(writer)
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            assert await reader.read() == b"", "the request was sent after all"

        async with origin(script) as port, pooling(port) as pool:
            assert (await fetch(pool)).body == b"ok"
            origin_side = await peers.get()

            def hand_on(exchange: Exchange) -> None:
                calls.append(pool.call(HEAD, b"", recorder, PATIENT))
                exchange.respond(204, b"", b"")

            async with serving(hand_on) as server, connected(server.port) as (reader, writer):
                await asyncio.sleep(0.05)  # the connection is accepted
                writer.write(ASKED % 1)  # is read first; and in the same turn
                origin_side.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nothers")
                assert (await read_answer(reader)).status == 204
                await recorder.is_over.wait()
        assert (recorder.failure, recorder.body) == (TransportFailure.RESET_REUSED, b"")
        assert not calls[0].is_sent

    run(main())


def test_one_transports_error_does_not_keep_others_waiting() -> None:
    async def main() -> None:
        outbox, written = Outbox(), list[bytes]()

        def fail() -> None:
            raise RuntimeError

        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
        outbox.add(Socket([], fail), b"broken")
        outbox.add(Socket(written), b"sound")
        for _ in range(3):
            await asyncio.sleep(0)
        assert written == [b"sound"]

    run(main())
