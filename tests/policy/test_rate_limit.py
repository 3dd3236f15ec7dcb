"""The limiter against an exact log of what it let through."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.policy.rate_limit import BUCKET_S, Window

MINUTE_S = 60.0
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
