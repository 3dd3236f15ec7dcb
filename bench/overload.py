"""Three times as much as a gateway can do: how much of its best it still does, and how fast it says no.

python -m bench.overload [--seconds 20] [--share 0.15] [--times 3] [--publish]

The gateway has a fixed share of a core (see `bench.share`), so that the load can be made. Its best is that of three
closed loops. Then calls start at an even rate, answered or not, over as many connections as it takes; each is
timed from when it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench import system as systems
from bench import wrk
from bench.baseline import Ports
from bench.load import LoadOptions, Tally, is_complete, percentile
from bench.process import BenchError, wait_idle
from bench.product import product
from bench.report import publish
from bench.scenario import PLAIN_MODEL, WARM_S, Shape
from bench.share import bounded, gateways, require_groups
from bench.system import Place
from bench.tools import choose_cores, find_tools, raise_file_limit

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- overload:begin -->", "<!-- overload:end -->"
CONNECTIONS = (16, 64, 256)  # of the closed loops: too few leave it idle at times, of too many some are refused
CONNECTIONS_MAX = 4_000  # of the open one; a call without a free one counts as unanswered
SETTLE_S = 5.0  # of overload before it counts: what sheds looks at a second at least


class Answers(msgspec.Struct, frozen=True):
    """What came back of an open loop, without its first seconds. Times in µs, from when a call was due."""

    seconds: float
    admitted: int
    shed: int
    failed: int  # any other status, a connection that broke, or no answer at all
    admitted_us_p50: float
    admitted_us_p99: float
    shed_us_p50: float
    shed_us_p99: float


class Caller(asyncio.Protocol):
    """One connection, with one call at a time."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._received = b""
        self._due_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, due_ns: int) -> None:
        self._received, self._due_ns = b"", due_ns
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if is_complete(self._received):
            due_ns, self._due_ns = self._due_ns, 0
            self._load.answered(self._received[9:12], due_ns)
            self._load.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._due_ns:
            self._load.answered(b"", self._due_ns)
        elif self in self._load.idle:
            self._load.idle.remove(self)


class OpenLoad:
    def __init__(self, options: LoadOptions) -> None:
        self.request = Tally(options, is_stream=False).request
        self.idle: deque[Caller] = deque()
        self._counted_ns = 0
        self._until_ns = 0
        self._times: dict[bytes, list[int]] = {b"200": [], b"503": []}
        self._failed = 0
        self._options = options

    def answered(self, status: bytes, due_ns: int) -> None:
        if not self._counted_ns <= due_ns < self._until_ns:
            return
        times = self._times.get(status)
        if times is None:
            self._failed += 1
        else:
            times.append(time.monotonic_ns() - due_ns)

    async def run(self) -> Answers:
        loop = asyncio.get_running_loop()
        options = self._options
        started_ns = time.monotonic_ns()
        self._counted_ns = started_ns + int(SETTLE_S * 1e9)
        self._until_ns = self._counted_ns + int(options.seconds * 1e9)
        connections = unsent = 0
        opening: set[asyncio.Task[None]] = set()

        async def open_and_ask(due_ns: int) -> None:
            try:
                _, caller = await loop.create_connection(lambda: Caller(self), "127.0.0.1", options.port)
            except OSError:
                self.answered(b"", due_ns)
            else:
                caller.ask(due_ns)

        for index in range(int(options.rate * (SETTLE_S + options.seconds))):
            due_ns = started_ns + int(index / options.rate * 1e9)
            pause_s = (due_ns - time.monotonic_ns()) / 1e9
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            if self.idle:
                self.idle.popleft().ask(due_ns)
            elif connections < CONNECTIONS_MAX:
                connections += 1
                task = loop.create_task(open_and_ask(due_ns))
                opening.add(task)
                task.add_done_callback(opening.discard)
            else:
                unsent += 1
        await asyncio.sleep(3.0)  # for the last answers
        admitted, shed = self._times[b"200"], self._times[b"503"]
        due = int(options.rate * options.seconds)
        return Answers(
            seconds=options.seconds,
            admitted=len(admitted),
            shed=len(shed),
            failed=max(self._failed, due - len(admitted) - len(shed)),
            admitted_us_p50=percentile(admitted, 0.5),
            admitted_us_p99=percentile(admitted, 0.99),
            shed_us_p50=percentile(shed, 0.5),
            shed_us_p99=percentile(shed, 0.99),
        )


