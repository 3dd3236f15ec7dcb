"""A lane: the deliveries to one endpoint, or to one host of per-request URLs. It has its own places and its own
breaker, so that a receiver that is slow or down holds up nobody but itself.

A lane begins with one place and gets one more with each success, up to four. What fails rests: after five failures in
a row for a moment, then longer and longer, so that ten in a row are minutes and not a burst; after a timeout at once,
since timeouts hold places longest. When the rest is over one attempt probes, and a success opens the lane again.
"""

from __future__ import annotations

from waypost.webhooks.schedule import Attempt

PLACES_MAX = 4
# Rests by failures in a row, from the fifth on. Together more than five minutes before the tenth.
REST_AFTER = 5
REST_S = (0.5, 1.0, 5.0, 30.0, 300.0)
TIMEOUT_REST_S = 30.0  # doubles with each timeout in a row
REST_S_MAX = 300.0
PROVEN_S = 1.0  # an answer within it shows a receiver to be quick
_TIMEOUT = "timeout"
JITTER = 0.2


class Lane:
    """For one process. `now` is monotonic seconds."""

    __slots__ = ("_timeouts", "failures", "in_flight", "is_proven", "places", "rests_until", "touched")

    def __init__(self, failures: int = 0) -> None:
        """`failures`: in a row, before this process knew of it."""
        self.failures = failures
        self.in_flight = 0
        self.places = 1
        self.is_proven = False
        self.rests_until = 0.0
        self.touched = 0.0
        self._timeouts = 0

    def free(self, now: float) -> int:
        """How many attempts may begin."""
        return 0 if now < self.rests_until else max(0, self.places - self.in_flight)

    def begin(self, now: float) -> None:
        self.in_flight += 1
        self.touched = now

    def end(self, attempt: Attempt, *, now: float, retry_after_s: float, chance: float) -> None:
        """`chance` from 0 to 1 is the jitter's."""
        assert self.in_flight > 0
        self.in_flight -= 1
        self.touched = now
        if attempt.is_success:
            self.failures = self._timeouts = 0
            self.places = min(PLACES_MAX, self.places + 1)
            self.is_proven = attempt.took_s <= PROVEN_S
            self.rests_until = 0.0
            return
        self.failures += 1
        self.is_proven = False
        self._timeouts = self._timeouts + 1 if attempt.failure == _TIMEOUT else 0
        rest_s = max(self._rest_s() * (1 + JITTER * (2 * chance - 1)), min(retry_after_s, REST_S_MAX))
        self.places = 1 if rest_s > 0 else max(1, self.places - 1)
        self.rests_until = max(self.rests_until, now + rest_s)

    def open(self) -> None:
        """Its receiver is said to be well: rests and failures are forgotten."""
        self.failures = self._timeouts = 0
        self.rests_until = 0.0

    def let_go(self, now: float) -> None:
        """There was no attempt after all."""
        assert self.in_flight > 0
        self.in_flight -= 1
        self.touched = now

    def is_idle(self, now: float, after_s: float) -> bool:
        """Whether it can be forgotten."""
        return not self.in_flight and now >= self.rests_until and now - self.touched > after_s

    def _rest_s(self) -> float:
        if self._timeouts:
            return min(REST_S_MAX, TIMEOUT_REST_S * (1 << min(self._timeouts - 1, 10)))
        if self.failures < REST_AFTER:
            return 0.0
        return REST_S[min(self.failures - REST_AFTER, len(REST_S) - 1)]
