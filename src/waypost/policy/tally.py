"""How often something happened lately, and how often with a mark: two counts over a sliding window of ten buckets.

What is counted is at most `window_s` old and at least nine tenths of it are covered. Counting costs a fraction of a
microsecond and no memory, so that every call of a provider can be counted.
"""

from __future__ import annotations

BUCKETS = 10


class Tally:
    """Times are seconds of one monotonic clock. `counted` and `marked` are up to date after any of the methods."""

    __slots__ = ("_bucket", "_counts", "_ends_s", "_marks", "_width_s", "counted", "marked")

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / BUCKETS
        self._counts = [0] * BUCKETS
        self._marks = [0] * BUCKETS
        self._bucket = 0  # number of the current bucket since the clock's zero
        self._ends_s = self._width_s  # when it ends: a comparison, where its number would be a division each time
        self.counted = 0
        self.marked = 0

    def count(self, now_s: float) -> None:
        if now_s >= self._ends_s:
            self._forget(int(now_s / self._width_s))
        self._counts[self._bucket % BUCKETS] += 1
        self.counted += 1

    def mark(self, now_s: float) -> None:
        if now_s >= self._ends_s:
            self._forget(int(now_s / self._width_s))
        self._marks[self._bucket % BUCKETS] += 1
        self.marked += 1

    def look(self, now_s: float) -> None:
        """Forget what is too old."""
        if now_s >= self._ends_s:
            self._forget(int(now_s / self._width_s))

    def _forget(self, bucket: int) -> None:
        for passed in range(max(self._bucket + 1, bucket - BUCKETS + 1), bucket + 1):
            at = passed % BUCKETS
            self.counted -= self._counts[at]
            self.marked -= self._marks[at]
            self._counts[at] = self._marks[at] = 0
        self._bucket = bucket
        self._ends_s = (bucket + 1) * self._width_s
