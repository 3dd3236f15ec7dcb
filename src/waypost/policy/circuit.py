"""A circuit breaker: what keeps failing is not called for a while, and then tried by a few probes.

    closed      every call goes through
      │ so many failures in a row, or too large a share of enough calls in the window
      ▼
    open        no call goes through, for open_s, twice as long each further time, ±20 %
      │ the time is over
      ▼
    half-open   three probes at most at a time; two that succeed close it, one that fails opens it again

A call takes a permit and gives it back with its verdict. The verdict counts in the window in any case, but moves the
state only when the call began in the present phase: what was begun before an outage says nothing about its end.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from waypost.kit.errors import ErrorCode
from waypost.ledger.record import Outcome
from waypost.policy.catalogue import Breaker
from waypost.policy.tally import Tally
from waypost.providers.kind import Failure

OPEN_S_MAX = 120.0  # longer and a provider that is back would be missed
JITTER = 0.2  # so that many gateways do not probe at the same moment
PROBES_MAX = 3
CLOSING_SUCCESSES = 2
UNTIED = -1  # the permit of a call that no phase waits for


class Phase(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Verdict(Enum):
    """What a call tells of the health of what it called."""

    SUCCESS = "success"
    FAILURE = "failure"
    NOTHING = "nothing"


_CLOSED, _SUCCESS = Phase.CLOSED, Verdict.SUCCESS  # an enum's attributes are looked up slowly


def verdict_of(outcome: Outcome, failure: Failure | None, status: int) -> Verdict:
    """5xx, timeouts, broken connections and unreadable answers are failures. Not: what we or the caller did wrong, a
    caller who left, and 4xx; a 429 rests the credential instead. `status` is HTTP's, 0 when there was none."""
    if failure is None:
        return _SUCCESS
    if outcome in (Outcome.DISCONNECTED, Outcome.CUT_OFF, Outcome.REJECTED):
        return Verdict.NOTHING
    if failure.is_ours or failure.is_rate_limit or failure.code is ErrorCode.INTERNAL_ERROR:
        return Verdict.NOTHING
    if failure.code.status == 400:  # said late, in a stream
        return Verdict.NOTHING
    return Verdict.NOTHING if 400 <= status < 500 else Verdict.FAILURE


class Circuit:
    """Of one credential at one model of a provider. Times are seconds of one monotonic clock; dice roll in [0, 1)."""

    __slots__ = (
        "_epoch",
        "_in_a_row",
        "_is_total",
        "_probes",
        "_successes",
        "_tally",
        "_times_opened",
        "blocked_until_s",
        "phase",
        "settings",
    )

    def __init__(self, settings: Breaker) -> None:
        self.settings = settings
        self.phase = Phase.CLOSED
        self.blocked_until_s = 0.0
        """No call goes through before; 0 while closed. Read on every request instead of a method's answer."""
        self._epoch = 0  # counts the phases
        self._tally = Tally(settings.window_s)
        self._in_a_row = 0
        self._is_total = False
        self._times_opened = 0  # since it was last closed
        self._probes = 0
        self._successes = 0

    def adopt(self, settings: Breaker) -> None:
        """New settings, in force from the next verdict on. An open circuit stays open as long as it was to."""
        if settings.window_s != self.settings.window_s:
            self._tally = Tally(settings.window_s)
        self.settings = settings

    @property
    def is_total(self) -> bool:
        """Not closed, and nothing that the window knows of has succeeded: not even the last candidate is called."""
        return self.phase is not Phase.CLOSED and self._is_total

    def begin(self, now_s: float) -> int:
        """The permit of a call. Whoever calls while it is blocked, because there is nobody else, gets an untied one."""
        if self.phase is _CLOSED:
            return self._epoch
        if now_s < self.blocked_until_s:
            return UNTIED
        if self.phase is Phase.OPEN:
            self._enter(Phase.HALF_OPEN)
            self._probes = self._successes = 0
            self.blocked_until_s = 0.0
        self._probes += 1
        if self._probes >= PROBES_MAX:
            self.blocked_until_s = float("inf")  # until one of them ends
        return self._epoch

    def end(self, permit: int, verdict: Verdict, now_s: float, dice: Callable[[], float]) -> Phase | None:
        """The call has ended, once. The phase that this led to, None when it stays."""
        if verdict is _SUCCESS and self.phase is _CLOSED:  # nearly always
            self._tally.count(now_s)
            if permit == self._epoch:
                self._in_a_row = 0
            return None
        is_tied = permit == self._epoch
        if self.phase is Phase.HALF_OPEN and is_tied:
            self._probes -= 1
            self.blocked_until_s = 0.0
        if verdict is Verdict.NOTHING:
            return None
        self._tally.count(now_s)
        if verdict is Verdict.SUCCESS:
            self._is_total = False
            return self._succeeded() if is_tied else None
        self._tally.mark(now_s)
        self._is_total = self._tally.marked == self._tally.counted
        return self._failed(now_s, dice) if is_tied else None

    def _succeeded(self) -> Phase | None:
        if self.phase is Phase.HALF_OPEN:
            self._successes += 1
            if self._successes >= CLOSING_SUCCESSES:
                self._tally = Tally(self.settings.window_s)
                self._in_a_row = self._times_opened = 0
                return self._enter(Phase.CLOSED)
        return None

    def _failed(self, now_s: float, dice: Callable[[], float]) -> Phase | None:
        if self.phase is Phase.CLOSED:
            self._in_a_row += 1
            if not self._is_too_much():
                return None
        open_s = self.settings.open_s * 2**self._times_opened * (1 - JITTER + 2 * JITTER * dice())
        self._times_opened = min(self._times_opened + 1, 16)  # by then at the maximum, whatever the settings
        self.blocked_until_s = now_s + min(open_s, max(OPEN_S_MAX, self.settings.open_s))
        return self._enter(Phase.OPEN)

    def _is_too_much(self) -> bool:
        settings, tally = self.settings, self._tally
        if self._in_a_row >= settings.consecutive:
            return True
        return tally.counted >= settings.min_calls and tally.marked >= settings.failure_ratio * tally.counted

    def _enter(self, phase: Phase) -> Phase:
        self._epoch += 1
        self.phase = phase
        return phase
