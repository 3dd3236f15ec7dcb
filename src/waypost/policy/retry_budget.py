"""How often one provider may be asked again for the same request: a tenth of its requests, and three a second.

Without it every caller's second and third attempt would fall on a provider that is down already. The first attempt of
a request at a provider is never a repetition, whoever failed before it.
"""

from __future__ import annotations

from waypost.policy.tally import Tally

TTL_S = 10.0
RATIO = 0.1
PER_S = 3.0


class RetryBudget:
    """Of one provider, over the last ten seconds."""

    __slots__ = ("_tally",)

    def __init__(self) -> None:
        self._tally = Tally(TTL_S)

    def count(self, now_s: float) -> None:
        """A request came to this provider for the first time."""
        self._tally.count(now_s)

    def has_room(self, now_s: float) -> bool:
        tally = self._tally
        tally.look(now_s)
        return tally.marked + 1 <= RATIO * tally.counted + PER_S * TTL_S

    def spend(self, now_s: float) -> None:
        """A request comes to it again."""
        self._tally.mark(now_s)
