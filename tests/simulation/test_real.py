"""The product's money is the model's, on every schedule. The large run: `python -m tests.simulation 50000`."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from tests.conftest import _fresh
from tests.simulation.real import simulate
from tests.simulation.still_loop import run

SCHEDULES, AT_ONCE = 104, 26


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_the_books_are_the_models_on_every_schedule(database: str, first: int) -> None:
    happened = run(simulate(database, range(first, first + AT_ONCE)))
    # The schedules are worth something only when all of it occurs.
    assert {"settled", "crashed", "extended", "killed", "power lost", "reply lost", "refused", "unavailable"} <= set(
        happened
    )


def test_a_seed_is_the_same_schedule_whatever_ran_before_it(postgres: str, database: str) -> None:
    run(simulate(database, range(200, 202)))
    second = run(simulate(database, range(202, 204)))

    with contextmanager(_fresh)(postgres, "TEMPLATE waypost_template STRATEGY file_copy") as another:
        assert run(simulate(another, range(202, 204))) == second
