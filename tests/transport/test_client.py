"""The pool: reuse, deadlines, and what each kind of broken origin is reported as."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.ports import reserved_port
from tests.transport.loopback import (
    HEAD,
    PATIENT,
    Recorder,
    echo,
    fetch,
    origin,
    playing,
    pooling,
    read_request,
    run,
    serving,
)
from waypost.kit.values import replace
from waypost.transport.http1_client import UNBOUNDED, ClientLimits, TransportFailure

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HASTY = replace(PATIENT, connect_s=0.2)


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An origin that reads and never answers."""
    await reader.read()


def test_the_request_is_sent_as_given_with_its_length() -> None:
    async def main() -> None:
        seen: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))
            writer.write(OK)

        async with origin(script) as port, pooling(port) as pool:
            await fetch(pool, b"hello", head=b"POST /v1 HTTP/1.1\r\nhost: a\r\nx: y\r\n")
            assert seen == [b"POST /v1 HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 5\r\n\r\nhello"]

    run(main())


def test_a_connection_is_reused_and_is_back_in_the_pool_when_the_answer_ends() -> None:
    async def main() -> None:
        async with origin(playing(OK)) as port, pooling(port) as pool:
            idle_at_end = []

            class Watcher(Recorder):
                def on_end(self) -> None:
                    idle_at_end.append(pool.idle)
                    super().on_end()

            for _ in range(3):
                watcher = Watcher()
                call = pool.call(HEAD, b"", watcher, PATIENT)
                await watcher.is_over.wait()
                assert call.is_sent
            assert idle_at_end == [1, 1, 1]
            assert pool.open == 1

    run(main())


def test_the_connection_used_last_is_used_next() -> None:
    async def main() -> None:
        ports: list[int] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                ports.append(writer.get_extra_info("peername")[1])
                writer.write(OK)

        async with origin(script) as port, pooling(port) as pool:
            await asyncio.gather(*(fetch(pool) for _ in range(5)))
            assert pool.idle == 5
            for _ in range(3):
                await fetch(pool)
            assert len(set(ports[5:])) == 1

    run(main())


def test_an_idle_connection_that_the_origin_closes_leaves_the_pool() -> None:
    async def main() -> None:
        closing = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await closing.wait()

        async with origin(script) as port, pooling(port) as pool:
            await fetch(pool)
            assert pool.idle == 1
            closing.set()
            while pool.open:  # noqa: ASYNC110  a gauge has no event
                await asyncio.sleep(0.01)
            assert pool.idle == 0
            assert (await fetch(pool)).body == b"ok"

    run(main())


def test_an_idle_connection_on_which_the_origin_speaks_leaves_the_pool() -> None:
    async def main() -> None:
        speaking = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await speaking.wait()
            writer.write(OK)
            await reader.read()

        async with origin(script) as port, pooling(port) as pool:
            await fetch(pool)
            speaking.set()
            while pool.open:  # noqa: ASYNC110  a gauge has no event
                await asyncio.sleep(0.01)
            assert pool.idle == 0

    run(main())


def test_idle_connections_are_closed_after_their_time_and_over_their_number() -> None:
    async def main() -> None:
        async with origin(playing(OK)) as port, pooling(port, ClientLimits(idle_s=0.1, idle_connections=2)) as pool:
            await asyncio.gather(*(fetch(pool) for _ in range(4)))
            assert pool.idle == 2
            while pool.open:  # noqa: ASYNC110  a gauge has no event
                await asyncio.sleep(0.02)

    run(main())


def test_a_refused_connection_and_an_unknown_host_are_told_apart() -> None:
    async def main() -> None:
        with reserved_port() as port:
            async with pooling(port) as pool:
                assert (await fetch(pool)).failure is TransportFailure.CONNECT_REFUSED
        async with pooling(80, host="no..such.host.invalid") as pool:
            assert (await fetch(pool)).failure is TransportFailure.DNS
        async with pooling(0, unix_path="/nonexistent/socket") as pool:
            assert (await fetch(pool)).failure is TransportFailure.CONNECT_REFUSED

    run(main())


def test_a_reused_connection_that_closes_before_any_byte_is_told_apart() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await read_request(reader)

        async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)  # the rest stays unread, so that the close becomes a reset
            writer.transport.abort()

        async with origin(script) as port, pooling(port) as pool:
            assert (await fetch(pool)).failure is None
            assert (await fetch(pool)).failure is TransportFailure.RESET_REUSED
        async with origin(reset) as port, pooling(port) as pool:
            assert (await fetch(pool, b"x" * 500_000)).failure is TransportFailure.RESET

    run(main())


