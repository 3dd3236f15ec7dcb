"""How much new work to refuse while this process cannot keep up.

    the loop is late     more than 100 ms for a second, or callers at the port are about to wait so long: a growing
                         share of new requests is refused until it is in time
    memory runs out      above 85 % of the limit: all of them, until it is below 80 % again

What is under way goes on, and health is always answered. A share instead of all or nothing keeps the process busy with
what it can do; one that refused everybody would be idle a moment later, and then overrun again.
"""

from __future__ import annotations

LAG_S_MAX = 0.1
LAG_FOR_S = 1.0
MEMORY_SHARE_MAX = 0.85
MEMORY_SHARE_AGAIN = 0.80
FIRST_SHARE = 0.3
RISE_PER_S = 0.5
FALL_PER_S = 0.1
SHARE_MAX = 0.95  # a few go through, or nobody would see that it is over


class Shedding:
    """Fed with what a timer measures. Times are seconds of one monotonic clock."""

    __slots__ = ("_is_memory_short", "_late_since_s", "_looked_s", "_share", "lag_s", "share")

    def __init__(self) -> None:
        self.share = 0.0
        """Of new requests to be refused; 0 in good times. Read on every request."""
        self.lag_s = 0.0
        self._share = 0.0  # because of lag alone
        self._is_memory_short = False
        self._late_since_s: float | None = None
        self._looked_s: float | None = None

    def look(self, now_s: float, *, lag_s: float, memory_share: float, wait_s: float = 0.0) -> None:
        """The timer came `lag_s` late, who comes to the port now may have to wait `wait_s`; `memory_share` of the
        memory we may use is used, 0 where that is unknown."""
        elapsed_s = 0.0 if self._looked_s is None else max(0.0, now_s - self._looked_s)
        self._looked_s = now_s
        self.lag_s = max(lag_s, wait_s)
        if self.lag_s <= LAG_S_MAX:
            self._late_since_s = None
            self._share = max(0.0, self._share - FALL_PER_S * elapsed_s)
        else:
            if self._late_since_s is None:
                self._late_since_s = now_s - lag_s  # a wait is a forecast: by it nobody has been late yet
            if self._share:
                self._share = min(SHARE_MAX, self._share + RISE_PER_S * elapsed_s)
            elif now_s - self._late_since_s >= LAG_FOR_S:
                self._share = FIRST_SHARE
        bound = MEMORY_SHARE_AGAIN if self._is_memory_short else MEMORY_SHARE_MAX
        self._is_memory_short = memory_share > bound
        self.share = 1.0 if self._is_memory_short else self._share
