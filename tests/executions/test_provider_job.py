"""What becomes of a job at a provider, decided from what is known."""

from __future__ import annotations

import pytest

from waypost.executions.lifecycle import State
from waypost.executions.provider_job import (
    Next,
    after_refusal,
    backoff_s,
    charge_of,
    cost_of,
    end_of,
    files_named,
    made_by,
    poll_delay_s,
    with_files,
)
from waypost.kit.errors import ErrorCode
from waypost.metering.price import price_row
from waypost.providers.job import Job, JobState
from waypost.providers.kind import Failure
from waypost.wire.canonical import Usage

PLAIN = Failure(ErrorCode.GENERATION_FAILED)
OURS = Failure(ErrorCode.MODEL_UNAVAILABLE, is_our_credential=True)
PRICES = price_row({"image": 40_000_000_000, "second": 2_000_000_000, "request": 1_000_000_000})
IMAGE, SECOND, REQUEST = 40_000, 2_000, 1_000


@pytest.mark.parametrize(
    ("status", "failure", "following"),
    [
        *((422, PLAIN, Next.REFUSED), (400, PLAIN, Next.REFUSED), (413, PLAIN, Next.REFUSED)),
        *((429, PLAIN, Next.ELSEWHERE), (500, PLAIN, Next.ELSEWHERE), (503, PLAIN, Next.ELSEWHERE)),
        *((401, OURS, Next.ELSEWHERE), (402, OURS, Next.ELSEWHERE)),
        # Of somebody between us and the provider, who may have taken it.
        *((502, PLAIN, Next.UNKNOWN), (504, PLAIN, Next.UNKNOWN), (524, PLAIN, Next.UNKNOWN)),
        (200, PLAIN, Next.UNKNOWN),
    ],
)
def test_what_a_refused_submission_leads_to(status: int, failure: Failure, following: Next) -> None:
    assert after_refusal(status, failure) is following


def test_questions_begin_after_two_seconds_and_are_a_minute_apart_at_most() -> None:
    waits = [poll_delay_s(polls, calls_back=False, dice=0.5) for polls in range(12)]
    assert waits[:4] == [2.0, 3.0, 4.5, 6.75]
    assert waits[-1] == 60.0
    assert poll_delay_s(10**6, calls_back=False, dice=0.5) == 60.0
    assert poll_delay_s(0, calls_back=True, dice=0.5) == 20.0
    extremes = [poll_delay_s(0, calls_back=False, dice=dice) for dice in (0.0, 1.0)]
    assert extremes == pytest.approx([1.6, 2.4])


def test_tries_are_further_apart_each_time() -> None:
    assert [backoff_s(tries, dice=0.5) for tries in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 30.0]


@pytest.mark.parametrize(
    ("state", "is_cancel_asked", "end"),
    [
        (JobState.FAILED, False, (State.FAILED, ErrorCode.CONTENT_MODERATION_REJECTED)),
        (JobState.FAILED, True, (State.FAILED, ErrorCode.CONTENT_MODERATION_REJECTED)),
        (JobState.CANCELED, True, (State.CANCELED, None)),
        (JobState.CANCELED, False, (State.FAILED, ErrorCode.GENERATION_FAILED)),
        (JobState.GONE, True, (State.CANCELED, None)),
        (JobState.GONE, False, (State.FAILED, ErrorCode.GENERATION_FAILED)),
    ],
)
def test_how_it_ends_without_success(
    state: JobState, is_cancel_asked: bool, end: tuple[State, ErrorCode | None]
) -> None:
    job = Job("j", state, failure=Failure(ErrorCode.CONTENT_MODERATION_REJECTED))
    assert end_of(job, is_cancel_asked=is_cancel_asked) == end


def test_what_was_made_is_what_the_provider_says_else_what_was_kept_or_asked_for() -> None:
    silent = Job("j", JobState.SUCCEEDED)
    told = Job("j", JobState.SUCCEEDED, made=Usage(images=3))
    assert made_by(told, images=2, asked_ms=0).images == 3
    assert made_by(silent, images=2, asked_ms=5_000) == Usage(images=2)
    assert made_by(silent, images=0, asked_ms=5_000) == Usage(duration_ms=5_000, is_estimated=True)
    told = Job("j", JobState.SUCCEEDED, made=Usage(duration_ms=4_040))
    assert made_by(told, images=0, asked_ms=5_000) == Usage(duration_ms=4_040)
    assert made_by(silent, images=0, asked_ms=5_000, measured_ms=4_900) == Usage(duration_ms=4_900)
    assert made_by(silent, images=0, asked_ms=5_000, measured_ms=5_040) == Usage(duration_ms=5_000)
    assert made_by(silent, images=0, asked_ms=0, measured_ms=5_040) == Usage(duration_ms=5_040)
    assert made_by(silent, images=1, asked_ms=5_000, measured_ms=4_900) == Usage(images=1, duration_ms=4_900)


def test_a_job_costs_what_its_provider_bills_by() -> None:
    job = Job("j", JobState.SUCCEEDED, metered_ms=1_500)
    made = Usage(images=2)
    assert cost_of(job, made, PRICES, by_meter=False) == 2 * IMAGE + REQUEST
    assert cost_of(job, made, PRICES, by_meter=True) == 3 * SECOND // 2 + REQUEST
    silent = Job("j", JobState.SUCCEEDED)
    assert cost_of(silent, made, PRICES, by_meter=True) == 2 * IMAGE + REQUEST

    failed = Job("j", JobState.FAILED, metered_ms=1_500)
    assert cost_of(failed, Usage(), PRICES, by_meter=False) == 0
    assert cost_of(failed, Usage(), PRICES, by_meter=True) == 3 * SECOND // 2 + REQUEST
    assert cost_of(Job("j", JobState.CANCELED), Usage(), PRICES, by_meter=True) == 0


def test_a_charge_is_never_more_than_was_held() -> None:
    assert charge_of(Usage(images=2), PRICES, 10**9) == 2 * IMAGE + REQUEST
    assert charge_of(Usage(images=2), PRICES, 50_000) == 50_000


def test_files_are_found_and_replaced_wherever_they_stand() -> None:
    value = {"a": "file_1", "b": ["x", {"c": "file_2", "d": "file_1"}], "file_3": None, "e": 1.5}

    def is_file(text: str) -> bool:
        return text.startswith("file_")

    assert files_named(value, is_file) == ["file_1", "file_2"]
    assert with_files(value, {"file_1": "A", "file_2": "B"}) == {
        "a": "A",
        "b": ["x", {"c": "B", "d": "A"}],
        "file_3": None,
        "e": 1.5,
    }
