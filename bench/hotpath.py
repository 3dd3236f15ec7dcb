"""`python -m bench.hotpath`: CPU of the gateway's own code for one plain call and one streamed chunk, sockets left out.

The whole gateway of `app.wiring` in this process, with its journal, limits, wallet and settler, between two transports
that only remember what was written to them: no kernel, no database, no other process. So a figure holds still to about
one per cent on a busy machine, which is what a change of a microsecond needs. What a call really costs, sockets and
PostgreSQL included, `bench` and `bench.compare` tell.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import signal
import statistics
import sys
import tempfile
import time
import tomllib
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvloop

from bench.baseline import Ports
from bench.exchange import DONE, PATH, answer_body, request_body, stream_event, stream_model
from bench.product import REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, configuration
from bench.scenario import PLAIN_MODEL, Shape
from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.fleet import Fleet
from waypost.gateway.allowance import Allowances
from waypost.gateway.books import GatewayBooks
from waypost.gateway.callers import FailedKeys
from waypost.gateway.idempotency import Idempotency
from waypost.gateway.journal import Journal
from waypost.gateway.pipeline import Gateway
from waypost.gateway.pressure import Pressure
from waypost.gateway.readiness import State
from waypost.gateway.relay import OpenStreams
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import NodeIdentity, Wallet
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.ledger.record import Balance, ClosedAttempt, Heartbeat
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
from waypost.storage.settlement import settle_parameters
from waypost.telemetry.metrics import Counter, Histogram
from waypost.tenancy.api_key import ApiKey, Scope, assemble
from waypost.tenancy.keyring import Keyring
from waypost.tenancy.pepper import Pepper, Peppers
from waypost.transport.client_connection import ClientConnection
from waypost.transport.limits import ServerLimits
from waypost.transport.server_connection import Connection, Rules

CONNECTIONS = 64
BATCH = 320  # requests between two settlements, as at 4,000 a second
_SECRET = bytes(range(32))


class Remembering:
    """A transport that keeps what was written last, and tells that something was."""

    def __init__(self, on_write: Callable[[], None]) -> None:
        self.written = b""
        self._on_write = on_write

    def write(self, data: bytes) -> None:
        self.written = data
        self._on_write()

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Rich:
    """A ledger that grants everything and books nothing; the rows of a batch are packed as for the real one."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    async def register_node(self, _: bytes) -> int:
        return 1

    async def grant(self, *, amount_nanos: int, **_: Any) -> int:
        return amount_nanos

    async def extend(self, *, to_nanos: int, **_: Any) -> int:
        return to_nanos

    async def snapshot(self, _: bytes) -> Balance:
        return Balance(1 << 60, 0, 0)

    async def report_holds(self, *_: Any, **__: Any) -> Heartbeat:
        return Heartbeat(1, frozenset(), frozenset())

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        settle_parameters(batch, self._ids)


