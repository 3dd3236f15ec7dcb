"""How much is refused while the process cannot keep up."""

from __future__ import annotations

import pytest

from waypost.policy.shedding import QUIET_S, TURN_RAN_S_MAX, TURN_S_MAX, Shedding


def watch(shedding: Shedding, lags_s: list[float], *, start_s: float = 0.0, is_busy: bool = False) -> float:
    """Looks every 100 ms and however late they are; the time of the last one."""
    now_s = start_s
    for lag_s in lags_s:
        now_s += 0.1 + lag_s
        shedding.look(now_s, lag_s=lag_s, memory_share=0.0, is_busy=is_busy)
    return now_s


def test_a_second_of_lag_makes_it_shed_and_less_does_not() -> None:
    shedding = Shedding()
    watch(shedding, [0.0, 0.2, 0.2, 0.2, 0.05, 0.2, 0.2, 0.2])
    assert not shedding.is_active
    watch(shedding, [0.2], start_s=10.0)
    assert shedding.is_active


def test_one_pause_of_a_second_is_enough() -> None:
    shedding = Shedding()
    watch(shedding, [0.0, 1.0])
    assert shedding.is_active


def test_it_is_over_when_the_loop_is_in_time_and_was_idle_for_a_second() -> None:
    shedding = Shedding()
    now_s = watch(shedding, [1.0])
    now_s = watch(shedding, [0.0] * 30, start_s=now_s, is_busy=True)
    assert shedding.is_active, "in time because it refuses"
    now_s = watch(shedding, [0.0] * 9 + [0.2] + [0.0] * 9, start_s=now_s)
    assert shedding.is_active, "late again before the second was over"
    watch(shedding, [0.0] * round(QUIET_S / 0.1), start_s=now_s)
    assert not shedding.is_active


def test_who_comes_late_in_a_turn_is_refused() -> None:
    shedding = Shedding()
    watch(shedding, [1.0])
    assert not shedding.refuses(0.0, 0.0)
    assert not shedding.refuses(TURN_S_MAX, TURN_RAN_S_MAX)
    assert shedding.refuses(TURN_RAN_S_MAX * 2, TURN_RAN_S_MAX * 2)
    assert shedding.refuses(TURN_S_MAX * 2, 0.0), "it waits for a disk"


def test_too_little_memory_refuses_everybody_until_there_is_clearly_enough_again() -> None:
    shedding = Shedding()
    refused = []
    for at, memory_share in enumerate((0.84, 0.86, 0.84, 0.81, 0.79, 0.84)):
        shedding.look(float(at), lag_s=0.0, memory_share=memory_share)
        refused.append((shedding.is_active, shedding.refuses(0.0, 0.0)))
    assert refused == [(False, False), *[(True, True)] * 3, (False, False), (False, False)]


@pytest.mark.parametrize("times", [1.5, 3.0])
@pytest.mark.parametrize("call_s", [0.0002, 0.002])
@pytest.mark.parametrize("cost", [0.05, 0.2])
def test_under_any_load_what_can_be_done_beside_refusing_is_done(times: float, call_s: float, cost: float) -> None:
    """A loop whose turns handle what came during the one before; the first half of a call is its request, and the
    other half its answer in the next turn. Callers do not come back. To refuse one costs a part of a call."""
    shedding = Shedding()
    now_s = looked_s = 0.0
    came, answers, done, turns_s = 1, 0, 0, []
    while now_s < 30:
        turn_s = answers * call_s / 2
        done, admitted = done + (answers if now_s >= 10 else 0), 0
        for _ in range(came):
            is_refused = shedding.is_active and admitted > 0 and shedding.refuses(*[admitted * call_s / 2] * 2)
            admitted += not is_refused
            turn_s += call_s * cost if is_refused else call_s / 2
        came, answers = max(1, round(turn_s * times / call_s)), admitted
        now_s += turn_s
        if now_s >= 10:
            turns_s.append(turn_s)
        if now_s - looked_s >= 0.1:
            lag_s, looked_s = now_s - looked_s - 0.1, now_s
            shedding.look(now_s, lag_s=lag_s, memory_share=0.0, is_busy=True)
    possible = (1 - times * cost) / (1 - cost)  # of what could be done without refusing: that takes the rest
    assert done * call_s / 20 >= 0.9 * possible
    assert max(turns_s) < 0.05, "whoever comes is told so in time"
