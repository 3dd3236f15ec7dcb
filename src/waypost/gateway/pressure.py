"""Whether this process keeps up: how late its loop is, how long callers wait at its port, how much memory it uses."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.shedding import Shedding
from waypost.telemetry.events import SheddingBegun, SheddingEnded, emit
from waypost.telemetry.metrics import Counter

INTERVAL_S = 0.1
_MEMORY_EVERY = 10  # looks; a second
RETRY_S_MAX = 3  # who is refused comes again after one to so many
_BUSY_SHARE = 0.8  # of the time in which it was let run or slept
_RAN_SHARE_MIN = 0.02  # of all time: one that hardly has work is not late by too much of it
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


class Pressure:
    """One timer for the whole process. `shed` is the only thing that a request pays for, while it sheds."""

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
        self._ran_s = time.thread_time()
        self.callers: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many connections wait to be accepted, and how many have been since the start."""
        self.on_shedding: Callable[[bool], None] = lambda _: None
        """Told when it begins and ends."""
        self._accepted = 0
        self._looks = 0
        self._was_shedding = False
        self._is_turn_known = False  # of this turn of the loop, when its first request asked:
        self._turn_s = self._turn_ran_s = 0.0  # the time, and how long we had run by then
        self._has_admitted = False  # anybody in this turn
        self._admitted = self._refused = 0  # while shedding, since the last look
        self.share = 0.0
        """Of the new requests since the last look: so many were refused."""
        self._loop = asyncio.get_running_loop()
        self._looked_s = self._loop.time()
        self._timer = self._loop.call_at(self._looked_s + INTERVAL_S, self._look)

    def admit(self) -> None:
        """Raises Refusal (503) when a new request has to be shed."""
        if self.shedding.is_active:
            retry_after_s = self.shed()
            if retry_after_s:
                raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=retry_after_s)

    def shed(self) -> int:
        """While `shedding` is active: after how many seconds the caller of a new request, which is refused, may come
        again; 0 when it is admitted."""
        if self.is_full():
            return self.refused()
        self._admitted += 1
        self._has_admitted = True
        return 0

    def is_full(self) -> bool:
        """While `shedding` is active: whether a request that comes now is refused. The first one of a turn never is
        unless memory runs out: or nobody would be admitted while what is under way takes all of the time."""
        now_s, ran_s = time.monotonic(), time.thread_time()
        if not self._is_turn_known:
            self._is_turn_known = True
            self._turn_s, self._turn_ran_s = now_s, ran_s
            self._loop.call_soon(self._end_turn)
        if not self._has_admitted:
            return self.shedding.refuses(0.0, 0.0)
        return self.shedding.refuses(now_s - self._turn_s, ran_s - self._turn_ran_s)

    def refused(self) -> int:
        """A request was refused for it; after how many seconds its caller may come again."""
        self._refused += 1
        self._shed.add()
        return 1 + int(RETRY_S_MAX * self._dice())

    def _end_turn(self) -> None:
        self._is_turn_known = self._has_admitted = False

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        own_s, is_busy = self._own_time(now_s)
        lag_s = max(0.0, own_s - INTERVAL_S)
        self._timer = self._loop.call_at(now_s + INTERVAL_S, self._look)
        if self._looks % _MEMORY_EVERY == 0:
            self.memory_bytes = self._resident_bytes()
        self._looks += 1
        # A queue at the port does not make the loop late. At this pace, so long until it is worked off:
        waiting, accepted = self.callers()
        wait_s = waiting * own_s / max(1, accepted - self._accepted)
        self._accepted = accepted
        memory_share = self.memory_bytes / self.memory_bytes_max if self.memory_bytes_max else 0.0
        self.shedding.look(now_s, lag_s=lag_s, wait_s=wait_s, memory_share=memory_share, is_busy=is_busy)
        self.share = self._refused / max(1, self._admitted + self._refused)
        self._admitted = self._refused = 0
        is_shedding = self.shedding.is_active
        if is_shedding is not self._was_shedding:
            self.on_shedding(is_shedding)
        if is_shedding and not self._was_shedding:
            emit(SheddingBegun(lag_s=round(self.shedding.lag_s, 2), memory_share=round(memory_share, 2)))
        elif self._was_shedding and not is_shedding:
            emit(SheddingEnded())
        self._was_shedding = is_shedding

    def _own_time(self, now_s: float) -> tuple[float, bool]:
        """How much of the time since the last look was ours, and whether we hardly slept in it. Time in which other
        processes had the processor makes nobody late by too many requests of ours; unless this one did not sleep
        either, for then its share of the processor, which a quota may bound, is too small for them."""
        waited_s, ran_s = self._kept_waiting_s(), time.thread_time()
        passed_s = now_s - self._looked_s
        own_s = max(0.0, passed_s - (waited_s - self._waited_s))
        is_busy = ran_s - self._ran_s >= max(_BUSY_SHARE * own_s, _RAN_SHARE_MIN * passed_s)
        self._waited_s, self._ran_s, self._looked_s = waited_s, ran_s, now_s
        return (passed_s if is_busy else own_s), is_busy


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
