"""The reference model holds on every schedule, and each of its broken rules is noticed.

The large run: `python -m tests.simulation.model 3000` (twelve seconds), `… 300 --mutants`.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.model import MUTANTS, run

SEEDS = 300
MUTANT_SEEDS = 120  # the rarest is noticed about once in fifty


def test_the_model_holds_on_every_schedule() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        counts, broken = run(seed)
        assert broken is None, f"seed {seed}: {broken}"
        happened += counts
    # The schedules are worth something only when all of it occurs.
    occurrences = {
        "402",
        "crashed",
        "cut off",
        "extended",
        "jobs",
        "killed",
        "late to the house",
        "power lost",
        "resent",
    }
    assert occurrences <= set(happened)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_noticed(mutant: str) -> None:
    assert any(run(seed, mutant)[1] for seed in range(MUTANT_SEEDS)), "nobody noticed"
