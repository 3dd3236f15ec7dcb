"""Whether anything piles up: memory, file descriptors and threads of a gateway over hundreds of thousands of requests.

python -m bench.soak [--requests 1000000] [--lap 25000]

Plain calls and streams in turns, lap after lap, through `waypost up` with everything on. After each lap the gateway is
let to come to rest and looked at. What grows with requests shows as a slope over the laps after the first fifth; what
grows once and stays, such as a cache that fills, does not. Exit code 1 when the slope is above what is allowed, or
descriptors or threads come to more in the second half than in the first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench import scenario
from bench import system as systems
from bench.baseline import Ports
from bench.process import BenchError, parse_resident_bytes, wait_idle
from bench.product import product
from bench.scenario import Shape
from bench.share import gateways
from bench.system import Place
from bench.tools import choose_cores, find_tools, raise_file_limit

BYTES_PER_100K_MAX = 1 << 20
WARM_SHARE = 0.2  # of the laps: caches fill, and the allocator finds its size
STREAM_S = 3.0  # of streams in each lap
SPARE = 16  # descriptors and threads: a connection to the database, a look at a file


class Look(msgspec.Struct, frozen=True):
    """At the gateway, at rest after so many requests in all."""

    requests: int
    resident_bytes: int
    descriptors: int
    threads: int


def look_at(pid: int, requests: int) -> Look:
    process = Path(f"/proc/{pid}")
    resident = parse_resident_bytes((process / "status").read_text())
    return Look(requests, resident, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))


def slope(looks: Sequence[Look]) -> float:
    """Bytes that 100,000 requests add, by least squares; 0 of fewer than two looks."""
    count = len(looks)
    if count < 2:
        return 0.0
    mean_x = sum(each.requests for each in looks) / count
    mean_y = sum(each.resident_bytes for each in looks) / count
    spread = sum((each.requests - mean_x) ** 2 for each in looks)
    together = sum((each.requests - mean_x) * (each.resident_bytes - mean_y) for each in looks)
    return 100_000 * together / spread if spread else 0.0


def verdict(looks: Sequence[Look]) -> list[str]:
    """What has piled up; nothing when all is well."""
    steady = looks[max(1, round(len(looks) * WARM_SHARE)) :]
    if len(steady) < 4:
        return [f"{len(looks)} laps are too few to tell"]
    found = []
    grown = slope(steady)
    if grown > BYTES_PER_100K_MAX:
        found.append(f"memory grows by {grown / 2**20:.2f} MiB in 100,000 requests")
    # Connections that are kept for the next call come and go, up to a number: it is their most that is compared.
    middle = len(steady) // 2
    for name in ("descriptors", "threads"):
        earlier, later = (max(getattr(each, name) for each in half) for half in (steady[:middle], steady[middle:]))
        if later > earlier + SPARE:
            found.append(f"up to {later} {name}, and up to {earlier} in the first half")
    return found


def soak(*, requests: int, lap: int, port_base: int) -> list[Look]:
    shape = Shape(connections=64, streams=64, chunks=20, pace_ms=10)
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        place = Place(find_tools(), choose_cores(), Ports(port_base), Path(folder), shape.connections + 512)
        with systems.mocks(place), product(place, shape, is_dumpable=True) as running:
            (pid,) = gateways(running.system.roots())
            looks, made, seconds = [], 0, 1.0
            while made < requests:
                plain = scenario.plain(place, running.system, shape, seconds)
                streams = scenario.stream(place, running.system, shape, STREAM_S)
                failed = plain["failed"] + streams["failed"]
                if failed:
                    raise BenchError(f"{failed:.0f} calls failed")
                made += int(sum(each[name] for each in (plain, streams) for name in ("requests", "warm_requests")))
                seconds = max(1.0, lap / plain["requests_per_s"])
                wait_idle(running.system.roots())
                looks.append(look_at(pid, made))
                print(_line(looks[-1]), flush=True)
            return looks


def _line(look: Look) -> str:
    memory = f"{look.resident_bytes / 2**20:8.2f} MiB"
    return f"{look.requests:>10,} requests  {memory}  {look.descriptors:>4} descriptors  {look.threads:>3} threads"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run python -m bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--lap", type=int, default=25_000, help="plain calls of a lap (25,000)")
    parser.add_argument("--port-base", type=int, default=9600)
    chosen = parser.parse_args()
    raise_file_limit()
    # SIGTERM unwinds like Ctrl-C, so that every child is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        looks = soak(requests=chosen.requests, lap=chosen.lap, port_base=chosen.port_base)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    found = verdict(looks)
    print("\n".join(found) or "nothing piles up")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
