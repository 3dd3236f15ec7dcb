"""The pool: reuse, deadlines, aborted calls, back-pressure, and what each kind of broken origin is reported as."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

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
from waypost.transport.http1_client import UNBOUNDED, Call, ClientLimits, Pool, TransportFailure
from waypost.transport.http1_server import Exchange

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HASTY = msgspec.structs.replace(PATIENT, connect_s=0.2)


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An origin that reads and never answers."""
    await reader.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
        async with pooling(free_port()) as pool:
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
        (b"", {"first_byte_s": None, "idle_s": 0.01, "total_s": 0.3}, TransportFailure.TOTAL_TIMEOUT),
        (ENDLESS + b"1\r\nx\r\n", {"total_s": 0.1}, TransportFailure.TOTAL_TIMEOUT),
    ],
)
def test_each_deadline_ends_the_call_with_its_own_failure(
    answer: bytes, change: dict[str, float | None], failure: TransportFailure
) -> None:
    async def main() -> None:
        async with origin(playing(answer)) as port, pooling(port) as pool:
            recorder = await fetch(pool, timeouts=msgspec.structs.replace(PATIENT, **change))
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
            recorder = await fetch(pool, timeouts=msgspec.structs.replace(PATIENT, idle_s=0.3, total_s=0.8))
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


def test_an_aborted_call_tells_nothing_more_and_closes_its_connection() -> None:
    async def main() -> None:
        hung_up = asyncio.Queue[bool]()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await read_request(reader)
                writer.write(ENDLESS + b"1\r\nx\r\n")
                await reader.read()
            finally:
                hung_up.put_nowait(True)

        async with origin(script) as port, pooling(port) as pool:

            class Quitter(Recorder):
                call: Call

                def __init__(self, at: str) -> None:
                    super().__init__()
                    self.at = at

                def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
                    super().on_head(status, headers)
                    if self.at == "head":
                        self.call.abort()

                def on_data(self, data: bytes) -> None:
                    super().on_data(data)
                    if self.at == "data":
                        self.call.abort()

            for at in ("head", "data"):
                quitter = Quitter(at)
                quitter.call = pool.call(HEAD, b"", quitter, PATIENT)
                await hung_up.get()
                assert (quitter.body, quitter.is_over.is_set()) == (b"" if at == "head" else b"x", False)
                quitter.call.abort()
            unsent = Recorder()
            call = pool.call(HEAD, b"", unsent, PATIENT)
            call.abort()
            assert not call.is_sent
            assert (await fetch_head(pool)).status == 200
            assert not unsent.is_over.is_set()

    async def fetch_head(pool: Pool) -> Recorder:
        recorder = Recorder()
        call = pool.call(HEAD, b"", recorder, PATIENT)
        await recorder.has_head.wait()
        call.abort()
        return recorder

    run(main())


def test_aborting_after_the_end_does_not_touch_the_next_call_on_that_connection() -> None:
    async def main() -> None:
        async with origin(playing(OK)) as port, pooling(port) as pool:
            first, second = Recorder(), Recorder()
            ended = pool.call(HEAD, b"", first, PATIENT)
            await first.is_over.wait()
            pool.call(HEAD, b"", second, PATIENT)
            ended.abort()
            ended.pause()
            ended.resume()
            await second.is_over.wait()
            assert second.body == b"ok"

    run(main())


def test_a_storm_of_aborted_calls_leaves_no_connection_and_no_task() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(ENDLESS + b"1\r\nx\r\n")
            await reader.read()

        tasks = len(asyncio.all_tasks())
        async with origin(script) as port:
            async with pooling(port) as pool:
                for batch in range(10):
                    recorders = [Recorder() for _ in range(100)]
                    calls = [pool.call(HEAD, b"x", recorder, PATIENT) for recorder in recorders]
                    # A tenth is aborted at once, others while connecting, in the head, or within the body.
                    for turn, call in enumerate(calls):
                        if turn % 10 == batch:
                            await asyncio.sleep(0)
                        if turn % 3 == 0:
                            call.abort()
                    await recorders[1].has_data.wait()
                    for call in calls:
                        call.abort()
                    assert not any(recorder.is_over.is_set() for recorder in recorders)
                while pool.open:  # noqa: ASYNC110  a gauge has no event
                    await asyncio.sleep(0.01)
            assert pool.bugs == 0
        assert len(asyncio.all_tasks()) == tasks

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


def test_a_paused_call_reads_no_further_and_its_origin_must_wait() -> None:
    async def main() -> None:
        sent = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n")
            while sent < 30_000_000:
                writer.write(b"x" * 100_000)
                sent += 100_000
                await writer.drain()
                if sent == 20_000_000:
                    raise AssertionError("the caller has paused")
            await reader.read()

        async with origin(script) as port, pooling(port) as pool:

            class Pauser(Recorder):
                def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
                    super().on_head(status, headers)
                    call.pause()

            recorder = Pauser()
            timeouts = msgspec.structs.replace(PATIENT, idle_s=0.2)
            call = pool.call(HEAD, b"", recorder, timeouts)
            await recorder.has_head.wait()
            await asyncio.sleep(0.7)  # three sweeps: a paused call is not idle
            assert not recorder.is_over.is_set()
            assert len(recorder.body) < 1_000_000
            assert sent < 20_000_000
            call.abort()

    run(main())


def test_a_stalled_caller_holds_the_origin_back_through_both_sides_and_gets_everything_in_the_end() -> None:
    size, step = 24_000_000, 60_000

    async def main() -> None:
        produced = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal produced
            await read_request(reader)
            writer.write(ENDLESS)
            while produced < size:
                writer.write(b"%x\r\n%b\r\n" % (step, b"x" * step))
                produced += step
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await reader.read()

        class Relay:
            def __init__(self, exchange: Exchange, pool: Pool) -> None:
                self.exchange = exchange
                self.call = pool.call(HEAD, b"", self, PATIENT)
                exchange.on_blocked = self.call.pause
                exchange.on_writable = self.call.resume
                exchange.on_disconnect = self.call.abort

            def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
                self.exchange.begin(status, b"")

            def on_data(self, data: bytes) -> None:
                self.exchange.write(data)

            def on_end(self) -> None:
                self.exchange.end()

            def on_failure(self, failure: TransportFailure) -> None:
                self.exchange.abort()

        def relay(exchange: Exchange) -> None:
            Relay(exchange, pool)

        async with (
            origin(script) as port,
            pooling(port) as pool,
            serving(relay) as server,
            pooling(server.port) as callers,
        ):
            recorder = Recorder()
            call = callers.call(HEAD, b"", recorder, PATIENT)
            await recorder.has_head.wait()
            call.pause()
            before = -1
            while before != produced:
                before = produced
                await asyncio.sleep(0.1)
            assert produced < size, "the kernel's buffers and our bounded ones do not hold that much"
            call.resume()
            await recorder.is_over.wait()
            assert (recorder.failure, len(recorder.body)) == (None, size)

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