class Place:
    """A gateway and its callers' connections."""

    def __init__(self, folder: Path) -> None:
        self.ids, self.clock = Ids(), SystemClock()
        ledger = cast(Any, Rich(self.ids))
        self.journal = Journal.open_dir(folder)
        self.settler = Settler(ledger, self.journal, self.clock, on_refused=_refused)
        node = NodeIdentity(bytes(16), 1)
        self.wallet = Wallet(ledger, self.journal, self.ids, self.clock, node, self.settler)
        keyring, key = Keyring(Peppers(Pepper(1, _SECRET))), assemble(_SECRET)
        self.org_id = self.ids.new()
        api_key = ApiKey(
            self.ids.new(),
            self.org_id,
            keyring.peppers.newest.digest(key),
            Scope.FULL,
            requests_per_minute=REQUESTS_PER_MINUTE,
            tokens_per_minute=TOKENS_PER_MINUTE,
        )
        keyring.adopt([api_key], 1, 0)
        self.authorization = f"Bearer {key}"
        view = build_view(read_catalogue(tomllib.loads(configuration(Ports(1), Shape()))), 1)
        self.fleet = Fleet(cast(Any, lambda _: "bench-upstream"), _no_dice)
        self.fleet.adopt(view)
        books = GatewayBooks(journal=self.journal, wallet=self.wallet, settler=self.settler)
        dispatcher = Dispatcher(
            books=books,
            clock=self.clock,
            dice=_no_dice,
            attempts_counted=Counter("attempts", "", ("provider", "deployment", "outcome")),
            fields_dropped=Counter("dropped", ""),
        )
        state = State()
        state.is_ready = True
        pressure = Pressure(_no_dice, Counter("shed", ""))
        pressure.close()  # its timer would find the loop late, which turns only here and there
        self.gateway = Gateway(
            keyring=keyring,
            view=lambda: view,
            fleet=self.fleet,
            allowances=Allowances(),
            failed_keys=FailedKeys(),
            pressure=pressure,
            wallet=self.wallet,
            idempotency=Idempotency(cast(Any, None), secret=_SECRET, node_id=bytes(16), node_epoch=1),
            dispatcher=dispatcher,
            open_streams=OpenStreams(asyncio.get_running_loop()),
            ids_source=self.ids,
            clock=self.clock,
            ids_key=_SECRET,
            state=state,
            answers_counted=Counter("answers", "", ("model", "outcome", "code")),
            answers_timed=Histogram("seconds", "", ("model",)),
        )
        books.on_final = self.gateway.ended
        books.on_unused = self.gateway.unused
        rules = self.rules = Rules(self.gateway.handle, cast(Any, None), ServerLimits(), _raise)
        rules.time = asyncio.get_running_loop().time
        self._outboxes = [rules.outbox]
        self.callers = [Connection(rules) for _ in range(CONNECTIONS)]
        self.shown = [Remembering(_ignore) for _ in self.callers]
        for connection, shown in zip(self.callers, self.shown, strict=True):
            connection.connection_made(cast(Any, shown))
        self.asked: list[ClientConnection] = []
        """Upstream connections that calls went to, since it was last cleared."""
        for live in {id(live.pool): live for live in self.fleet.deployments()}.values():
            for _ in range(CONNECTIONS):
                other = ClientConnection(live.pool, 1 << 16)
                other.connection_made(cast(Any, Remembering(partial(self.asked.append, other))))
                live.pool.keep(other)
            self._outboxes.append(live.pool.outbox)

    def end_turn(self) -> None:
        """As the loop does, once all sockets that were ready have been read."""
        for outbox in self._outboxes:
            outbox.flush()

    def request(self, model: str, *, is_stream: bool) -> bytes:
        body = request_body(model, is_stream=is_stream)
        lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1:9331", "Content-Type: application/json"]
        lines += [f"Authorization: {self.authorization}", f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    async def credit(self) -> None:
        """So much on the lease that no request of ours asks for more."""
        self.wallet.release(await self.wallet.hold_with_grant(self.org_id, 1 << 50))


def _ignore() -> None:
    pass


def _no_dice() -> float:
    return 0.5


def _refused(_: ClosedAttempt, error: Exception) -> None:
    raise error


def _raise(error: BaseException) -> None:
    raise error


Act = Callable[[], None]


def plain(place: Place) -> Act:
    """A function that makes a plain call on every connection: all requests first, then all answers, since calls that
    overlap are what a busy gateway has, and a single one would find everything in the processor's cache."""
    request = place.request(PLAIN_MODEL, is_stream=False)
    body = answer_body()
    answer = (
        b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 26 Nov 2026 15:00:00 GMT\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%b" % (len(body), body)
    )

    def call() -> None:
        place.asked.clear()
        for caller in place.callers:
            caller.data_received(request)
        place.end_turn()
        for upstream in place.asked:
            upstream.data_received(answer)
        place.end_turn()

    call()
    assert all(each.written.startswith(b"HTTP/1.1 200 OK") for each in place.shown)
    return call


def stream(place: Place) -> Act:
    """A function that makes a streamed call of 100 chunks on every connection, each chunk in a read of its own."""
    shape = Shape()
    request = place.request(stream_model(shape.chunks, shape.pace_ms), is_stream=True)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    events = [_chunked(stream_event(index, shape.chunks, now_ns=0)) for index in range(shape.chunks)]
    events[0] = head + events[0]
    events[-1] += _chunked(DONE) + b"0\r\n\r\n"

    def call() -> None:
        place.asked.clear()
        for caller in place.callers:
            caller.data_received(request)
        place.end_turn()
        for data in events:
            for upstream in place.asked:
                upstream.data_received(data)
            place.end_turn()

    call()
    assert all(each.written.endswith(b"0\r\n\r\n") for each in place.shown)
    return call


def shed(place: Place) -> Act:
    """A function that makes a plain call on every connection, while the process sheds all of them."""
    request = place.request(PLAIN_MODEL, is_stream=False)
    shedding = place.gateway.pressure.shedding

    def call() -> None:
        shedding.look(0.0, lag_s=0.0, memory_share=1.0)
        place.rules.answer_early = place.gateway.early.answer
        for caller in place.callers:
            caller.data_received(request)
        place.end_turn()
        shedding.look(0.0, lag_s=0.0, memory_share=0.0)
        place.rules.answer_early = None

    call()
    assert all(each.written.startswith(b"HTTP/1.1 503 ") for each in place.shown)
    return call


def _chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


_KINDS = {"plain": (plain, CONNECTIONS), "stream": (stream, 100 * CONNECTIONS), "shed": (shed, CONNECTIONS)}


async def measure(place: Place, name: str, rounds: int, per_round: int) -> None:
    make, parts = _KINDS[name]
    act = make(place)
    per_round = max(1, per_round // parts)
    taken = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        for count in range(per_round):
            act()
            if (count + 1) * CONNECTIONS % BATCH == 0:
                await place.settler.book()
        taken.append((time.thread_time_ns() - begin) / per_round / parts / 1000)
        place.journal.maintain()
        while place.settler.backlog:
            await place.settler.book()
    unit = "chunks" if name == "stream" else "calls"
    print(
        f"{name:6} {min(taken):7.2f} µs at best, {statistics.median(taken):7.2f} µs median  "
        f"({rounds} rounds of {per_round * parts:,} {unit})",
        flush=True,
    )


async def profile(place: Place, name: str, calls: int, lines: int) -> None:
    """Where the time goes, by samples of CPU time (cProfile adds most to what is called most), and how many functions
    are called."""
    make, parts = _KINDS[name]
    act = make(place)
    own: Counts[str] = Counts()
    whole: Counts[str] = Counts()

    def look(_: int, frame: FrameType | None) -> None:
        seen: set[str] = set()
        while frame is not None:
            code = frame.f_code
            named = f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_name}"
            if not seen:
                own[named] += 1
            seen.add(named)
            frame = frame.f_back
        whole.update(seen)

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    begin = time.thread_time_ns()
    for count in range(max(1, calls // parts)):
        act()
        if (count + 1) * CONNECTIONS % BATCH == 0:
            await place.settler.book()
            place.journal.maintain()
    signal.setitimer(signal.ITIMER_PROF, 0)
    per_part = (time.thread_time_ns() - begin) / 1000 / calls
    samples = own.total()
    print(f"{name}: {_calls_made(act) / parts:.1f} function calls; µs by itself, with what it calls")
    for named, count in own.most_common(lines):
        print(f"{count / samples * per_part:7.2f} {whole[named] / samples * per_part:7.2f}  {named}")


def _calls_made(act: Callable[[], None]) -> float:
    profiler = cProfile.Profile()
    profiler.runcall(act)
    return sum(each.callcount for each in profiler.getstats())


async def run(chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="waypost-bench-", dir=chosen.folder) as folder:
        place = Place(Path(folder))
        await place.credit()
        gc.freeze()
        for name in chosen.only.split(","):
            if chosen.profile:
                await profile(place, name, chosen.rounds * chosen.calls, chosen.profile)
            else:
                await measure(place, name, chosen.rounds, chosen.calls)
        place.gateway.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hotpath", description=__doc__)
    parser.add_argument("--only", default="plain,stream,shed", help="of plain,stream,shed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=4_000, help="per round (4000)")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="LINES", help="where the time goes instead, and function calls"
    )
    parser.add_argument("--folder", help="where the journal is (the system's temporary folder)")
    uvloop.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
