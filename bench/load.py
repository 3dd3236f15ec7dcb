"""Our own load: many open streams, an even rate of plain calls, or streams held open. Prints one JSON line.

`python -m bench.load KIND OPTIONS-JSON`, where KIND is `stream`, `latency` or `hold`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from typing import cast

import msgspec
import uvloop

from bench.exchange import DONE_MARK, EVENT_MARK, PATH, request_body

STREAM_END_S = 60.0  # how long the streams already open may take to end after the last was started
OPENERS = 256  # of streams to be held: each opens the next when one has begun, half a second later
OPENING_S = 0.02  # that one may take on average, on a machine that others use
ASK_AGAIN_S = 0.5  # after a refusal: a server that others keep from its core sheds load


class LoadOptions(msgspec.Struct, frozen=True):
    port: int
    model: str
    authorization: str = ""
    headers: tuple[tuple[str, str], ...] = ()  # beside it
    seconds: float = 5.0
    streams: int = 256
    ramp_s: float = 1.0  # streams are started evenly over this time, so that their chunks do not come in bursts
    rate: int = 1000  # plain calls per second


class LoadReport(msgspec.Struct, frozen=True):
    """What the load saw. Times in microseconds; `transit` is from the mock's write of a chunk to our read of it."""

    completed: int
    failed: int
    seconds: float
    chunks: int = 0
    received_bytes: int = 0
    reads: int = 0
    us_p50: float = 0.0
    us_p99: float = 0.0
    transit_us_p50: float = 0.0
    transit_us_p99: float = 0.0


def percentile(values: list[int], share: float) -> float:
    """The value at or above which `1 − share` of all values lie; 0 of nothing. Sorts in place. ns in, µs out."""
    if not values:
        return 0.0
    values.sort()
    return values[min(len(values) - 1, int(share * len(values)))] / 1000


class Tally:
    """Counters shared by all connections of one load."""

    def __init__(self, options: LoadOptions, *, is_stream: bool) -> None:
        body = request_body(options.model, is_stream=is_stream)
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{options.port}\r\ncontent-type: application/json\r\n"
        if options.authorization:
            head += f"authorization: {options.authorization}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in options.headers)
        self.request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self.completed = self.failed = self.chunks = self.received_bytes = self.reads = self.started = 0
        self.first_ns: list[int] = []
        self.transit_ns: list[int] = []
        self.is_running = True

    def report(self, seconds: float) -> LoadReport:
        return LoadReport(
            completed=self.completed,
            failed=self.failed,
            seconds=seconds,
            chunks=self.chunks,
            received_bytes=self.received_bytes,
            reads=self.reads,
            us_p50=percentile(self.first_ns, 0.50),
            us_p99=percentile(self.first_ns, 0.99),
            transit_us_p50=percentile(self.transit_ns, 0.50),
            transit_us_p99=percentile(self.transit_ns, 0.99),
        )


