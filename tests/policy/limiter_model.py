"""What a limit per minute must do, worked out anew from a log of everything that was taken."""

from __future__ import annotations

import math

BUCKET_S = 6


class Model:
    """Ten full buckets of six seconds and the current one count."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.log: list[list[float]] = []  # when, and how much

    def counted(self, now_s: float) -> float:
        oldest = math.floor(now_s / BUCKET_S) - 10
        return sum(amount for at, amount in self.log if math.floor(at / BUCKET_S) >= oldest)

    def take(self, now_s: float, amount: int) -> bool:
        if self.counted(now_s) + amount > self.limit:
            return False
        self.log.append([now_s, amount])
        return True

    def correct(self, now_s: float, delta: int, taken_at_s: float) -> None:
        """Less is given back where it was taken, as far as it is there; more counts from now on."""
        if delta >= 0:
            self.log.append([now_s, delta])
            return
        left = -delta
        for entry in self.log:
            if math.floor(entry[0] / BUCKET_S) == math.floor(taken_at_s / BUCKET_S):
                given_back = min(left, entry[1])
                entry[1] -= given_back
                left -= int(given_back)

    def remaining(self, now_s: float) -> float:
        return max(0, self.limit - self.counted(now_s))
