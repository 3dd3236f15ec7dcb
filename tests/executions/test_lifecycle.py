"""Which state may follow which, and what callers are told of it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.executions.lifecycle import (
    STATUSES,
    Cancelling,
    Mode,
    State,
    cancelling,
    event_of,
    may_follow,
    outcome_of,
    public_status,
)

ENDS = [state for state in State if state.has_ended]
MODES = (None, *Mode)


def test_callers_see_seven_statuses_by_their_published_names() -> None:
    seen = {public_status(state, mode) for state, mode in product(State, MODES)}
    assert seen == set(STATUSES)
    assert seen == {"PENDING", "PROCESSING", "AWAITING_WEBHOOK", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}


@pytest.mark.parametrize("ended", ENDS)
def test_what_has_ended_is_followed_by_nothing(ended: State) -> None:
    for after, is_new in product(State, (False, True)):
        assert not may_follow(ended, after, is_new_attempt=is_new)


@given(st.lists(st.tuples(st.sampled_from(list(State)), st.booleans()), max_size=40))
def test_no_news_leads_back_but_a_new_attempt(news: list[tuple[State, bool]]) -> None:
    state, ends = State.RECEIVED, 0
    for after, is_new in news:
        if may_follow(state, after, is_new_attempt=is_new):
            assert after.rank >= state.rank or (is_new and after is State.SUBMITTING)
            ends += after.has_ended
            state = after
    assert ends <= 1


def test_every_state_can_still_end_in_any_way_but_what_is_being_fetched_is_not_cancelled() -> None:
    for before, after in product(State, ENDS):
        if not before.has_ended:
            assert may_follow(before, after) == ((before, after) != (State.REHOSTING, State.CANCELED))


def test_the_beginning_and_every_end_are_announced_and_nothing_else() -> None:
    assert event_of(State.RECEIVED, State.RUNNING) == "execution.started"
    assert event_of(State.RECEIVED, State.SUBMITTING) == "execution.started"
    assert event_of(State.SUBMITTING, State.RUNNING) is None
    assert event_of(State.RECEIVED, State.RECEIVED) is None
    events = {event_of(State.RUNNING, ended) for ended in ENDS}
    assert events == {f"execution.{what}" for what in ("completed", "failed", "cancelled", "expired")}
    assert len({outcome_of(ended) for ended in ENDS}) == len(ENDS)


def test_a_wish_to_cancel_is_the_providers_to_decide_only_while_a_job_of_its_own_runs() -> None:
    for state, mode in product(State, MODES):
        found = cancelling(state, mode)
        if state.has_ended or state is State.REHOSTING:
            assert found is Cancelling.TOO_LATE
        elif state is State.RECEIVED or mode in (None, Mode.SYNC, Mode.STREAM):
            assert found is Cancelling.AT_ONCE
        else:
            assert found is Cancelling.ASKED


def test_the_first_submission_is_the_first_attempt() -> None:
    assert may_follow(State.RECEIVED, State.SUBMITTING, is_new_attempt=True)
    assert may_follow(State.SUBMITTED, State.SUBMITTING, is_new_attempt=True)
    assert not may_follow(State.SUBMITTED, State.SUBMITTING)
    assert not may_follow(State.REHOSTING, State.SUBMITTING, is_new_attempt=True)
