"""Many schedules of executions, and what must be true after each of them.

python -m tests.simulation.executions 50000 [--first 0] [--jobs 2]

A run that is cut (Ctrl-C, SIGTERM) tells from which seed to go on.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import uvloop

from tests.e2e.canary import database_dump
from tests.simulation.calls import CALL_PRICE_NANOS
from tests.simulation.execution_schedule import CANARY, Schedule
from tests.simulation.faults import Crash, FaultyPool
from tests.simulation.large_run import BrokenSchedule, large_run, own_copy
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
    with own_copy(template, f"executions_{seeds.start}") as database:
        return uvloop.run(simulate(database, seeds))


if __name__ == "__main__":
    sys.exit(not large_run("Executions through everything that can go wrong.", _apart))
