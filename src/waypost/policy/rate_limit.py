"""Limits per minute, counted in a ring of ten full buckets of six seconds and the current one.

Whatever is still counted is at most 66 s old, and nothing younger than 60 s is ever forgotten: so no minute, wherever
it begins, sees more than the limit, and a steady caller can use 60/66 of it. Ten buckets that include the current one
would forget too early and let twice the limit through.
"""

from __future__ import annotations

import msgspec

BUCKET_S = 6.0
BUCKETS = 11
_LATER_S = (BUCKETS - 1) * BUCKET_S  # after its end a bucket counts so long


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What became of one `take`, with the figures for `x-ratelimit-*`."""

    is_allowed: bool
    limit: int
    remaining: int
    reset_s: float  # allowed: until the whole limit is free again; refused: until this amount would be taken


class LimitsUnavailable(Exception):
    """The server that counts for all machines does not answer in time, or is known not to."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """So much of a window: its name, which tells nobody anything, and its limit per minute."""

    window: bytes
    per_minute: int
    amount: int


class Window:
    """One limit of one key: requests, or tokens, per minute. Times are seconds of one monotonic clock."""

    __slots__ = ("_at", "_bucket", "_counts", "_ends_s", "_total", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._counts = [0] * BUCKETS
        self._bucket = 0  # number of the current bucket since the clock's zero
        self._at = 0  # where it is counted
        self._ends_s = BUCKET_S  # when it ends: a comparison, where its number would be a division each time
        self._total = 0

    def take(self, now_s: float, amount: int = 1) -> Decision:
        """Count `amount` if it fits, else nothing. An amount above the limit never fits."""
        if now_s >= self._ends_s:
            self._advance(int(now_s / BUCKET_S))
        limit = self.per_minute
        total = self._total + amount
        if total > limit:
            return Decision(False, limit, max(0, limit - self._total), self._wait_s(now_s, amount))
        self._total = total
        self._counts[self._at] += amount
        return Decision(True, limit, limit - total, self._ends_s + _LATER_S - now_s)

    def correct(self, now_s: float, delta: int, *, taken_at_s: float) -> None:
        """Adjust what was taken at `taken_at_s` once the true amount is known; `delta` = true − taken.

        Less is given back to the bucket it came from: given back to a later one it would still count after the
        original is forgotten, and a minute could see more than the limit. More counts from now on.
        """
        if now_s >= self._ends_s:
            self._advance(int(now_s / BUCKET_S))
        if delta >= 0:
            self._counts[self._at] += delta
            self._total += delta
            return
        taken_in = int(taken_at_s / BUCKET_S)
        if taken_in > self._bucket - BUCKETS:
            given_back = min(-delta, self._counts[taken_in % BUCKETS])
            self._counts[taken_in % BUCKETS] -= given_back
            self._total -= given_back

    def is_quiet(self, now_s: float) -> bool:
        """Whether nothing is counted any more."""
        return not self._total or int(now_s / BUCKET_S) - self._bucket >= BUCKETS

    def _advance(self, bucket: int) -> None:
        """Forget the buckets that the clock has passed: each is emptied once, so this is O(1) per take over time."""
        counts = self._counts
        for passed in range(max(self._bucket + 1, bucket - BUCKETS + 1), bucket + 1):
            self._total -= counts[passed % BUCKETS]
            counts[passed % BUCKETS] = 0
        self._bucket = bucket
        self._at = bucket % BUCKETS
        self._ends_s = (bucket + 1) * BUCKET_S

    def _wait_s(self, now_s: float, amount: int) -> float:
        """Until enough of the oldest buckets have been forgotten for `amount` to fit."""
        excess = self._total + amount - self.per_minute
        for bucket in range(self._bucket - BUCKETS + 1, self._bucket + 1):
            excess -= self._counts[bucket % BUCKETS]
            if excess <= 0:
                return (bucket + BUCKETS) * BUCKET_S - now_s
        return BUCKETS * BUCKET_S
