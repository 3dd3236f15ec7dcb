"""The states of an asynchronous execution, and which may follow which.

    RECEIVED ─▶ RUNNING ─────────────────────────────────────────────▶ SUCCEEDED     a call that answers itself
        └─▶ SUBMITTING ─▶ SUBMITTED ─▶ RUNNING ─▶ REHOSTING ─────────▶ SUCCEEDED     a job at a provider
                 └─▶ SUBMIT_UNKNOWN ┘                        every one ▶ FAILED | CANCELED | EXPIRED

States have ranks, and none is followed by one of a lower rank: news that come late change nothing. The exception is a
job that begins anew at a provider, with a higher attempt number: it goes back to SUBMITTING. What has ended never
changes. Callers see fewer states, by ModelRoute's names.
"""

from __future__ import annotations

from enum import Enum

from waypost.ledger.record import Outcome


class State(Enum):
    """name → (its name for callers, rank). The names are stored: never rename."""

    RECEIVED = ("PENDING", 0)  # paid for, and its job is queued
    SUBMITTING = ("PROCESSING", 1)  # written before the provider is asked to begin a job
    SUBMIT_UNKNOWN = ("PROCESSING", 2)  # it was asked, and nobody knows whether it did
    SUBMITTED = ("PROCESSING", 3)
    RUNNING = ("PROCESSING", 4)
    REHOSTING = ("PROCESSING", 5)  # the provider is done, and its output is being fetched
    SUCCEEDED = ("COMPLETED", 6)
    FAILED = ("FAILED", 6)
    CANCELED = ("CANCELLED", 6)
    EXPIRED = ("EXPIRED", 6)

    def __init__(self, public: str, rank: int) -> None:
        self.public = public
        self.rank = rank

    @property
    def has_ended(self) -> bool:
        return self.rank == State.SUCCEEDED.rank


class Mode(Enum):
    """How a deployment answers. Values are stored."""

    SYNC = "sync"
    STREAM = "stream"
    POLL = "poll"
    CALLBACK = "callback"

    @property
    def is_job(self) -> bool:
        """Whether the provider does the work after it has answered, and its own end of it decides."""
        return self in (Mode.POLL, Mode.CALLBACK)


AWAITING_WEBHOOK = "AWAITING_WEBHOOK"
STATUSES = (*dict.fromkeys(state.public for state in State), AWAITING_WEBHOOK)
"""What callers may see, and filter by."""

_WAITING = (State.SUBMITTED, State.RUNNING)
_BEGINS_ANEW = (State.RECEIVED, State.SUBMITTING, State.SUBMIT_UNKNOWN, State.SUBMITTED, State.RUNNING)
_EVENTS = {
    State.SUCCEEDED: "execution.completed",
    State.FAILED: "execution.failed",
    State.CANCELED: "execution.cancelled",
    State.EXPIRED: "execution.expired",
}
_OUTCOMES = {
    State.SUCCEEDED: Outcome.COMPLETED,
    State.FAILED: Outcome.FAILED,
    State.CANCELED: Outcome.DISCONNECTED,
    State.EXPIRED: Outcome.CUT_OFF,
}


def public_status(state: State, mode: Mode | None) -> str:
    """What callers are told: one of ModelRoute's seven."""
    return AWAITING_WEBHOOK if state in _WAITING and mode is Mode.CALLBACK else state.public


def may_follow(before: State, after: State, *, is_new_attempt: bool = False) -> bool:
    """Whether `after` may be the next state. Staying is allowed while it has not ended: attempts and polls are counted
    so. `is_new_attempt`: the attempt number grows with it."""
    if before.has_ended:
        return False
    if after is State.RECEIVED:
        return before is State.RECEIVED
    if is_new_attempt and after is State.SUBMITTING:
        return before in _BEGINS_ANEW
    if before is State.REHOSTING and after is State.CANCELED:
        return False  # the provider had succeeded first
    return after.rank >= before.rank


def event_of(before: State, after: State) -> str | None:
    """What is announced of a step, if anything: the beginning of work, and every end."""
    if after.has_ended:
        return _EVENTS[after]
    return "execution.started" if before is State.RECEIVED and after is not State.RECEIVED else None


def outcome_of(ended: State) -> Outcome:
    """How the books call that end."""
    return _OUTCOMES[ended]


class Cancelling(Enum):
    """What a wish to cancel comes to."""

    AT_ONCE = "it ends now, and costs its caller nothing"
    ASKED = "the provider is asked, and its own end of the job decides"
    TOO_LATE = "it has ended, or its output is there"


def cancelling(state: State, mode: Mode | None) -> Cancelling:
    """By the state it is in."""
    if state.has_ended or state is State.REHOSTING:
        return Cancelling.TOO_LATE
    if state is State.RECEIVED or mode is None or not mode.is_job:
        return Cancelling.AT_ONCE
    return Cancelling.ASKED
