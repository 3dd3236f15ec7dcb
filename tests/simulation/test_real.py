"""The product's money is the model's, on every schedule. The large run: `python -m tests.simulation 50000`."""

from __future__ import annotations

import pytest

from tests.simulation.real import simulate

SCHEDULES, AT_ONCE = 104, 26


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
async def test_the_books_are_the_models_on_every_schedule(database: str, first: int) -> None:
    happened = await simulate(database, range(first, first + AT_ONCE))
    # The schedules are worth something only when all of it occurs.
    assert {"settled", "crashed", "extended", "killed", "power lost", "reply lost", "refused", "unavailable"} <= set(
        happened
    )
