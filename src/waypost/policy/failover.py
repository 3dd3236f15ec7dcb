"""What to do after a failed attempt: try another route, try the same one again after a while, or give up.

    the request was at fault          → give up: every provider would say the same
    only the credential was refused   → try the same route with another credential at once
    a route is left untried           → try it at once
    a failure may pass in ≤ 10 s      → try that route again, after backoff or the provider's Retry-After
    otherwise, after 3 attempts, or where no time is left
                                      → give up, with the last failure that tells the caller something

Only for failures before the first content event; afterwards there is nothing to decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.policy.snapshot import Route
from waypost.providers.kind import Failure

ATTEMPTS_MAX = 3  # over all routes: a caller waits for them one after the other
RETRY_AFTER_S_MAX = 10.0  # a longer wait is for the caller to decide on
LEFT_S_MIN = 1.0  # what an attempt is begun for, where the caller gave a time: the least that may be given
BACKOFF_S = 0.25  # before the first repetition; doubles, with full jitter
BACKOFF_S_MAX = 4.0
_REQUEST_AT_FAULT = frozenset(
    {
        ErrorCode.INPUT_VALIDATION_ERROR,
        ErrorCode.CONTENT_MODERATION_REJECTED,
        ErrorCode.FILE_NOT_FOUND,
        ErrorCode.FILE_FORMAT_UNSUPPORTED,
    }
)


class AttemptResult(msgspec.Struct, frozen=True):
    """A failed attempt."""

    route: Route
    failure: Failure


class TryNext(msgspec.Struct, frozen=True):
    route: Route
    delay_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """`code` is for the caller; `retry_after_s` says when a retry may help, as far as a provider told."""

    code: ErrorCode
    retry_after_s: int | None


def next_step(
    routes: tuple[Route, ...],
    attempts: tuple[AttemptResult, ...],
    dice: Callable[[], float],
    *,
    has_other_credential: bool = False,
    left_s: float = math.inf,
) -> TryNext | GiveUp:
    """`routes` that may be tried (again) in the order of preference, `attempts` in the order they failed, `dice` rolls
    in [0, 1). `has_other_credential`: the route that failed last has one that is ready. `left_s`: how long the caller
    waits yet, at most."""
    assert attempts, "called before the first attempt"
    last = attempts[-1].failure
    if last.code in _REQUEST_AT_FAULT and not _is_ours(last):
        return GiveUp(last.code, None)
    if len(attempts) >= ATTEMPTS_MAX or left_s < LEFT_S_MIN:
        return _give_up(attempts)
    if has_other_credential and (last.is_rate_limit or last.is_our_credential):
        return TryNext(attempts[-1].route, 0.0)
    failures = {attempt.route.deployment.id: attempt.failure for attempt in attempts}
    for route in routes:
        if route.deployment.id not in failures:
            return TryNext(route, 0.0)
    passing = [route for route in routes if _may_pass(failures[route.deployment.id])]
    if not passing:
        return _give_up(attempts)
    soonest = min(passing, key=lambda route: failures[route.deployment.id].retry_after_s or 0.0)
    repetitions = len(attempts) - len(failures)
    backoff_s = dice() * min(BACKOFF_S * 2**repetitions, BACKOFF_S_MAX)
    delay_s = max(backoff_s, failures[soonest.deployment.id].retry_after_s or 0.0)
    return TryNext(soonest, delay_s) if left_s - delay_s >= LEFT_S_MIN else _give_up(attempts)


def _is_ours(failure: Failure) -> bool:
    """The operator has to act, not the caller."""
    return failure.is_our_credential or failure.is_our_model_name


def _may_pass(failure: Failure) -> bool:
    return not _is_ours(failure) and failure.code.is_retryable and (failure.retry_after_s or 0.0) <= RETRY_AFTER_S_MAX


def _give_up(attempts: tuple[AttemptResult, ...]) -> GiveUp:
    """Our own credential or model name at fault is nothing that a caller can use, so an earlier failure speaks."""
    meaningful = [attempt.failure for attempt in attempts if not _is_ours(attempt.failure)]
    if not meaningful:
        return GiveUp(ErrorCode.MODEL_UNAVAILABLE, None)
    code = meaningful[-1].code
    told = [failure.retry_after_s for failure in meaningful if failure.retry_after_s is not None]
    return GiveUp(code, math.ceil(min(told)) if told and code.is_retryable else None)
