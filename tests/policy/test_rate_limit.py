"""The limiter against an exact log of what it let through, and against a reference model.

`TRACES=100000 ./run test tests/policy/test_rate_limit.py` tries more random traces.
"""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.limiter_model import Model
from waypost.policy.rate_limit import BUCKET_S, Window

MINUTE_S = 60.0
TRACES = int(os.environ.get("TRACES", "10000"))
# Steps between calls: bursts, bucket edges to either side, whole windows, long idle times.
STEPS = st.sampled_from([0.0, 0.001, 0.5, 5.999, 6.0, 6.001, 30.0, 53.999, 59.9, 60.0, 66.0, 66.001, 1000.0])
STARTS = st.floats(0, 1e7)


def largest_minute(log: list[tuple[float, int]]) -> int:
    """The most that any half-open minute of the log holds; it is enough to look at those that end at an entry."""
    return max(
        (sum(amount for at, amount in log if end - MINUTE_S < at <= end) for end, _ in log),
        default=0,
    )


@given(limit=st.integers(1, 20), start=STARTS, calls=st.lists(st.tuples(STEPS, st.integers(0, 8)), max_size=120))
def test_no_minute_sees_more_than_the_limit(limit: int, start: float, calls: list[tuple[float, int]]) -> None:
    window = Window(limit)
    now_s = start
    log = []
    for step, amount in calls:
        now_s += step
        decision = window.take(now_s, amount)
        if decision.is_allowed:
            log.append((now_s, amount))
        assert 0 <= decision.remaining <= limit
        assert 0 < decision.reset_s <= 66.001
    assert largest_minute(log) <= limit


@given(limit=st.integers(1, 1000), start=STARTS, step=st.sampled_from([0.01, 0.1, 0.37, 1.0]))
def test_a_steady_caller_can_use_nine_tenths_of_the_limit(limit: int, start: float, step: float) -> None:
    window = Window(limit)
    minutes = 22  # 20 windows of 66 s
    ticks = int(minutes * MINUTE_S / step)
    # Asking again only when told keeps the test fast; the amount let through is the same.
    taken, tick = 0, 0
    while tick < ticks:
        decision = window.take(start + tick * step)
        if decision.is_allowed:
            taken += 1
            tick += 0 if decision.remaining else 1
        else:
            tick += max(1, int(decision.reset_s / step))
    assert taken >= 0.9 * limit * minutes


@given(
    limit=st.integers(1, 20),
    start=STARTS,
    calls=st.lists(st.tuples(STEPS, st.integers(1, 20)), min_size=1, max_size=60),
)
def test_a_refused_amount_fits_after_the_time_told_and_not_before(
    limit: int, start: float, calls: list[tuple[float, int]]
) -> None:
    window = Window(limit)
    now_s = start
    for step, amount in calls:
        now_s += step
        decision = window.take(now_s, amount)
        if decision.is_allowed or amount > limit:
            continue
        assert not window.take(now_s + decision.reset_s - 0.01, amount).is_allowed
        now_s += decision.reset_s + 1e-6
        assert window.take(now_s, amount).is_allowed


def test_ten_full_buckets_and_the_current_one_count() -> None:
    window = Window(10)
    assert window.take(5.9, 10).is_allowed
    assert not window.take(65.9).is_allowed
    assert window.take(66.0, 10).is_allowed


def test_a_refusal_takes_nothing() -> None:
    window = Window(10)
    assert not window.take(1, 11).is_allowed
    assert window.take(1, 10).is_allowed


def test_the_figures_tell_what_is_left() -> None:
    window = Window(10)
    allowed = window.take(3.0, 4)
    assert (allowed.limit, allowed.remaining, allowed.reset_s) == (10, 6, 63.0)
    refused = window.take(4.0, 7)
    assert (refused.limit, refused.remaining, refused.reset_s) == (10, 6, 62.0)


def test_a_clock_that_stands_still_is_the_same_moment() -> None:
    window = Window(2)
    assert [window.take(100.0).is_allowed for _ in range(3)] == [True, True, False]


@given(
    limit=st.integers(1, 30),
    start=STARTS,
    calls=st.lists(st.tuples(STEPS, st.integers(1, 12), st.integers(0, 12), STEPS), max_size=60),
)
def test_no_minute_sees_more_than_the_limit_after_giving_back_what_was_not_used(
    limit: int, start: float, calls: list[tuple[float, int, int, float]]
) -> None:
    window = Window(limit)
    now_s = start
    log = []
    for step, reserved, used, duration in calls:
        now_s += step
        if not window.take(now_s, reserved).is_allowed:
            continue
        taken_at_s = now_s
        now_s += duration
        used = min(used, reserved)
        window.correct(now_s, used - reserved, taken_at_s=taken_at_s)
        log.append((taken_at_s, used))
    assert largest_minute(log) <= limit


