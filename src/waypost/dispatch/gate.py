"""What all calls to one provider share, whichever model they are for: its places, and its budget of repetitions."""

from __future__ import annotations

import asyncio

from waypost.policy.bulkhead import Places, Waiter
from waypost.policy.catalogue import Bulkhead
from waypost.policy.retry_budget import RetryBudget
from waypost.telemetry.events import BulkheadFull, emit
from waypost.telemetry.metrics import Counter


class Gate:
    """Outlives the versions of the catalogue, so that calls under way are counted over all of them."""

    __slots__ = ("_is_full_told", "_loop", "_provider", "_refused", "_unrepeated", "budget", "places")

    def __init__(self, provider: str, bulkhead: Bulkhead, *, refused: Counter, unrepeated: Counter) -> None:
        self.places = Places(bulkhead)
        self.budget = RetryBudget()
        self._provider = provider
        self._refused = refused
        self._unrepeated = unrepeated
        self._is_full_told = False
        self._loop = asyncio.get_running_loop()

    def adopt(self, bulkhead: Bulkhead) -> None:
        for waiter in self.places.adopt(bulkhead):
            self._loop.call_soon(waiter)

    def release(self) -> None:
        """A call has ended; the next in the queue begins in the loop's next turn, not inside somebody else's end."""
        waiter = self.places.release()
        if waiter is not None:
            self._loop.call_soon(waiter)
        elif self._is_full_told and not self.places.waiting:
            self._is_full_told = False

    def wait(self, waiter: Waiter) -> bool:
        """Whether there was room to wait for a place."""
        if self.places.wait(waiter):
            return True
        self.refused()
        return False

    def may_repeat(self, now_s: float) -> bool:
        """Whether the budget allows one more repetition."""
        if self.budget.has_room(now_s):
            return True
        self._unrepeated.add(self._provider)
        return False

    def refused(self) -> None:
        """Somebody was not given a place in time. Logged once until nobody waits any more."""
        self._refused.add(self._provider)
        if not self._is_full_told:
            self._is_full_told = True
            emit(BulkheadFull(provider=self._provider, in_flight=self.places.in_flight))
