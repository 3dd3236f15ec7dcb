"""What a refusal for money says."""

from __future__ import annotations

import pytest

from waypost.gateway.admission import used_up
from waypost.ledger.record import BudgetUsedUp

_COVER = "does not cover the most this request may cost"


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (
            BudgetUsedUp("key", "day", 1_795_737_600_000),
            f"The daily budget of this API key {_COVER}. It renews at 2026-11-27T00:00:00Z.",
        ),
        (
            BudgetUsedUp("project", "month", 1_796_083_200_000),
            f"The monthly budget of this API key's project {_COVER}. It renews at 2026-12-01T00:00:00Z.",
        ),
        (
            BudgetUsedUp("organisation", "lifetime", None),
            f"The budget of the organisation {_COVER}, and does not renew.",
        ),
    ],
)
def test_a_refusal_names_the_budget_and_when_it_renews(budget: BudgetUsedUp, sentence: str) -> None:
    assert used_up(budget) == sentence