def test_what_is_given_back_can_be_taken_again() -> None:
    window = Window(100)
    assert window.take(0, 100).is_allowed
    window.correct(10, -60, taken_at_s=0)
    assert window.take(10, 60).is_allowed
    assert not window.take(10, 1).is_allowed


def test_giving_back_after_the_window_has_passed_changes_nothing() -> None:
    window = Window(100)
    assert window.take(0, 100).is_allowed
    window.correct(70, -60, taken_at_s=0)
    assert window.take(70, 100).is_allowed
    assert not window.take(70, 1).is_allowed


def test_using_more_than_reserved_counts_from_then_on() -> None:
    window = Window(100)
    assert window.take(0, 50).is_allowed
    window.correct(60, 150, taken_at_s=0)
    decision = window.take(66, 1)
    assert (decision.is_allowed, decision.remaining) == (False, 0)
    assert window.take(126, 1).is_allowed


@pytest.mark.parametrize("gap_s", [BUCKET_S, 5 * BUCKET_S, 11 * BUCKET_S, 1e9])
def test_buckets_that_the_clock_jumped_over_are_forgotten(gap_s: float) -> None:
    window = Window(1)
    times = [66.0 + i * gap_s for i in range(40)]
    allowed = [at for at in times if window.take(at).is_allowed]
    assert all(later - earlier >= 60 for earlier, later in pairwise(allowed))
    # The first call at least 66 s after the last is let through.
    assert all(later - earlier < 66 + gap_s for earlier, later in pairwise(allowed))


@pytest.mark.parametrize("part", range(4))
def test_random_traces_go_as_the_reference_model_goes(part: int) -> None:
    dice = random.Random(part)
    steps_s = (0.0, 0.0, 0.001, 0.5, 5.999, 6.0, 6.001, 30.0, 53.999, 59.9, 60.0, 66.0, 66.001, 400.0)
    refused = corrected = 0
    for _ in range(TRACES // 4):
        limit = dice.choice((1, 3, 10, 60))
        window, model, now_s = Window(limit), Model(limit), dice.random() * 1e5
        open_calls: list[tuple[float, int]] = []
        for _ in range(dice.randrange(5, 30)):
            now_s += dice.choice(steps_s)
            if open_calls and dice.random() < 0.3:
                taken_at_s, reserved = open_calls.pop(dice.randrange(len(open_calls)))
                delta = dice.randrange(2 * limit) - reserved
                window.correct(now_s, delta, taken_at_s=taken_at_s)
                model.correct(now_s, delta, taken_at_s)
                corrected += 1
                continue
            amount = dice.randrange(1, limit + 2)
            decision, is_expected = window.take(now_s, amount), model.take(now_s, amount)
            assert decision.is_allowed == is_expected
            assert decision.remaining == model.remaining(now_s)
            refused += not is_expected
            if is_expected:
                open_calls.append((now_s, amount))
    assert refused > TRACES / 2
    assert corrected > TRACES / 2


@pytest.mark.parametrize("part", range(4))
def test_an_adversary_at_the_edges_never_gets_a_minute_above_the_limit(part: int) -> None:
    """He knows the clock of the buckets, and takes as much as he can just before and after every edge that could
    matter: of a bucket, of the window, and a minute after what he took."""
    dice, hair_s = random.Random(part), 1e-6
    for _ in range(TRACES // 40):
        limit = dice.choice((2, 10, 100))
        window, now_s = Window(limit), dice.random() * 1e5
        log: list[tuple[float, int]] = []
        for _ in range(60):
            bucket = int(now_s / BUCKET_S)
            edges = [(bucket + ahead) * BUCKET_S for ahead in (1, 2, 10, 11)]
            if log:
                edges.append(log[-1][0] + MINUTE_S)
            now_s = max(now_s, dice.choice(edges) + dice.choice((-hair_s, 0.0, hair_s)))
            amount = max(1, window.take(now_s, 0).remaining if dice.random() < 0.7 else dice.randrange(1, limit + 1))
            if window.take(now_s, amount).is_allowed:
                log.append((now_s, amount))
        assert log
        assert largest_minute(log) <= limit
