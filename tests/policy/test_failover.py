"""The decision after a failed attempt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.test_routing import routes_of
from waypost.kit.errors import ErrorCode
from waypost.policy.failover import ATTEMPTS_MAX, AttemptResult, GiveUp, TryNext, next_step
from waypost.policy.snapshot import Route
from waypost.providers.kind import Failure

A, B, C, D = routes_of((1, 1), (2, 1), (3, 1), (4, 1))
HALF = 0.5


def failed(route: Route, code: str, **fields: Any) -> AttemptResult:
    return AttemptResult(route, Failure(code=ErrorCode[code], **fields))


def bad_credential(route: Route) -> AttemptResult:
    return failed(route, "MODEL_UNAVAILABLE", is_our_credential=True)


def bad_name(route: Route) -> AttemptResult:
    return failed(route, "MODEL_UNAVAILABLE", is_our_model_name=True)


def is_ours(failure: Failure) -> bool:
    return failure.is_our_credential or failure.is_our_model_name


def step(routes: tuple[Route, ...], *attempts: AttemptResult, dice: float = HALF) -> TryNext | GiveUp:
    return next_step(routes, attempts, lambda: dice)


GIVE_UP = [
    ("the request is at fault", (A, B), [failed(A, "INPUT_VALIDATION_ERROR")], ("INPUT_VALIDATION_ERROR", None)),
    ("its content is", (A, B), [failed(A, "CONTENT_MODERATION_REJECTED")], ("CONTENT_MODERATION_REJECTED", None)),
    ("its file is", (A, B), [failed(A, "FILE_FORMAT_UNSUPPORTED")], ("FILE_FORMAT_UNSUPPORTED", None)),
    (
        "the second provider finds the request at fault",
        (A, B, C),
        [failed(A, "MODEL_OVERLOADED"), failed(B, "INPUT_VALIDATION_ERROR")],
        ("INPUT_VALIDATION_ERROR", None),
    ),
    (
        "three attempts are over",
        (A, B, C, D),
        [failed(A, "RATE_LIMITED"), failed(B, "MODEL_OVERLOADED"), failed(C, "GENERATION_TIMEOUT")],
        ("GENERATION_TIMEOUT", None),
    ),
    (
        "three attempts at one route",
        (A,),
        [failed(A, "GENERATION_FAILED")] * 3,
        ("GENERATION_FAILED", None),
    ),
    (
        "the shortest wait of those told is passed on",
        (A, B, C),
        [
            failed(A, "RATE_LIMITED", retry_after_s=30.2),
            failed(B, "RATE_LIMITED", retry_after_s=99),
            failed(C, "RATE_LIMITED"),
        ],
        ("RATE_LIMITED", 31),
    ),
    ("the wait is too long", (A,), [failed(A, "MODEL_OVERLOADED", retry_after_s=10.1)], ("MODEL_OVERLOADED", 11)),
    ("our credential is refused everywhere", (A, B), [bad_credential(A), bad_name(B)], ("MODEL_UNAVAILABLE", None)),
    (
        "what the caller can use is told before our own mistake",
        (A, B),
        [failed(A, "MODEL_OVERLOADED", retry_after_s=60), bad_credential(B)],
        ("MODEL_OVERLOADED", 60),
    ),
    ("a failure that will not pass", (A,), [failed(A, "INTERNAL_ERROR")], ("INTERNAL_ERROR", None)),
]


@pytest.mark.parametrize(
    ("routes", "attempts", "expected"), [row[1:] for row in GIVE_UP], ids=[row[0] for row in GIVE_UP]
)
def test_giving_up(routes: tuple[Route, ...], attempts: list[AttemptResult], expected: tuple[str, int | None]) -> None:
    assert step(routes, *attempts) == GiveUp(ErrorCode[expected[0]], expected[1])


TRY_NEXT = [
    ("an untried route, at once", (A, B), [failed(A, "MODEL_OVERLOADED")], (B, 0.0)),
    ("in the order of preference", (A, B, C), [failed(A, "GENERATION_FAILED"), failed(B, "RATE_LIMITED")], (C, 0.0)),
    ("even when told to wait for the first", (A, B), [failed(A, "RATE_LIMITED", retry_after_s=1)], (B, 0.0)),
    ("after our credential was refused", (A, B), [bad_credential(A)], (B, 0.0)),
    ("after our model name was not known", (A, B), [bad_name(A)], (B, 0.0)),
    ("the same route after backoff", (A,), [failed(A, "GENERATION_FAILED")], (A, 0.125)),
    ("which doubles", (A,), [failed(A, "GENERATION_FAILED")] * 2, (A, 0.25)),
    ("after the time that the provider told", (A,), [failed(A, "RATE_LIMITED", retry_after_s=10)], (A, 10.0)),
    ("the preferred one of all tried", (A, B), [failed(A, "MODEL_OVERLOADED"), failed(B, "RATE_LIMITED")], (A, 0.125)),
    (
        "the one that is free sooner",
        (A, B),
        [failed(A, "RATE_LIMITED", retry_after_s=8), failed(B, "RATE_LIMITED", retry_after_s=2)],
        (B, 2.0),
    ),
    ("not where our credential was refused", (A, B), [bad_credential(A), failed(B, "MODEL_OVERLOADED")], (B, 0.125)),
    ("not where nothing will change", (A, B), [failed(A, "INTERNAL_ERROR"), failed(B, "MODEL_OVERLOADED")], (B, 0.125)),
    (
        "not where the wait is too long",
        (A, B),
        [failed(A, "RATE_LIMITED", retry_after_s=11), failed(B, "MODEL_OVERLOADED")],
        (B, 0.125),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("routes", "attempts", "expected"), [row[1:] for row in TRY_NEXT], ids=[row[0] for row in TRY_NEXT]
)
def test_trying_again(routes: tuple[Route, ...], attempts: list[AttemptResult], expected: tuple[Route, float]) -> None:
    found = step(routes, *attempts)
    assert isinstance(found, TryNext)
    assert found.route is expected[0]
    assert found.delay_s == expected[1]


CODES = st.sampled_from([code for code in ErrorCode if code.status >= 429])
FAILURES = st.builds(
    Failure,
    code=CODES,
    retry_after_s=st.none() | st.floats(0, 40),
    is_our_credential=st.booleans(),
)


@given(count=st.integers(1, 4), failures=st.lists(FAILURES, min_size=3, max_size=3), dice=st.randoms())
def test_whatever_fails_it_ends_within_three_attempts_and_never_repeats_in_vain(
    count: int, failures: list[Failure], dice: random.Random
) -> None:
    routes = (A, B, C, D)[:count]
    attempts: tuple[AttemptResult, ...] = (AttemptResult(A, failures[0]),)
    while isinstance(found := next_step(routes, attempts, dice.random), TryNext):
        before = [attempt.failure for attempt in attempts if attempt.route is found.route]
        if before:
            assert {attempt.route.deployment.id for attempt in attempts} == {each.deployment.id for each in routes}
            assert not is_ours(before[-1])
            assert before[-1].code.is_retryable
            assert (before[-1].retry_after_s or 0) <= found.delay_s <= 10
        else:
            assert found.delay_s == 0
        attempts += (AttemptResult(found.route, failures[len(attempts)]),)
    assert len(attempts) <= ATTEMPTS_MAX
    told = {attempt.failure.code for attempt in attempts if not is_ours(attempt.failure)}
    assert found.code in (told or {ErrorCode.MODEL_UNAVAILABLE})


@pytest.mark.parametrize("why", ["is_rate_limit", "is_our_credential"])
def test_another_credential_of_the_same_route_comes_before_another_route(why: str) -> None:
    attempts = (failed(A, "MODEL_OVERLOADED", **{why: True}),)
    assert next_step((B,), attempts, lambda: HALF, has_other_credential=True) == TryNext(A, 0.0)
    assert next_step((B,), attempts, lambda: HALF) == TryNext(B, 0.0)


def test_another_credential_does_not_help_a_provider_that_is_down() -> None:
    attempts = (failed(A, "GENERATION_FAILED"),)
    assert next_step((B,), attempts, lambda: HALF, has_other_credential=True) == TryNext(B, 0.0)


def test_another_credential_is_an_attempt_too() -> None:
    attempts = (failed(A, "MODEL_OVERLOADED", is_rate_limit=True),) * ATTEMPTS_MAX
    assert next_step((A,), attempts, lambda: HALF, has_other_credential=True) == GiveUp(
        ErrorCode.MODEL_OVERLOADED, None
    )


def test_no_attempt_is_begun_that_has_no_second_left() -> None:
    one_failed = (failed(A, "MODEL_OVERLOADED"),)
    assert next_step((A, B), one_failed, lambda: HALF, left_s=1.0) == TryNext(B, 0.0)
    late = next_step((A, B), one_failed, lambda: HALF, left_s=0.9, has_other_credential=True)
    assert late == GiveUp(ErrorCode.MODEL_OVERLOADED, None)


def test_a_wait_that_leaves_no_second_is_not_waited() -> None:
    resting = (failed(A, "RATE_LIMITED", retry_after_s=2.0),)
    assert next_step((A,), resting, lambda: HALF, left_s=3.0) == TryNext(A, 2.0)
    assert next_step((A,), resting, lambda: HALF, left_s=2.9) == GiveUp(ErrorCode.RATE_LIMITED, 2)
