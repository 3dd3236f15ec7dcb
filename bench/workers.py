"""What a second worker adds: requests a second of `waypost up --workers 1` and `--workers 2`, books and limits on.

python -m bench.workers [--seconds 10] [--rounds 3] [--share 0.2] [--publish]

Every gateway has the same share of a core (see `bench.share`), so that load, mocks and database have the rest.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from bench import system as systems
from bench import wrk
from bench.baseline import Ports
from bench.process import BenchError, wait_idle
from bench.product import product
from bench.report import publish
from bench.scenario import PLAIN_MODEL, WARM_S, Shape
from bench.share import bounded, gateways, require_groups
from bench.system import Place
from bench.tools import choose_cores, find_tools, raise_file_limit

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- workers:begin -->", "<!-- workers:end -->"
CONNECTIONS = 32  # more would wait so long at a gateway with a fifth of a core that it refused some


def measure(workers: int, *, seconds: float, share: float, port_base: int) -> tuple[float, float, int]:
    """Requests a second, in how many periods the share was the limit, and failed requests."""
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder:
        place = Place(find_tools(), choose_cores(), Ports(port_base), Path(folder), CONNECTIONS + 512)
        cores = (place.cores.proxy, *place.cores.others)
        with systems.mocks(place), product(place, Shape(), is_dumpable=False, workers=workers, cores=cores) as running:
            script_file = place.folder / "waypost.lua"
            script_file.write_text(wrk.script(PLAIN_MODEL, running.system.authorization))

            def load(duration_s: float) -> wrk.WrkReport:
                port = running.system.plain_port
                return wrk.run(
                    *(place.tools.wrk, script_file, port),
                    connections=CONNECTIONS,
                    seconds=duration_s,
                    cores=place.cores.others,
                )

            pids = gateways(running.system.roots())
            if len(pids) != workers:
                raise BenchError(f"{len(pids)} gateways run, not {workers}")
            with bounded(pids, share) as held:
                warm = load(WARM_S)
                report = load(seconds)
                throttled = held.throttled_share()
            wait_idle(running.system.roots())
            return (report.requests - report.failed) / report.seconds, throttled, report.failed + warm.failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run python -m bench.workers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2, help="of a core, for each gateway (0.2)")
    parser.add_argument("--port-base", type=int, default=9400)
    parser.add_argument("--publish", action="store_true", help="write the table into bench/README.md")
    chosen = parser.parse_args()
    raise_file_limit()
    # SIGTERM unwinds like Ctrl-C, so that every child is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        require_groups()
        rounds = []
        for _ in range(chosen.rounds):
            pair = [
                measure(workers, seconds=chosen.seconds, share=chosen.share, port_base=chosen.port_base)
                for workers in (1, 2)
            ]
            rounds.append(pair)
            shown = "  ".join(f"{rate:,.0f}/s (throttled {held:.2f}, failed {failed})" for rate, held, failed in pair)
            print(shown, flush=True)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 0 if str(error).startswith("left out") else 1
    figures = table(rounds, chosen.share)
    print("\n" + figures)
    if chosen.publish:
        README.write_text(publish(README.read_text(), figures, begin=BEGIN, end=END))
    return 0


def table(rounds: list[list[tuple[float, float, int]]], share: float) -> str:
    """The ratio is taken within a round, and then the median."""
    lines = [
        f"| workers, each with {share:.2f} of a core | requests/s | the share was the limit | failed |",
        "|---|---|---|---|",
    ]
    for at, workers in enumerate((1, 2)):
        rate = statistics.median(pair[at][0] for pair in rounds)
        held = statistics.median(pair[at][1] for pair in rounds)
        failed = sum(pair[at][2] for pair in rounds)
        lines.append(f"| {workers} | {rate:,.0f} | in {held:.0%} of the time | {failed} |")
    ratio = statistics.median(pair[1][0] / pair[0][0] for pair in rounds)
    return "\n".join([*lines, "", f"Two workers do **{ratio:.2f} ×** what one does (aim: 1.8)."]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
