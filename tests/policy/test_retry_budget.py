"""The retry budget against an exact log."""

from __future__ import annotations

import math
import random

from waypost.policy.retry_budget import RetryBudget


def test_a_tenth_of_the_requests_and_three_a_second_may_be_repeated() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.count(5.0)
    spent = 0
    while budget.has_room(5.0):
        budget.spend(5.0)
        spent += 1
    assert spent == 100 + 30
    assert not budget.has_room(13.9)
    assert budget.has_room(15.0), "after ten seconds all is forgotten"


def test_no_ten_seconds_see_more_repetitions_than_their_requests_allow() -> None:
    dice = random.Random(1)
    for _ in range(200):
        budget, now_s = RetryBudget(), dice.random() * 1e5
        requests: list[float] = []
        repetitions: list[float] = []
        for _ in range(300):
            now_s += dice.choice((0.0, 0.001, 0.05, 0.3, 1.0, 9.0))
            budget.count(now_s)
            requests.append(now_s)
            if budget.has_room(now_s):
                budget.spend(now_s)
                repetitions.append(now_s)
            covered = [at for at in repetitions if math.floor(at) > math.floor(now_s) - 10]
            counted = [at for at in requests if math.floor(at) > math.floor(now_s) - 10]
            assert len(covered) <= 0.1 * len(counted) + 30
            assert budget.has_room(now_s) == (len(covered) + 1 <= 0.1 * len(counted) + 30)
