"""Time, handed to those who need it: wall time for records, monotonic time for durations."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What an edge holds; pure code receives the numbers."""

    def unix_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z. May step in either direction."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never decreases and counts the time a machine was suspended."""


class SystemClock:
    """The machine's clocks. CLOCK_BOOTTIME where it exists, since CLOCK_MONOTONIC stops during suspend."""

    __slots__ = ()
    _BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def unix_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.clock_gettime(self._BOOT)
