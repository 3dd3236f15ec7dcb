"""What becomes of a job at a provider, decided from what is known: when to ask, what an answer to a submission means,
and what its end means in money.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from waypost.executions.lifecycle import State
from waypost.kit.errors import ErrorCode
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.metering.price import PriceRow, amount
from waypost.providers.job import Job, JobState
from waypost.providers.kind import Failure
from waypost.wire.canonical import Usage

ATTEMPTS_MAX = 3  # submissions of one execution, over all providers
POLL_FIRST_S, POLL_FACTOR, POLL_S_MAX = 2.0, 1.5, 60.0
CALLBACK_FIRST_S = 20.0  # of a job that calls back: polling is what catches callbacks that never come
JITTER = 0.2  # of a wait, either way
LOOK_UP_S = 600.0  # how long a submission whose answer was lost is looked for
REHOST_TRIES_MAX = 8
WRONG_TYPE_TRIES_MAX = 3  # a host may send an error page with status 200, in place of an output that is paid for
REHOST_FIRST_S, REHOST_S_MAX = 1.0, 30.0
BACKOFF_FIRST_S, BACKOFF_S_MAX = 1.0, 30.0
GONE_POLLS_MAX = 3  # "no such job" may be said of one that is only just there
_AMBIGUOUS = frozenset((502, 504, 520, 521, 522, 523, 524))
"""Of a proxy that did not hear the end: the provider behind it may have taken the job."""


class Next(Enum):
    """What an answer to a submission leads to."""

    ACCEPTED = "there is a job"
    UNKNOWN = "there may be one"
    ELSEWHERE = "there is none, and another submission may be taken, here later or at another provider"
    REFUSED = "there is none, and no other would be taken"


def after_refusal(status: int, failure: Failure) -> Next:
    """Of a submission that was answered with an error."""
    if status in _AMBIGUOUS or 200 <= status <= 299:
        return Next.UNKNOWN
    if failure.is_ours or status == 429 or status >= 500:
        return Next.ELSEWHERE
    return Next.REFUSED


def poll_delay_s(polls: int, *, calls_back: bool, dice: float) -> float:
    """Until the next question, after so many. `dice` is 0 … 1."""
    first_s = CALLBACK_FIRST_S if calls_back else POLL_FIRST_S
    return jittered(min(POLL_S_MAX, first_s * POLL_FACTOR ** min(polls, 32)), dice)


def backoff_s(tries: int, *, first_s: float = BACKOFF_FIRST_S, most_s: float = BACKOFF_S_MAX, dice: float) -> float:
    """Before another try, after `tries` ≥ 1."""
    return jittered(min(most_s, first_s * 2 ** min(tries - 1, 16)), dice)


def jittered(delay_s: float, dice: float) -> float:
    return delay_s * (1 - JITTER + 2 * JITTER * dice)


def end_of(job: Job, *, is_cancel_asked: bool) -> tuple[State, ErrorCode | None]:
    """How an execution ends whose job has, other than by success."""
    assert job.state.is_terminal
    assert job.state is not JobState.SUCCEEDED
    if job.state is JobState.CANCELED or job.state is JobState.GONE:
        # A provider that cancels on its own, or forgets, has failed.
        return (State.CANCELED, None) if is_cancel_asked else (State.FAILED, ErrorCode.GENERATION_FAILED)
    return State.FAILED, job.failure.code if job.failure is not None else ErrorCode.GENERATION_FAILED


def made_by(job: Job, *, images: int, asked_ms: int, measured_ms: int = 0) -> Usage:
    """What came out, as its customer pays for it. `images` are the image files that were kept, and `measured_ms` how
    much video or sound their containers say; `asked_ms` was asked for, which counts where nobody tells how much it
    became and nobody kept a picture, and is the most that a container is believed."""
    made = job.made
    if not made.images and images:
        made = replace(made, images=images)
    if made.duration_ms:
        return made
    if measured_ms:  # also of a film that came with a picture
        return replace(made, duration_ms=min(measured_ms, asked_ms or measured_ms))
    if asked_ms and not images:
        made = replace(made, duration_ms=asked_ms, is_estimated=True)
    return made


def billed_by(job: Job, made: Usage, *, by_meter: bool) -> Usage:
    """What the provider bills: by what came out, or by what it says that it metered, counted as seconds."""
    if not by_meter:
        return made if job.state is JobState.SUCCEEDED else Usage()
    if job.metered_ms is None:
        return made
    return Usage(duration_ms=job.metered_ms)


def cost_of(job: Job, made: Usage, costs: PriceRow, *, by_meter: bool) -> Nanos:
    """What the house pays for it. Of a job that made nothing that is what was metered, if that is what is billed."""
    if job.state is not JobState.SUCCEEDED and not (by_meter and job.metered_ms):
        return 0
    return amount(billed_by(job, made, by_meter=by_meter), costs)


def charge_of(made: Usage, prices: PriceRow, hold_nanos: Nanos) -> Nanos:
    """What the customer pays: never more than was held."""
    return min(amount(made, prices), hold_nanos)


def asked_by(estimate_nanos: Nanos, prices: PriceRow) -> int:
    """The milliseconds of video or sound that an estimate was made for; 0 where its price does not depend on them."""
    base_nanos = amount(Usage(), prices)
    second_nanos = amount(Usage(duration_ms=1_000), prices) - base_nanos
    return max(0, estimate_nanos - base_nanos) * 1_000 // second_nanos if second_nanos > 0 else 0


def files_named(value: Any, is_file: Any) -> list[str]:
    """Every string of a JSON value that is the id of a file, once, in order."""
    found: dict[str, None] = {}
    _find(value, is_file, found)
    return list(found)


def with_files(value: Any, delivered: Mapping[str, str]) -> Any:
    """The JSON value with those strings replaced."""
    if isinstance(value, str):
        return delivered.get(value, value)
    if isinstance(value, list):
        return [with_files(each, delivered) for each in value]
    if isinstance(value, dict):
        return {name: with_files(each, delivered) for name, each in value.items()}
    return value


def _find(value: Any, is_file: Any, found: dict[str, None]) -> None:
    if isinstance(value, str):
        if is_file(value):
            found[value] = None
    elif isinstance(value, list):
        for each in value:
            _find(each, is_file, found)
    elif isinstance(value, dict):
        for each in value.values():
            _find(each, is_file, found)
