"""Calls that are aborted, paused, or held back by a slow reader."""

from __future__ import annotations

import asyncio

from tests.transport.loopback import (
    HEAD,
    PATIENT,
    Recorder,
    Watching,
    origin,
    playing,
    pooling,
    read_request,
    run,
    serving,
)
from waypost.kit.values import replace
from waypost.transport.http1_client import Call, Pool, TransportFailure
from waypost.transport.http1_server import Exchange

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


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
            timeouts = replace(PATIENT, idle_s=0.2)
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
                exchange.watcher = Watching(self.call.abort, self.call.pause, self.call.resume)

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
