"""When to refuse new work, and how much of it, while this process cannot keep up.

    the loop is late     more than 100 ms for a second, or callers at the port are about to wait so long: from then on
                         each turn of the loop has 4 ms for new requests, or 50 by the clock, and those that it
                         comes to later are refused
    memory runs out      above 85 % of the limit: all of them, until it is below 80 % again

What is under way goes on, and health is always answered. The time of a turn, and not a share of the requests, says how
many are too many: so the process is never idle while it refuses, whatever a call and a refusal cost, and who is refused
is who came last. A burst that a process in time works off is no overload, however long the turn.
"""

from __future__ import annotations

LAG_S_MAX = 0.1
LAG_FOR_S = 1.0
# A call costs its answer too, so a turn takes about twice as long, and who is refused waits for one and a part of one.
TURN_RAN_S_MAX = 0.004
TURN_S_MAX = 0.05  # where it does not run but waits for a disk, or for the processor
QUIET_S = 1.0  # in time, and idle at times, for so long: it is over
MEMORY_SHARE_MAX = 0.85
MEMORY_SHARE_AGAIN = 0.80


class Shedding:
    """Fed with what a timer measures. Times are seconds of one monotonic clock."""

    __slots__ = ("_is_late", "_is_memory_short", "_late_since_s", "_quiet_since_s", "is_active", "lag_s")

    def __init__(self) -> None:
        self.is_active = False
        """Whether new requests may have to be refused. Read on every one."""
        self.lag_s = 0.0
        self._is_late = False
        self._is_memory_short = False
        self._late_since_s: float | None = None
        self._quiet_since_s = 0.0

    def refuses(self, turn_s: float, ran_s: float) -> bool:
        """Whether, while it is active, a new request is refused that comes so long after the first one of the same turn
        of the loop, which has run for `ran_s` since then."""
        return self._is_memory_short or ran_s > TURN_RAN_S_MAX or turn_s > TURN_S_MAX

    def look(
        self, now_s: float, *, lag_s: float, memory_share: float, wait_s: float = 0.0, is_busy: bool = False
    ) -> None:
        """The timer came `lag_s` late, who comes to the port now may have to wait `wait_s`; `memory_share` of the
        memory we may use is used, 0 where that is unknown. `is_busy`: since the last look the process was hardly ever
        idle, which tells, while it refuses, whether it has to."""
        self.lag_s = max(lag_s, wait_s)
        if self.lag_s <= LAG_S_MAX:
            self._late_since_s = None
        elif self._late_since_s is None:
            self._late_since_s = now_s - lag_s  # a wait is a forecast: by it nobody has been late yet
        if is_busy or self._late_since_s is not None:
            self._quiet_since_s = now_s
        if self._late_since_s is not None and now_s - self._late_since_s >= LAG_FOR_S:
            self._is_late = True
        elif now_s - self._quiet_since_s >= QUIET_S:
            self._is_late = False
        bound = MEMORY_SHARE_AGAIN if self._is_memory_short else MEMORY_SHARE_MAX
        self._is_memory_short = memory_share > bound
        self.is_active = self._is_late or self._is_memory_short
