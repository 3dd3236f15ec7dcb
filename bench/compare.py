"""`python -m bench.compare CHECKOUT…`: CPU per request of several checkouts (or interpreters) beside each other.

Each runs as the benchmark runs Waypost, with everything on, all at the same time, and the load goes to them in turns.
So what else the machine does falls on all alike: the ratio, a median over rounds of neighbours, says more on a busy
machine than any figure by itself. No figure of such a run is one to publish.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import system as systems
from bench.baseline import Ports
from bench.process import BenchError
from bench.product import product
from bench.scenario import SCENARIOS, Shape, Values
from bench.system import Place, System
from bench.tools import choose_cores, find_tools, raise_file_limit
from waypost.kit.values import replace

_PORTS_PER_SIDE = 10
_FIGURES = {"plain": "cpu_us", "stream": "cpu_us_per_chunk", "latency": "cpu_us", "memory": "kib_per_stream"}


class Side(msgspec.Struct, frozen=True):
    """One that is compared: its name in the table, the Python that runs it, and what is put before its modules."""

    name: str
    python: str
    path: str = ""


def side_of(word: str) -> Side:
    """`CHECKOUT`, run by its own environment or, when it has none, by this one; or `NAME=PYTHON`.

    Raises:
        BenchError: there is no such checkout or Python.
    """
    name, _, python = word.rpartition("=")
    folder = Path(word).resolve()
    if not name and (folder / "src").is_dir():
        own = folder / ".venv" / "bin" / "python"
        return Side(folder.name, str(own)) if own.exists() else Side(folder.name, sys.executable, str(folder / "src"))
    if not name or not Path(python).exists():
        raise BenchError(f"{word} is neither a checkout nor NAME=PYTHON.")
    return Side(name, python)


@contextlib.contextmanager
def started(place: Place, shape: Shape, sides: list[Side]) -> Iterator[list[System]]:
    """All sides, each with a database, a folder and ports of its own, on the same core."""
    with contextlib.ExitStack() as stack:
        found = []
        for number, side in enumerate(sides):
            ports = Ports(place.ports.base)
            ports.waypost += _PORTS_PER_SIDE * number
            ports.waypost_metrics += _PORTS_PER_SIDE * number
            folder = place.folder / str(number)
            folder.mkdir()
            env = {"PYTHONPATH": side.path} if side.path else {}
            own = Place(place.tools, place.cores, ports, folder, place.connections)
            running = stack.enter_context(product(own, shape, is_dumpable=False, env=env, python=side.python))
            found.append(replace(running.system, name=f"{number}-{side.name}"))
        yield found


def compare(place: Place, shape: Shape, sides: list[Side], scenario: str, seconds: float, rounds: int) -> None:
    values: dict[str, list[Values]] = {side.name: [] for side in sides}
    with started(place, shape, sides) as found:
        for number in range(rounds):
            # The one that goes first changes: what heats up or cools down during a round falls on all of them.
            turns = list(zip(sides, found, strict=True))
            for side, system in turns if number % 2 == 0 else reversed(turns):
                one = SCENARIOS[scenario](place, system, shape, seconds)
                values[side.name].append(one)
                shown = f"{_FIGURES[scenario]} {one[_FIGURES[scenario]]:8.1f}  failed {one['failed']:.0f}"
                print(f"{scenario:7}{number + 1:3}  {side.name:14} {shown}")
                sys.stdout.flush()
    print(render(scenario, values))


def render(scenario: str, values: dict[str, list[Values]]) -> str:
    """Medians, beside the first side, round by round."""
    figure = _FIGURES[scenario]
    base = next(iter(values.values()))
    lines = []
    for name, rounds in values.items():
        ratio = statistics.median(one[figure] / other[figure] for one, other in zip(rounds, base, strict=True))
        parts = sorted({part for one in rounds for part in one if part.startswith("cpu_us:")})
        shown = "  ".join(f"{part[7:]} {statistics.median(one.get(part, 0.0) for one in rounds):.1f}" for part in parts)
        requests = sum(one["requests"] for one in rounds)
        middle = statistics.median(one[figure] for one in rounds)
        lines.append(
            f"{scenario:7} {name:14} {figure} {middle:8.1f}  × {ratio:.3f}  ({requests:,.0f} requests)  {shown}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("sides", nargs="+", metavar="SIDE", help="a checkout's folder, or NAME=PYTHON; the first is 1")
    parser.add_argument("--only", default="plain", help=f"of {','.join(_FIGURES)} (plain)")
    parser.add_argument("--seconds", type=float, default=3, help="per side and round (3)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port-base", type=int, default=27300, help="first of some 100 ports (27300)")
    chosen = parser.parse_args()
    # SIGTERM unwinds like Ctrl-C, so that every child is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    try:
        sides = [side_of(word) for word in chosen.sides]
        for scenario in chosen.only.split(","):
            with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
                place = Place(find_tools(), choose_cores(), Ports(chosen.port_base), Path(folder), 4096)
                with systems.mocks(place):
                    compare(place, Shape(), sides, scenario, chosen.seconds, chosen.rounds)
    except BenchError as error:
        print(f"bench.compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
