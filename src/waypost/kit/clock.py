"""Time, handed to those who need it: wall time for records, monotonic time for durations."""

from __future__ import annotations

import time
from functools import partial
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
    unix_ns = staticmethod(time.time_ns)
    monotonic_s = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