async def load(options: LoadOptions) -> Answers:
    return await OpenLoad(options).run()


def goodput(report: wrk.WrkReport) -> float:
    """Answers a second that were no refusals."""
    return (report.requests - report.failed) / report.seconds


def measure(chosen: argparse.Namespace) -> tuple[wrk.WrkReport, Answers, float]:
    """The closed loop, the open one, and in how many periods the share was the limit."""
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        place = Place(find_tools(), choose_cores(), Ports(chosen.port_base), Path(folder), CONNECTIONS_MAX + 512)
        cores = (place.cores.proxy, *place.cores.others)
        with systems.mocks(place), product(place, Shape(), is_dumpable=False, cores=cores) as running:
            system = running.system
            script_file = place.folder / "waypost.lua"
            script_file.write_text(wrk.script(PLAIN_MODEL, system.authorization))

            def closed(connections: int, seconds: float) -> wrk.WrkReport:
                return wrk.run(
                    *(place.tools.wrk, script_file, system.plain_port),
                    connections=connections,
                    seconds=seconds,
                    cores=place.cores.others,
                )

            with bounded(gateways(system.roots()), chosen.share) as held:
                closed(CONNECTIONS[0], WARM_S)
                best = max((closed(each, chosen.seconds) for each in CONNECTIONS), key=goodput)
                rate = int(chosen.times * goodput(best))
                options = LoadOptions(
                    system.plain_port, PLAIN_MODEL, system.authorization, (), chosen.seconds, rate=rate
                )
                command = [sys.executable, "-m", "bench.overload", "--load", msgspec.json.encode(options).decode()]
                done = subprocess.run(command, capture_output=True, check=False, timeout=chosen.seconds + 120)
                throttled = held.throttled_share()
            if done.returncode:
                raise BenchError(f"the load failed: {done.stderr.decode(errors='replace')[-800:]}")
            wait_idle(system.roots())
            return best, msgspec.json.decode(done.stdout, type=Answers), throttled


def table(best: wrk.WrkReport, told: Answers, throttled: float, chosen: argparse.Namespace) -> str:
    peak = goodput(best)
    served = told.admitted / told.seconds
    p99_ms = told.admitted_us_p99 / 1000
    rows = [
        ("at its best, in a closed loop", "", f"{peak:,.0f} a second, p99 {best.us_p99 / 1000:,.0f} ms"),
        (f"asked {chosen.times:g} times as much: answered", "≥ 85 %", f"{served:,.0f} a second, {served / peak:.0%}"),
        ("admitted, p50 / p99", "p99 ≤ 2 ×", f"{told.admitted_us_p50 / 1000:,.0f} / {p99_ms:,.0f} ms"),
        (
            "refused with 503, p50 / p99",
            "≤ 50 ms",
            f"{told.shed_us_p50 / 1000:,.0f} / {told.shed_us_p99 / 1000:,.0f} ms",
        ),
        ("anything else", "0", f"{told.failed}"),
    ]
    lines = [f"| one gateway with {chosen.share:.2f} of a core | aim | measured |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"The share was the limit in {throttled:.0%} of the time."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--share", type=float, default=0.15, help="of a core, for the gateway (0.15)")
    parser.add_argument("--times", type=float, default=3, help="as much as it can do (3)")
    parser.add_argument("--port-base", type=int, default=9500)
    parser.add_argument("--publish", action="store_true", help="write the table into bench/README.md")
    parser.add_argument("--load", help=argparse.SUPPRESS)  # in a process of its own
    chosen = parser.parse_args()
    raise_file_limit()
    # SIGTERM unwinds like Ctrl-C, so that every child is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if chosen.load:
        gc.disable()
        told = uvloop.run(load(msgspec.json.decode(chosen.load, type=LoadOptions)))
        print(msgspec.json.encode(told).decode(), flush=True)
        return 0
    try:
        require_groups()
        figures = table(*measure(chosen), chosen)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 0 if str(error).startswith("left out") else 1
    print("\n" + figures)
    if chosen.publish:
        README.write_text(publish(README.read_text(), figures, begin=BEGIN, end=END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
