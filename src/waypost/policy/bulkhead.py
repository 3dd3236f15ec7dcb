"""A bulkhead: so many calls of one provider at a time, and so many more that wait for a place, in order.

A provider that swallows calls without answering fills its own places and nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from waypost.policy.catalogue import Bulkhead

Waiter = Callable[[], None]
"""Called when a place has been taken for whoever waited."""


class Places:
    """Those of one provider."""

    __slots__ = ("_waiting", "in_flight", "settings")

    def __init__(self, settings: Bulkhead) -> None:
        self.settings = settings
        self.in_flight = 0
        self._waiting: deque[Waiter] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self) -> bool:
        """Whether there was a place; it is then to be given back by `release`."""
        if self.in_flight >= self.settings.in_flight or self._waiting:
            return False
        self.in_flight += 1
        return True

    def wait(self, waiter: Waiter) -> bool:
        """Whether there was room to wait."""
        if len(self._waiting) >= self.settings.queue:
            return False
        self._waiting.append(waiter)
        return True

    def leave(self, waiter: Waiter) -> bool:
        """Wait no longer. False when a place has been taken for the waiter already: it is then to be released."""
        if waiter not in self._waiting:
            return False
        self._waiting.remove(waiter)
        return True

    def release(self) -> Waiter | None:
        """A call has ended: its place is free, or now that of the waiter returned."""
        self.in_flight -= 1
        return self._next() if self._waiting else None

    def adopt(self, settings: Bulkhead) -> list[Waiter]:
        """New settings; those who have waited and now have a place. Nobody loses one that he has."""
        self.settings = settings
        served = []
        while (waiter := self._next()) is not None:
            served.append(waiter)
        return served

    def _next(self) -> Waiter | None:
        if not self._waiting or self.in_flight >= self.settings.in_flight:
            return None
        self.in_flight += 1
        return self._waiting.popleft()