class StreamClient(asyncio.Protocol):
    """One connection that asks for a stream, counts its events, and asks again while the load runs."""

    def __init__(self, tally: Tally, begun: asyncio.Future[bool] | None = None) -> None:
        """`begun` is told whether the stream has begun; one that was refused then does not count as failed."""
        self._tally = tally
        self._begun = begun
        self._tail = b""
        self._is_open = False
        self.ended = asyncio.get_running_loop().create_future()

    def itself(self) -> StreamClient:
        """For a loop that wants to be given a factory."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._ask()

    def _ask(self) -> None:
        self._tail = b""
        self._is_open = self._is_first = True
        self._is_done = False
        self._sent_ns = time.monotonic_ns()
        self._tally.started += 1
        self.transport.write(self._tally.request)

    def data_received(self, data: bytes) -> None:
        tally = self._tally
        tally.reads += 1
        tally.received_bytes += len(data)
        if self._is_first:
            self._is_first = False
            tally.first_ns.append(time.monotonic_ns() - self._sent_ns)
            if not data.startswith(b"HTTP/1.1 200"):
                self.transport.abort()
                return
            if self._begun is not None:
                self._begun.set_result(True)
        tally.chunks += (self._tail[1 - len(EVENT_MARK) :] + data).count(EVENT_MARK)
        stamp = data.find(b"@")
        if stamp >= 0:
            self._note_transit(data, stamp)
        seen = self._tail + data
        if DONE_MARK in seen:
            self._is_done = True
        if seen.endswith(b"0\r\n\r\n"):
            self._complete()
        else:
            self._tail = seen[1 - len(DONE_MARK) :]

    def _note_transit(self, data: bytes, start: int) -> None:
        digits = data[start + 1 : data.find(b"@", start + 1)]
        if digits.isdigit():
            self._tally.transit_ns.append(time.monotonic_ns() - int(digits))

    def _complete(self) -> None:
        self._is_open = False
        if not self._is_done:
            self.transport.abort()
            self._tally.failed += 1
            return
        self._tally.completed += 1
        if self._tally.is_running:
            self._ask()
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(False)
        elif self._is_open:
            self._tally.failed += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def load_streams(options: LoadOptions) -> LoadReport:
    """Keep `streams` open for `seconds`, then let the open ones end, so that counts are exact."""
    loop = asyncio.get_running_loop()
    tally = Tally(options, is_stream=True)
    started_s = time.monotonic()
    clients = []
    for index in range(options.streams):
        _, client = await loop.create_connection(lambda: StreamClient(tally), "127.0.0.1", options.port)
        clients.append(client)
        await asyncio.sleep(started_s + options.ramp_s * index / options.streams - time.monotonic())
    await asyncio.sleep(started_s + options.seconds - time.monotonic())
    tally.is_running = False
    await asyncio.wait([client.ended for client in clients], timeout=STREAM_END_S)
    return tally.report(time.monotonic() - started_s)


async def hold_streams(options: LoadOptions) -> LoadReport:
    """Open `streams` as fast as they begin, say so on stdout when all have, and hold them until stdin ends."""
    loop = asyncio.get_running_loop()
    tally = Tally(options, is_stream=True)
    clients: list[StreamClient] = []
    waiting = iter(range(options.streams))
    started_s = time.monotonic()

    async def open_some() -> None:
        for _ in waiting:
            while True:
                begun = loop.create_future()
                client = StreamClient(tally, begun)
                await loop.create_connection(client.itself, "127.0.0.1", options.port)
                if await begun:
                    break
                await asyncio.sleep(ASK_AGAIN_S)
            clients.append(client)

    async with asyncio.timeout(STREAM_END_S + options.streams * OPENING_S):
        await asyncio.gather(*[open_some() for _ in range(OPENERS)])
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    report = tally.report(time.monotonic() - started_s)
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0)
    return report


class PlainClient(asyncio.Protocol):
    """One connection of the even-rate load; it is in `idle` between its calls."""

    def __init__(self, tally: Tally, idle: deque[PlainClient]) -> None:
        self._tally = tally
        self._idle = idle
        self._received = b""
        self._is_asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._idle.append(self)

    def ask(self) -> None:
        self._received = b""
        self._is_asked = True
        self._tally.started += 1
        self._sent_ns = time.monotonic_ns()
        self.transport.write(self._tally.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_complete(self._received):
            return
        self._tally.first_ns.append(time.monotonic_ns() - self._sent_ns)
        self._is_asked = False
        if self._received.startswith(b"HTTP/1.1 200"):
            self._tally.completed += 1
        else:
            self._tally.failed += 1
        self._idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._is_asked:
            self._tally.failed += 1
        elif self in self._idle:
            self._idle.remove(self)


def is_complete(answer: bytes) -> bool:
    """Whether a plain answer has arrived whole, by its length or its last chunk."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])


async def load_evenly(options: LoadOptions) -> LoadReport:
    """Start `rate` calls a second whether or not earlier ones were answered, over as many connections as it takes.

    The loop's timer has 1 ms; what is due by then is sent at once. A call is timed from its own sending.
    The first second warms up and is not reported.
    """
    loop = asyncio.get_running_loop()
    tally = Tally(options, is_stream=False)
    idle: deque[PlainClient] = deque()
    connections = 256  # enough for stalls of 256 ms at 1,000 calls/s before a call has to wait, which counts as failed
    for _ in range(connections):
        await loop.create_connection(lambda: PlainClient(tally, idle), "127.0.0.1", options.port)
    warm_calls = options.rate
    calls = warm_calls + int(options.rate * options.seconds)
    unsent = 0
    started_s = time.monotonic()
    for index in range(calls):
        pause_s = started_s + index / options.rate - time.monotonic()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        if index == warm_calls:
            tally.first_ns.clear()
            tally.completed = 0
        if idle:
            idle.popleft().ask()
        else:
            unsent += 1
    for _ in range(500):
        if len(idle) == connections:
            break
        await asyncio.sleep(0.01)
    tally.failed += unsent
    return tally.report(time.monotonic() - started_s - warm_calls / options.rate)


KINDS = {"stream": load_streams, "hold": hold_streams, "latency": load_evenly}

if __name__ == "__main__":
    gc.freeze()
    gc.disable()  # a run lasts seconds and makes no cycles to speak of
    report = uvloop.run(KINDS[sys.argv[1]](msgspec.json.decode(sys.argv[2], type=LoadOptions)))
    print(msgspec.json.encode(report).decode(), flush=True)
