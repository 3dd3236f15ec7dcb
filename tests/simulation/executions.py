"""Many schedules of executions, and what must be true after each of them.

python -m tests.simulation.executions 50000 [--first 0] [--jobs 2]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from psycopg import conninfo as conninfos

from tests.e2e.canary import database_dump
from tests.e2e.own_server import own_database
from tests.simulation.calls import CALL_PRICE_NANOS
from tests.simulation.execution_schedule import CANARY, Schedule
from tests.simulation.faults import FaultyPool
from tests.storage.books import Books, open_books
from waypost.executions.lifecycle import State
from waypost.executions.retries import TRIES_MAX
from waypost.storage.asynchronous_executions import AsynchronousExecution
from waypost.storage.roles import Role
from waypost.worker import executions as work

CREDIT_NANOS = 10**15
PRICE_NANOS = 40_000_000  # of the one picture
COST_NANOS = 30_000_000
AT_ONCE = 100  # schedules on one database


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
    """What happened how often. Raises AssertionError, with the seed, for the first schedule that breaks a rule."""
    with without_pauses():
        return await _simulate(database, seeds)


async def _simulate(database: str, seeds: Iterable[int]) -> Counter[str]:
    happened: Counter[str] = Counter()
    charged_nanos = 0
    pool = FaultyPool(database, Role.SETTLE, size=4)
    async with open_books(database) as books:
        org_id = await books.org(CREDIT_NANOS)
        try:
            for seed in seeds:
                schedule = Schedule(seed, pool, books.app, org_id, database)
                try:
                    row = await schedule.run()
                    charged_nanos += await check(schedule, row, books)
                except BaseException as error:
                    error.add_note(f"seed {seed}: {schedule.provider.habits}, {dict(schedule.faults.happened)}")
                    raise
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


async def check(schedule: Schedule, row: AsynchronousExecution, books: Books) -> int:
    """What its customer paid."""
    execution_id = UUID(bytes=row.id)
    # One end, that never changes.
    assert row.state.has_ended, row.state
    assert [(end.state, end.version) for end in schedule.ends] == [(row.state, row.version)]
    ended = await _rows(books, "SELECT charge, outcome, error_code FROM execution WHERE id = %s", execution_id)
    assert len(ended) == 1

    # Paid once, or not at all, and then for something that is there.
    charge_nanos: int = ended[0][0]
    has_succeeded = row.state is State.SUCCEEDED
    is_call = schedule.model == "text"
    assert charge_nanos == has_succeeded * (CALL_PRICE_NANOS if is_call else PRICE_NANOS)
    if is_call:
        assert (row.result_until is not None) == has_succeeded
    else:
        assert bool(row.output_files) == has_succeeded
    holds = await _rows(books, "SELECT amount, charge FROM long_hold WHERE id = %s", execution_id)
    assert holds == [(row.hold_nanos, charge_nanos)]

    # No job twice; another attempt only when the one before certainly made none.
    jobs = Counter(job.token for job in schedule.provider.jobs)
    assert all(count == 1 for count in jobs.values()), jobs
    assert len(jobs) <= 1, jobs
    if has_succeeded and not is_call:
        assert row.provider_job == schedule.provider.jobs[0].id

    # The house's books have the provider's bill, for what can be known of it.
    billed = await _rows(books, "SELECT cogs FROM settlement WHERE execution_id = %s", execution_id)
    assert len(billed) <= 1
    if has_succeeded and not is_call:
        assert billed == [(COST_NANOS,)]

    # Each change told once, in order, and its delivery waits to be made.
    told = await _rows(
        books, "SELECT sequence, event, state FROM webhook_delivery WHERE execution_id = %s ORDER BY 1", execution_id
    )
    assert [each[0] for each in told] == list(range(1, len(told) + 1)) == list(range(1, row.sequence + 1))
    assert told[-1][1] == f"execution.{row.state.public.lower()}"
    assert {each[2] for each in told} == {"PENDING"}

    # After the time of everything the vault knows nothing, and the input was forgotten at the end.
    assert [key for key, (_, until_s) in schedule.vault.values.items() if until_s > schedule.clock.now_s] == []
    if not schedule.faults.happened.keys() - {"callback", "callback again", "overtaken"}:
        assert [key for key in schedule.vault.values if key.startswith("input/")] == []
    return charge_nanos


async def _rows(books: Books, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with books.app.system() as connection:
        return await (await connection.execute(statement, parameters)).fetchall()


def _apart(template: str, seeds: range) -> Counter[str]:
    """On a copy of the migrated database."""
    name = f"executions_{seeds.start}"
    with psycopg.connect(conninfos.make_conninfo(template, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE proof STRATEGY file_copy")
        happened = uvloop.run(simulate(conninfos.make_conninfo(template, dbname=name), seeds))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return happened


def _parts(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, AT_ONCE):
        yield range(start, min(start + AT_ONCE, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description="Executions through everything that can go wrong.")
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    words = parser.parse_args()
    began, done, failed = time.monotonic(), 0, 0
    happened: Counter[str] = Counter()
    with own_database() as (database, _), ProcessPoolExecutor(words.jobs, get_context("spawn")) as pool:
        running = {pool.submit(_apart, database, part): part for part in _parts(words.first, words.schedules)}
        for part in as_completed(running):
            done += len(running[part])
            try:
                happened += part.result()
            except AssertionError as error:
                failed += 1
                traceback.print_exception(error)
            print(f"{done} schedules, {failed} failing, {time.monotonic() - began:.0f} s", flush=True)
    print(dict(sorted(happened.items())))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