@pytest.mark.parametrize(
    ("answer", "change", "failure"),
    [
        (b"", {"first_byte_s": 0.1}, TransportFailure.FIRST_BYTE_TIMEOUT),
        (b"HTTP/1.1 200 OK\r\n", {"idle_s": 0.1}, TransportFailure.IDLE_TIMEOUT),
        (ENDLESS + b"1\r\nx\r\n", {"idle_s": 0.1}, TransportFailure.IDLE_TIMEOUT),
        (b"", {"first_byte_s": None, "idle_s": 0.01, "total_s": 0.5}, TransportFailure.TOTAL_TIMEOUT),
        (ENDLESS + b"1\r\nx\r\n", {"total_s": 0.5}, TransportFailure.TOTAL_TIMEOUT),
    ],
)
def test_each_deadline_ends_the_call_with_its_own_failure(
    answer: bytes, change: dict[str, float | None], failure: TransportFailure
) -> None:
    async def main() -> None:
        async with origin(playing(answer)) as port, pooling(port) as pool:
            recorder = await fetch(pool, timeouts=replace(PATIENT, **change))
            assert recorder.failure is failure
            assert pool.idle == 0

    run(main())


def test_an_origin_that_keeps_talking_is_not_idle_but_ends_with_the_total() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(ENDLESS)
            while True:
                writer.write(b"1\r\nx\r\n")
                await asyncio.sleep(0.02)

        async with origin(script) as port, pooling(port) as pool:
            recorder = await fetch(pool, timeouts=replace(PATIENT, idle_s=0.5, total_s=1.2))
            assert recorder.failure is TransportFailure.TOTAL_TIMEOUT

    run(main())


def test_a_tls_origin_that_never_shakes_hands_is_a_connect_timeout() -> None:
    import ssl

    async def main() -> None:
        context = ssl.create_default_context()
        async with origin(hold) as port, pooling(port, ssl_context=context) as pool:
            assert (await fetch(pool, timeouts=HASTY)).failure is TransportFailure.CONNECT_TIMEOUT

    run(main())


def test_the_bound_of_a_body_can_be_set_for_a_call() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
        async with origin(playing(answer)) as port, pooling(port, ClientLimits(body_bytes=1000)) as pool:
            assert (await fetch(pool)).failure is TransportFailure.TOO_LARGE
            for bound, failure in ((2999, TransportFailure.TOO_LARGE), (3000, None), (UNBOUNDED, None)):
                recorder = Recorder()
                pool.call(HEAD, b"", recorder, PATIENT, body_bytes_max=bound)
                await recorder.is_over.wait()
                assert recorder.failure is failure

    run(main())


def test_closing_the_pool_ends_its_calls() -> None:
    async def main() -> None:
        async with origin(hold) as port, pooling(port) as pool:
            sent, opening = Recorder(), Recorder()
            call = pool.call(HEAD, b"", sent, PATIENT)
            while not call.is_sent:  # noqa: ASYNC110  a flag has no event
                await asyncio.sleep(0.01)
            pool.call(HEAD, b"", opening, PATIENT)
            await pool.close()
            assert (sent.failure, opening.failure) == (TransportFailure.RESET, TransportFailure.RESET)
            late = await fetch(pool)
            assert late.failure is TransportFailure.RESET

    run(main())


def test_an_answer_before_the_end_of_its_request_costs_the_connection() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await asyncio.Event().wait()

        async with origin(script) as port, pooling(port) as pool:
            recorder = await fetch(pool, b"x" * 20_000_000)
            assert (recorder.body, pool.idle) == (b"ok", 0)

    run(main())


def test_a_bug_in_a_receiver_ends_its_call_and_is_reported() -> None:
    class Broken(Recorder):
        def on_data(self, data: bytes) -> None:
            raise RuntimeError("secret")

    class BrokenAtEnd(Recorder):
        def on_end(self) -> None:
            super().on_end()
            raise RuntimeError("secret")

    async def main() -> None:
        bugs: list[BaseException] = []
        async with origin(playing(OK)) as port, pooling(port, on_bug=bugs.append) as pool:
            for receiver, failure in ((Broken(), TransportFailure.MALFORMED), (BrokenAtEnd(), None)):
                pool.call(HEAD, b"", receiver, PATIENT)
                await receiver.is_over.wait()
                assert receiver.failure is failure
            assert pool.bugs == len(bugs) == 2

    run(main())


def test_a_unix_socket_can_be_called(tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        async with serving(echo, unix_path=path), pooling(0, unix_path=path) as pool:
            for _ in range(2):
                assert (await fetch(pool, b"hello")).body.endswith(b"b'hello')")
            assert pool.open == 1

    run(main())
