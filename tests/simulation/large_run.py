"""A large run of schedules, in several processes, each on databases of its own.

It tells its progress, goes on after a schedule that failed, and when it is cut (Ctrl-C, SIGTERM) it tells from which
seed to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

import psycopg
from psycopg import conninfo as conninfos

from tests.e2e.own_server import own_database

AT_ONCE = 100  # schedules on one database: the rules of its books are checked over everything in it


class BrokenSchedule(AssertionError):
    """The schedule of a seed broke a rule, or itself: its cause says how."""

    def __init__(self, seed: int, told: str) -> None:
        super().__init__(seed, told)
        self.seed = seed


def large_run(description: str, apart: Callable[[str, range], Counter[str]]) -> bool:
    """Whether everything that the command line asks for passed. `apart` runs the schedules of some seeds in a process
    of its own, given a migrated database to make copies of."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    words = parser.parse_args()
    seeds = range(words.first, words.first + words.schedules)
    os.environ["PYTHONHASHSEED"] = "0"  # for those processes: the order of a set is a part of its schedule
    pool = ProcessPoolExecutor(words.jobs, get_context("spawn"), _begin_process)
    with own_database(is_lasting=False) as (database, _), pool:
        run = Run(seeds, lambda part: pool.submit(apart, database, part), jobs=words.jobs)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: run.stop())
        run.work()
    return not (run.failed or run.is_cut)


@contextlib.contextmanager
def own_copy(template: str, name: str) -> Iterator[str]:
    """Conninfo of a copy of `own_database`'s, which is gone afterwards."""
    with psycopg.connect(conninfos.make_conninfo(template, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE proof STRATEGY file_copy")
        try:
            yield conninfos.make_conninfo(template, dbname=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _begin_process() -> None:
    """Of those that run schedules: whoever started them ends them. What the product logs of faults is as expected."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    gc.freeze()  # modules and tables, which every full collection would look through


Part = Future[Counter[str]]


class Run:
    """The large run, in parts; `begin` runs one of them beside this, up to `jobs` at a time."""

    def __init__(self, seeds: range, begin: Callable[[range], Part], *, jobs: int) -> None:
        self._begin = begin
        self._jobs = jobs
        self._began_s = time.monotonic()
        self._end = seeds.stop
        self._is_stopped = False
        self._left = [range(at, min(at + AT_ONCE, seeds.stop)) for at in range(seeds.start, seeds.stop, AT_ONCE)]
        self._running: dict[Part, range] = {}
        self._happened: Counter[str] = Counter()
        self.passed = 0
        self.failed = 0

    def work(self) -> None:
        """To the end, or after `stop` to the end of what has begun."""
        try:
            while self._running or (self._left and not self._is_stopped):
                while self._left and len(self._running) < self._jobs and not self._is_stopped:
                    part = self._left.pop(0)
                    self._running[self._begin(part)] = part
                self._wait()
        finally:
            self._tell_end()

    def stop(self) -> None:
        self._is_stopped = True

    def _wait(self) -> None:
        for each in wait(self._running, return_when=FIRST_COMPLETED).done:
            part = self._running.pop(each)
            error = each.exception()
            if error is None:
                self.passed += len(part)
                self._happened += each.result()
            elif isinstance(error, AssertionError):
                self._fail(part, error)
            else:
                self._left.insert(0, part)
                raise error
        print(
            f"{self.passed} schedules passed, {self.failed} failed, {time.monotonic() - self._began_s:.0f} s",
            flush=True,
        )

    def _fail(self, part: range, error: AssertionError) -> None:
        """What comes after the seed that failed is run on another database."""
        print(f"of the seeds {part.start} … {part.stop - 1}:", flush=True)
        traceback.print_exception(error)
        self.failed += 1
        if isinstance(error, BrokenSchedule):
            self.passed += error.seed - part.start
            if error.seed + 1 < part.stop:
                self._left.insert(0, range(error.seed + 1, part.stop))

    @property
    def is_cut(self) -> bool:
        return bool(self._left or self._running)

    def _tell_end(self) -> None:
        print(dict(sorted(self._happened.items())))
        if self.is_cut:
            first = min(part.start for part in (*self._left, *self._running.values()))
            print(f"cut: every seed before {first} was run; go on with {self._end - first} --first {first}", flush=True)
