"""`python -m bench.money`: what keeping books costs a request: the same `waypost up` with and without them, in turns.

CPU is that of all processes, PostgreSQL's included, until the last settlement is booked. The side without books is
made by `bench/unbilled`, which the product knows nothing of; its requests are neither held, written down nor booked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench import system as systems
from bench.baseline import Ports
from bench.process import BenchError
from bench.product import product
from bench.scenario import SCENARIOS, Shape, Values
from bench.system import Place
from bench.tools import choose_cores, find_tools, raise_file_limit

UNBILLED = Path(__file__).parent / "unbilled"
CPU_US_MAX = 15.0
MS_P50_MAX = 0.3
_SIDES = {"with books": {}, "without": {"PYTHONPATH": str(UNBILLED)}}


def measure(place: Place, shape: Shape, *, scenario: str, seconds: float, rounds: int) -> dict[str, list[Values]]:
    """Each side's values, round by round."""
    found: dict[str, list[Values]] = {side: [] for side in _SIDES}
    with systems.mocks(place):
        for number in range(1, rounds + 1):
            for side, env in _SIDES.items():
                folder = place.folder / f"{number}-{side.replace(' ', '-')}"
                folder.mkdir()
                own = Place(place.tools, place.cores, place.ports, folder, place.connections)
                with product(own, shape, is_dumpable=False, env=env) as running:
                    values = SCENARIOS[scenario](own, running.system, shape, seconds / rounds)
                if values["failed"]:
                    raise BenchError(f"{values['failed']:.0f} requests failed {side}")
                found[side].append(values)
                print(f"{number}  {side:11} {_line(values)}", flush=True)
    return found


def _line(values: Values) -> str:
    parts = [name for name in sorted(values) if name.startswith("cpu_us")]
    return "  ".join(f"{name} {values[name]:8.1f}" for name in (*parts, "us_p50", "us_p99") if name in values)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.money", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="measured seconds per side and scenario (60)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that share these seconds (3)")
    parser.add_argument("--rate", type=int, default=500, help="requests per second when latency is measured (500)")
    parser.add_argument("--port-base", type=int, default=29300, help="first of some 20 ports")
    chosen = parser.parse_args()
    raise_file_limit()
    shape = Shape(rate=chosen.rate)
    differences = {}
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        for scenario, figure in (("plain", "cpu_us"), ("latency", "us_p50")):
            place_folder = Path(folder) / scenario
            place_folder.mkdir()
            place = Place(find_tools(), choose_cores(), Ports(chosen.port_base), place_folder, 1024)
            found = measure(place, shape, scenario=scenario, seconds=chosen.seconds, rounds=chosen.rounds)
            pairs = zip(found["with books"], found["without"], strict=True)
            differences[scenario] = statistics.median(on[figure] - off[figure] for on, off in pairs)
    cpu_us, ms_p50 = differences["plain"], differences["latency"] / 1000
    print(
        f"\nBooks cost {cpu_us:.1f} µs CPU a request (at most {CPU_US_MAX:g}) and {ms_p50:.3f} ms p50 "
        f"at {chosen.rate}/s (at most {MS_P50_MAX:g})."
    )
    return 0 if cpu_us <= CPU_US_MAX and ms_p50 <= MS_P50_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
