"""The large run of `real`: so many schedules, in several processes, each on databases of its own.

python -m tests.simulation 50000 [--first 0] [--jobs 2]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.e2e.own_server import own_database
from tests.simulation.real import simulate_apart

AT_ONCE = 50  # schedules on one database: its rules are checked over everything in it


def _parts(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, AT_ONCE):
        yield range(start, min(start + AT_ONCE, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description="The product's money, in lockstep with the reference model.")
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    words = parser.parse_args()
    began, done, failed = time.monotonic(), 0, 0
    happened: Counter[str] = Counter()
    with own_database() as (database, _), ProcessPoolExecutor(words.jobs, get_context("spawn")) as pool:
        running = {pool.submit(simulate_apart, database, part): part for part in _parts(words.first, words.schedules)}
        for part in as_completed(running):
            seeds = running[part]
            done += len(seeds)
            try:
                happened += part.result()
            except AssertionError as error:
                failed += 1
                print(f"a seed of {seeds.start} … {seeds.stop - 1} fails:", flush=True)
                traceback.print_exception(error)
            print(f"{done} schedules, {failed} failing, {time.monotonic() - began:.0f} s", flush=True)
    print(dict(sorted(happened.items())))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
