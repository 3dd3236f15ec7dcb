"""What a circuit breaker must do, worked out anew from everything that ever happened.

It keeps a log and derives the phase from it by the rules as they are written in the documentation; it shares neither
code nor bookkeeping with the product's.
"""

from __future__ import annotations

import math
from typing import Any

OPEN, HALF_OPEN, CLOSED = "open", "half-open", "closed"


class Model:
    """`begin` and `end` as the product's; permits are numbers of its own."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.calls: dict[int, int | None] = {}  # permit → the phase that it belongs to, None for none
        self.results: list[tuple[float, bool]] = []  # since it was last closed: when, and whether it failed
        self.streak = 0
        self.phases = [CLOSED]
        self.reopens_s = 0.0
        self.times_opened = 0
        self.good_probes = 0

    @property
    def phase(self) -> str:
        return self.phases[-1]

    def probes(self) -> int:
        return sum(number == len(self.phases) for number in self.calls.values()) if self.phase == HALF_OPEN else 0

    def lets_through(self, now_s: float) -> bool:
        if self.phase == OPEN:
            return now_s >= self.reopens_s
        return self.phase == CLOSED or self.probes() < 3

    def begin(self, permit: int, now_s: float) -> None:
        if not self.lets_through(now_s):
            self.calls[permit] = None
            return
        if self.phase == OPEN:
            self.phases.append(HALF_OPEN)
            self.good_probes = 0
        self.calls[permit] = len(self.phases)

    def end(self, permit: int, verdict: str, now_s: float, dice: float) -> None:
        is_tied = self.calls.pop(permit) == len(self.phases)
        if verdict == "nothing":
            return
        is_failure = verdict == "failure"
        self.results.append((now_s, is_failure))
        if not is_tied:
            return
        if self.phase == CLOSED:
            self.streak = self.streak + 1 if is_failure else 0
            if is_failure and (self.streak >= self.settings.consecutive or self._ratio_is_too_high(now_s)):
                self._open(now_s, dice)
        elif self.phase == HALF_OPEN:
            if is_failure:
                self._open(now_s, dice)
                return
            self.good_probes += 1
            if self.good_probes == 2:
                self.phases.append(CLOSED)
                self.results = []
                self.streak = self.times_opened = 0

    def is_total(self, now_s: float) -> bool:
        """Not closed, and at the last result everything in the window had failed."""
        if self.phase == CLOSED:
            return False
        return all(failed for _, failed in self._window(self.results[-1][0]))

    def _window(self, now_s: float) -> list[tuple[float, bool]]:
        tenth = self.settings.window_s / 10
        return [each for each in self.results if math.floor(each[0] / tenth) > math.floor(now_s / tenth) - 10]

    def _ratio_is_too_high(self, now_s: float) -> bool:
        window = self._window(now_s)
        failures = sum(failed for _, failed in window)
        is_enough = len(window) >= self.settings.min_calls
        return bool(is_enough and failures / len(window) >= self.settings.failure_ratio)

    def _open(self, now_s: float, dice: float) -> None:
        seconds = self.settings.open_s * 2.0**self.times_opened * (0.8 + 0.4 * dice)
        self.reopens_s = now_s + min(seconds, 120.0)
        self.times_opened += 1
        self.phases.append(OPEN)
