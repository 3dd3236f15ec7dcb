"""The circuit breaker against a reference model on random traces, and its rules one by one.

`TRACES=100000 ./run test tests/policy/test_circuit.py` tries more of them.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.policy.circuit_model import Model
from waypost.kit.errors import ErrorCode
from waypost.ledger.record import Outcome
from waypost.policy.catalogue import Breaker
from waypost.policy.circuit import OPEN_S_MAX, UNTIED, Circuit, Phase, Verdict, verdict_of
from waypost.providers.kind import Failure

TRACES = int(os.environ.get("TRACES", "10000"))
STEPS_S = (0.0, 0.0, 0.01, 0.4, 0.999, 1.0, 1.001, 3.0, 4.5, 5.5, 9.99, 10.0, 11.0, 30.0, 100.0)
SETTINGS = (
    Breaker(),
    Breaker(min_calls=4, consecutive=3),
    Breaker(min_calls=2, failure_ratio=0.5, consecutive=50, window_s=2, open_s=1),
    Breaker(min_calls=6, failure_ratio=1.0, consecutive=9, window_s=5, open_s=20),
    Breaker(min_calls=3, failure_ratio=0.34, consecutive=1000, window_s=0.7),
)


def never() -> float:
    raise AssertionError("no dice are rolled here")


def half() -> float:
    return 0.5


@pytest.mark.parametrize("part", range(4))
def test_random_traces_go_as_the_reference_model_goes(part: int) -> None:
    dice = random.Random(part)
    seen: set[tuple[Phase, Phase]] = set()
    for _ in range(TRACES // 4):
        seen |= walk(dice)
    both = {Phase.OPEN, Phase.HALF_OPEN}
    assert {(Phase.CLOSED, Phase.OPEN), (Phase.HALF_OPEN, Phase.OPEN), (Phase.HALF_OPEN, Phase.CLOSED)} <= seen
    assert {(before, after) for before, after in seen if before in both} >= {(Phase.OPEN, Phase.HALF_OPEN)}


def walk(dice: random.Random) -> set[tuple[Phase, Phase]]:
    """One trace; the changes of phase that it saw."""
    settings = dice.choice(SETTINGS)
    circuit, model = Circuit(settings), Model(settings)
    bad = dice.choice((0.1, 0.5, 0.9, 1.0))
    now_s = dice.random() * 1e4
    under_way: list[tuple[int, int]] = []
    changes = set()
    for number in range(dice.randrange(4, 50)):
        now_s += dice.choice(STEPS_S)
        before = circuit.phase
        if under_way and dice.random() < 0.55:
            at = dice.randrange(len(under_way))
            mine, its = under_way.pop(at)
            roll = dice.random()
            verdict = Verdict.FAILURE if roll < bad else Verdict.SUCCESS if roll < 0.95 else Verdict.NOTHING
            jitter = dice.random()
            circuit.end(mine, verdict, now_s, lambda jitter=jitter: jitter)  # type: ignore[misc]
            model.end(its, verdict.value, now_s, jitter)
        else:
            model.begin(number, now_s)
            under_way.append((circuit.begin(now_s), number))
        if circuit.phase is not before:
            changes.add((before, circuit.phase))
        assert circuit.phase.value == model.phase
        assert (circuit.blocked_until_s <= now_s) == model.lets_through(now_s)
        assert circuit.is_total == model.is_total(now_s)
        if model.phase == "open":
            assert circuit.blocked_until_s == pytest.approx(model.reopens_s)
    return changes


def fail(circuit: Circuit, times: int, now_s: float = 0.0) -> None:
    for _ in range(times):
        circuit.end(circuit.begin(now_s), Verdict.FAILURE, now_s, half)


def succeed(circuit: Circuit, times: int, now_s: float = 0.0) -> None:
    for _ in range(times):
        circuit.end(circuit.begin(now_s), Verdict.SUCCESS, now_s, never)


def test_five_failures_in_a_row_open_it() -> None:
    circuit = Circuit(Breaker())
    fail(circuit, 4)
    succeed(circuit, 1)
    fail(circuit, 4)
    assert circuit.phase is Phase.CLOSED
    fail(circuit, 1)
    assert (circuit.phase, circuit.blocked_until_s) == (Phase.OPEN, 5.0)


def test_half_of_twenty_calls_in_the_window_open_it() -> None:
    circuit = Circuit(Breaker(consecutive=100))
    succeed(circuit, 10)
    fail(circuit, 9)
    assert circuit.blocked_until_s == 0.0
    fail(circuit, 1)
    assert circuit.phase is Phase.OPEN


def test_twenty_five_failures_in_a_row_are_seen_at_once_whatever_the_time_between() -> None:
    circuit = Circuit(Breaker())
    for at in range(5):
        fail(circuit, 1, now_s=at * 1000.0)
    assert circuit.phase is Phase.OPEN


def test_it_stays_open_twice_as_long_each_time_and_at_most_two_minutes() -> None:
    circuit, now_s, opened_s = Circuit(Breaker(consecutive=1)), 0.0, []
    for _ in range(8):
        fail(circuit, 1, now_s)
        opened_s.append(circuit.blocked_until_s - now_s)
        now_s = circuit.blocked_until_s
    assert opened_s == pytest.approx([5, 10, 20, 40, 80, OPEN_S_MAX, OPEN_S_MAX, OPEN_S_MAX])


@pytest.mark.parametrize(("roll", "open_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_how_long_varies_by_a_fifth(roll: float, open_s: float) -> None:
    circuit = Circuit(Breaker(consecutive=1))
    circuit.end(circuit.begin(0), Verdict.FAILURE, 0, lambda: roll)
    assert circuit.blocked_until_s == pytest.approx(open_s)


def test_three_probes_are_let_through_and_two_successes_close_it() -> None:
    circuit = Circuit(Breaker(consecutive=1))
    fail(circuit, 1)
    assert circuit.begin(4.9) == UNTIED
    probes = [circuit.begin(5.0) for _ in range(3)]
    assert UNTIED not in probes
    assert circuit.begin(5.0) == UNTIED
    circuit.end(probes[0], Verdict.NOTHING, 6.0, never)
    assert circuit.begin(6.0) != UNTIED, "the place of a probe that told nothing is free again"
    circuit.end(probes[1], Verdict.SUCCESS, 7.0, never)
    assert circuit.phase is Phase.HALF_OPEN
    assert circuit.end(probes[2], Verdict.SUCCESS, 7.0, never) is Phase.CLOSED
    assert circuit.blocked_until_s == 0.0


def test_a_call_from_before_the_outage_says_nothing_about_its_end() -> None:
    circuit = Circuit(Breaker(consecutive=2))
    long_ago = [circuit.begin(0.0) for _ in range(4)]
    fail(circuit, 2)
    probe = circuit.begin(5.0)
    for permit in long_ago:
        circuit.end(permit, Verdict.SUCCESS, 5.0, never)
    assert circuit.phase is Phase.HALF_OPEN
    circuit.end(probe, Verdict.FAILURE, 5.0, half)
    assert (circuit.phase, circuit.blocked_until_s) == (Phase.OPEN, 15.0)


def test_it_tells_whether_everything_fails() -> None:
    circuit = Circuit(Breaker(consecutive=3))
    succeed(circuit, 1)
    fail(circuit, 3)
    assert circuit.phase is Phase.OPEN
    assert not circuit.is_total
    for at in range(3):  # called all the same, for want of another, until nothing else is left in the window
        circuit.end(circuit.begin(1.0 + at), Verdict.FAILURE, 12.0, never)
    assert circuit.phase is Phase.OPEN
    assert circuit.is_total


def test_changed_settings_are_in_force_at_once_and_do_not_wake_what_rests() -> None:
    circuit = Circuit(Breaker())
    fail(circuit, 4)
    circuit.adopt(Breaker(consecutive=2, open_s=60))
    assert circuit.phase is Phase.CLOSED
    fail(circuit, 1)
    assert circuit.blocked_until_s == 60.0
    circuit.adopt(Breaker(open_s=1))
    assert circuit.begin(59.0) == UNTIED


BROKEN = Failure(ErrorCode.GENERATION_FAILED)


@pytest.mark.parametrize(
    ("outcome", "failure", "status", "verdict"),
    [
        (Outcome.COMPLETED, None, 200, Verdict.SUCCESS),
        (Outcome.FAILED, BROKEN, 500, Verdict.FAILURE),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_OVERLOADED), 529, Verdict.FAILURE),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_OVERLOADED, 30.0), 503, Verdict.FAILURE),
        (Outcome.FAILED, Failure(ErrorCode.GENERATION_TIMEOUT), 0, Verdict.FAILURE),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_UNAVAILABLE), 0, Verdict.FAILURE),
        (Outcome.FAILED, BROKEN, 200, Verdict.FAILURE),
        (Outcome.FAILED, BROKEN, 307, Verdict.FAILURE),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_OVERLOADED, is_rate_limit=True), 429, Verdict.NOTHING),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_OVERLOADED, is_rate_limit=True), 200, Verdict.NOTHING),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_UNAVAILABLE, is_our_credential=True), 401, Verdict.NOTHING),
        (Outcome.FAILED, Failure(ErrorCode.MODEL_UNAVAILABLE, is_our_model_name=True), 404, Verdict.NOTHING),
        (Outcome.FAILED, Failure(ErrorCode.GENERATION_TIMEOUT), 408, Verdict.NOTHING),
        (Outcome.FAILED, BROKEN, 418, Verdict.NOTHING),
        (Outcome.REJECTED, Failure(ErrorCode.INPUT_VALIDATION_ERROR), 400, Verdict.NOTHING),
        (Outcome.REJECTED, Failure(ErrorCode.INPUT_VALIDATION_ERROR), 200, Verdict.NOTHING),
        (Outcome.FAILED, Failure(ErrorCode.INTERNAL_ERROR), 0, Verdict.NOTHING),
        (Outcome.DISCONNECTED, BROKEN, 200, Verdict.NOTHING),
        (Outcome.CUT_OFF, BROKEN, 0, Verdict.NOTHING),
    ],
)
def test_what_counts_against_a_provider(
    outcome: Outcome, failure: Failure | None, status: int, verdict: Verdict
) -> None:
    assert verdict_of(outcome, failure, status) is verdict
