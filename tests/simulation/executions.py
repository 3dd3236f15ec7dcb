"""Many schedules of executions, and what must be true after each of them.

python -m tests.simulation.executions 50000 [--first 0] [--jobs 2]

A run that is cut (Ctrl-C, SIGTERM) tells from which seed to go on.
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

import psycopg
import uvloop
from psycopg import conninfo as conninfos

from tests.e2e.canary import database_dump
from tests.e2e.own_server import own_database
from tests.simulation.calls import CALL_PRICE_NANOS
from tests.simulation.execution_schedule import CANARY, Schedule
from tests.simulation.faults import Crash, FaultyPool
from tests.simulation.observer import Observer, observer
from tests.storage.books import open_books
from waypost.executions.lifecycle import State
from waypost.executions.retries import TRIES_MAX
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.storage.roles import Role
from waypost.worker import executions as work

CREDIT_NANOS = 10**15
PRICE_NANOS = 40_000_000  # of the one picture
COST_NANOS = 30_000_000
AT_ONCE = 100  # schedules on one database


class BrokenSchedule(AssertionError):
    """The schedule of a seed broke a rule, or itself: its cause says how."""

    def __init__(self, seed: int, told: str) -> None:
        super().__init__(seed, told)
        self.seed = seed


@contextlib.contextmanager
def without_pauses() -> Iterator[None]:
    """The handlers' own pauses are of the real clock, and nothing happens in them here."""
    again_s, wait_s = work._AGAIN_S, work.wait_s  # type: ignore[attr-defined]
    work._AGAIN_S = 0.0
    work.wait_s = lambda tries, **_: None if tries >= TRIES_MAX else 0.0  # type: ignore[attr-defined]
    try:
        yield
    finally:
        work._AGAIN_S, work.wait_s = again_s, wait_s  # type: ignore[attr-defined]


async def simulate(database: str, seeds: Iterable[int]) -> Counter[str]:
    """What happened how often. Raises BrokenSchedule for the first one that breaks a rule, AssertionError when what all
    of them left does."""
    with without_pauses():
        return await _simulate(database, seeds)


async def _simulate(database: str, seeds: Iterable[int]) -> Counter[str]:
    happened: Counter[str] = Counter()
    charged_nanos = 0
    pool = FaultyPool(database, Role.SETTLE, size=4)
    async with open_books(database) as books, observer(database) as looks:
        org_id = await books.org(CREDIT_NANOS)
        try:
            for seed in seeds:
                schedule = Schedule(seed, pool, books.app, looks, org_id)
                try:
                    row = await schedule.run()
                    charged_nanos += await check(schedule, row, looks)
                except (Exception, Crash) as error:
                    told = f"seed {seed}: {schedule.provider.habits}, {dict(schedule.faults.happened)}"
                    raise BrokenSchedule(seed, told) from error
                happened += schedule.faults.happened
                happened[row.state.public] += 1
                happened["ambiguous submission"] += schedule.provider.ambiguous
        finally:
            await pool.close()
        totals = await books.totals()
        assert (totals.available_nanos, totals.held_nanos) == (CREDIT_NANOS - charged_nanos, 0)
    texts = database_dump(database).items()
    assert [table for table, text in texts if CANARY.encode() in text] == []
    return happened


async def check(schedule: Schedule, row: AsynchronousExecution, observer: Observer) -> int:
    """What its customer paid."""
    left = await observer.left(row.id)
    # One end, that never changes.
    assert row.state.has_ended, row.state
    assert [(end.state, end.version) for end in schedule.ends] == [(row.state, row.version)]
    assert len(left.ended) == 1

    # Paid once, or not at all, and then for something that is there.
    charge_nanos: int = left.ended[0][0]
    has_succeeded = row.state is State.SUCCEEDED
    is_call = schedule.model == "text"
    assert charge_nanos == has_succeeded * (CALL_PRICE_NANOS if is_call else PRICE_NANOS)
    if is_call:
        assert (row.result_until is not None) == has_succeeded
    else:
        assert bool(row.output_files) == has_succeeded
    assert left.held == [(row.hold_nanos, charge_nanos)]

    # No job twice; another attempt only when the one before certainly made none.
    jobs = Counter(job.token for job in schedule.provider.jobs)
    assert all(count == 1 for count in jobs.values()), jobs
    assert len(jobs) <= 1, jobs
    if has_succeeded and not is_call:
        assert row.provider_job == schedule.provider.jobs[0].id

    # The house's books have the provider's bill, for what can be known of it.
    assert len(left.billed) <= 1
    if has_succeeded and not is_call:
        assert left.billed == [(COST_NANOS,)]

    # Each change told once, in order, and its delivery waits to be made.
    told = left.told
    assert [each[0] for each in told] == list(range(1, len(told) + 1)) == list(range(1, row.sequence + 1))
    assert told[-1][1] == f"execution.{row.state.public.lower()}"
    assert {each[2] for each in told} == {"PENDING"}

    # After the time of everything the vault knows nothing, and the input was forgotten at the end.
    assert [key for key, (_, until_s) in schedule.vault.values.items() if until_s > schedule.clock.now_s] == []
    if not schedule.faults.happened.keys() - {"callback", "callback again", "overtaken"}:
        assert [key for key in schedule.vault.values if key.startswith("input/")] == []
    return charge_nanos


def _apart(template: str, seeds: range) -> Counter[str]:
    """On a copy of the migrated database."""
    name = f"executions_{seeds.start}"
    with psycopg.connect(conninfos.make_conninfo(template, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE proof STRATEGY file_copy")
        try:
            return uvloop.run(simulate(conninfos.make_conninfo(template, dbname=name), seeds))
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Executions through everything that can go wrong.")
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    words = parser.parse_args()
    seeds = range(words.first, words.first + words.schedules)
    pool = ProcessPoolExecutor(words.jobs, get_context("spawn"), _begin_process)
    with own_database(is_lasting=False) as (database, _), pool:
        run = Run(seeds, lambda part: pool.submit(_apart, database, part), jobs=words.jobs)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: run.stop())
        run.work()
    sys.exit(bool(run.failed or run.is_cut))


if __name__ == "__main__":
    main()
