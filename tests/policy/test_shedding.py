"""How much is refused while the process cannot keep up."""

from __future__ import annotations

import pytest

from waypost.policy.shedding import FIRST_SHARE, SHARE_MAX, Shedding


def watch(shedding: Shedding, lags_s: list[float], *, start_s: float = 0.0, memory_share: float = 0.0) -> float:
    """Looks every 100 ms and however late they are; the time of the last one."""
    now_s = start_s
    for lag_s in lags_s:
        now_s += 0.1 + lag_s
        shedding.look(now_s, lag_s=lag_s, memory_share=memory_share)
    return now_s


def test_a_second_of_lag_makes_it_shed_and_less_does_not() -> None:
    shedding = Shedding()
    watch(shedding, [0.0, 0.2, 0.2, 0.2, 0.05, 0.2, 0.2, 0.2])
    assert shedding.share == 0.0
    watch(shedding, [0.2], start_s=10.0)
    assert shedding.share == FIRST_SHARE


def test_one_pause_of_a_second_is_enough() -> None:
    shedding = Shedding()
    watch(shedding, [0.0, 1.0])
    assert shedding.share == FIRST_SHARE


def test_the_share_grows_while_the_loop_is_late_and_falls_to_nothing_afterwards() -> None:
    shedding = Shedding()
    now_s = watch(shedding, [0.2] * 5)
    shares = []
    for _ in range(10):
        now_s = watch(shedding, [0.2], start_s=now_s)
        shares.append(shedding.share)
    assert shares == sorted(shares)
    assert shares[-1] == SHARE_MAX
    watch(shedding, [0.0] * 100, start_s=now_s)
    assert shedding.share == 0.0


def test_too_little_memory_refuses_everybody_until_there_is_clearly_enough_again() -> None:
    shedding = Shedding()
    shares = []
    for at, memory_share in enumerate((0.84, 0.86, 0.84, 0.81, 0.79, 0.84)):
        shedding.look(float(at), lag_s=0.0, memory_share=memory_share)
        shares.append(shedding.share)
    assert shares == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("capacity_per_s", [300.0, 1000.0])
def test_at_three_times_the_load_what_can_be_done_is_done(capacity_per_s: float) -> None:
    """A queue in front of one server; callers do not come back. Refusing costs a fifth of answering, so that no more
    than half of the capacity can be of use."""
    shedding, backlog_s, done, refused = Shedding(), 0.0, 0.0, 0.0
    now_s, seconds = 0.0, 120
    per_tick = 3 * capacity_per_s * 0.1
    for _ in range(seconds * 10):
        now_s += 0.1
        shed = per_tick * shedding.share
        backlog_s += (per_tick - shed + shed / 5) / capacity_per_s
        worked_s = min(0.1, backlog_s)
        backlog_s -= worked_s
        done += worked_s * capacity_per_s * (per_tick - shed) / (per_tick - shed + shed / 5)
        refused += shed
        shedding.look(now_s, lag_s=backlog_s, memory_share=0.0)
    assert done >= 0.85 * 0.5 * capacity_per_s * seconds
    assert backlog_s < 5.0
