"""Places for executions at work, shared so that nobody's slow ones hold up everybody else's.

An organisation may begin one more while it has fewer at work than places are free: alone it gets half of all places,
and whoever comes later finds room at once, however slow the others are. A model may have three times as many as are
free, so three quarters at most: a model that hangs leaves room for the others.

What finds no place is to come again: those of one owner one shortly after the other, in the order in which they came,
and not all of them at every moment.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

AGAIN_S: Final = 0.25  # until the first that found no place comes again
APART_S: Final = 0.005  # and each further one of its owner after the one before
AGAIN_S_MAX: Final = 30.0
MODEL_PER_FREE: Final = 3


class Turns:
    """When those come again who found no place: one shortly after the other."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def again_s(self, now_s: float) -> float:
        """Seconds from now."""
        self._next_s = max(now_s + AGAIN_S, min(self._next_s + APART_S, now_s + AGAIN_S_MAX))
        return self._next_s - now_s


class Shares:
    """One process's. `now_s` is a monotonic clock's."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._at_work: Counter[bytes | str] = Counter()
        self._turns: dict[bytes | str, Turns] = {}

    def begin(self, org_id: bytes, model: str, *, now_s: float) -> float | None:
        """None: it has a place, to be given back by `end`. Else the seconds after which it is to ask again."""
        if self._at_work[org_id] >= self._free:
            return self._turns.setdefault(org_id, Turns()).again_s(now_s)
        if self._at_work[model] >= MODEL_PER_FREE * self._free:
            return self._turns.setdefault(model, Turns()).again_s(now_s)
        self._free -= 1
        self._at_work[org_id] += 1
        self._at_work[model] += 1
        return None

    def end(self, org_id: bytes, model: str) -> None:
        self._free += 1
        for owner in (org_id, model):
            self._at_work[owner] -= 1
            if not self._at_work[owner]:
                del self._at_work[owner]
                self._turns.pop(owner, None)
