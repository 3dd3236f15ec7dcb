"""Whether this process keeps up: how late its loop is, how long callers wait at its port, how much memory it uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.shedding import Shedding
from waypost.telemetry.events import SheddingBegun, SheddingEnded, emit
from waypost.telemetry.metrics import Counter

INTERVAL_S = 0.1
_MEMORY_EVERY = 10  # looks; a second
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


class Pressure:
    """One timer for the whole process. `admit` is the only thing that a request pays for."""

    def __init__(
        self,
        dice: Callable[[], float],
        shed: Counter,
        *,
        memory_bytes_max: int | None = None,
        resident_bytes: Callable[[], int] | None = None,
        kept_waiting_s: Callable[[], float] | None = None,
    ) -> None:
        self.shedding = Shedding()
        self.memory_bytes_max = _memory_limit() if memory_bytes_max is None else memory_bytes_max
        self.memory_bytes = 0
        self._dice = dice
        self._shed = shed
        self._resident_bytes = resident_bytes or read_resident_bytes
        self._kept_waiting_s = kept_waiting_s or read_kept_waiting_s
        self._waited_s = self._kept_waiting_s()
        self.callers: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many connections wait to be accepted, and how many have been since the start."""
        self._accepted = 0
        self._looks = 0
        self._was_shedding = False
        self._loop = asyncio.get_running_loop()
        self._looked_s = self._loop.time()
        self._timer = self._loop.call_at(self._looked_s + INTERVAL_S, self._look)

    def admit(self) -> None:
        """Raises Refusal (503) for as many new requests as have to be shed."""
        share = self.shedding.share
        if share and self._dice() < share:
            self._shed.add()
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=1 + int(3 * self._dice()))

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        # Time in which other processes had the processor makes nobody late by too many requests of ours.
        waited_s = self._kept_waiting_s()
        own_s = max(0.0, now_s - self._looked_s - (waited_s - self._waited_s))
        lag_s = max(0.0, own_s - INTERVAL_S)
        self._waited_s, self._looked_s = waited_s, now_s
        self._timer = self._loop.call_at(now_s + INTERVAL_S, self._look)
        if self._looks % _MEMORY_EVERY == 0:
            self.memory_bytes = self._resident_bytes()
        self._looks += 1
        # A queue at the port does not make the loop late. At this pace, so long until it is worked off:
        waiting, accepted = self.callers()
        wait_s = waiting * own_s / max(1, accepted - self._accepted)
        self._accepted = accepted
        memory_share = self.memory_bytes / self.memory_bytes_max if self.memory_bytes_max else 0.0
        self.shedding.look(now_s, lag_s=lag_s, wait_s=wait_s, memory_share=memory_share)
        is_shedding = self.shedding.share > 0
        if is_shedding and not self._was_shedding:
            emit(SheddingBegun(lag_s=round(self.shedding.lag_s, 2), memory_share=round(memory_share, 2)))
        elif self._was_shedding and not is_shedding:
            emit(SheddingEnded())
        self._was_shedding = is_shedding


def read_resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell (macOS)."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def read_kept_waiting_s() -> float:
    """How long this thread was ready to run and others ran instead, since its start: the second field of schedstat
    (Linux, Documentation/scheduler/sched-stats.rst); 0 where the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _memory_limit() -> int:
    """What the process may use: the smaller one of the control group's limit and the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            return min(machine, int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return machine
