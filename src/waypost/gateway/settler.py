"""Books closed attempts in the database: small idempotent batches, off the hot path, in the order they ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice

from waypost.gateway.journal import Journal
from waypost.gateway.ports import Ledger, LedgerUnavailable
from waypost.kit.clock import Clock
from waypost.ledger.record import ClosedAttempt

BATCH_MAX = 500  # rows in one transaction: it stays under some 20 ms, so locks on leases are short
# How long the first of a batch waits for others, while there are fewer. In batches of 80 a row costs 28 µs of CPU in
# both processes together, in batches of 500 it costs 13 (`bench.settling`).
GATHER_S = 0.200
RETRY_S_MIN = 0.1
RETRY_S_MAX = 5.0


class Settler:
    """`add` and go on; `run` must be running. The queue is bounded by the journal: what is in the one is in the other,
    and a journal that has reached its size refuses new attempts."""

    def __init__(
        self, ledger: Ledger, journal: Journal, clock: Clock, *, on_refused: Callable[[ClosedAttempt, Exception], None]
    ) -> None:
        """`on_refused` is an alarm: the database took everything but this attempt, for that error. It stays in the
        journal, and its lease stays open, for the next start to try again."""
        self._ledger = ledger
        self._journal = journal
        self._clock = clock
        self._on_refused = on_refused
        self._queue: deque[tuple[ClosedAttempt, float]] = deque()
        self._unbooked: Counter[bytes] = Counter()  # attempts per lease
        self._batch_max = BATCH_MAX
        self._has_work = asyncio.Event()
        self._is_full = asyncio.Event()  # a whole batch waits, or somebody waits for the end
        self._is_draining = False
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.is_ledger_reachable = True
        self.booked = 0
        self.refused = 0

    def add(self, attempt: ClosedAttempt) -> None:
        """An attempt whose CLOSE is in the journal. In the same step as `Wallet.settle`, and before it."""
        self._queue.append((attempt, self._clock.monotonic_s()))
        self._unbooked[attempt.open.lease_id] += 1
        waiting = len(self._queue)
        if waiting == 1:
            self._has_work.set()
            self._is_empty.clear()
        elif waiting == BATCH_MAX:
            self._is_full.set()

    def is_booked(self, lease_id: bytes) -> bool:
        """Whether the database knows of everything that was charged to the lease."""
        return lease_id not in self._unbooked

    @property
    def backlog(self) -> int:
        return len(self._queue)

    @property
    def oldest_age_s(self) -> float:
        return self._clock.monotonic_s() - self._queue[0][1] if self._queue else 0.0

    async def run(self) -> None:
        """Book what is added, until cancelled. A cancelled batch may have been booked: it stays queued, for `drain`."""
        pause_s = RETRY_S_MIN
        while True:
            await self._has_work.wait()
            await self._gather()
            while self._queue:
                try:
                    await self.book()
                    is_booked = True
                except LedgerUnavailable:
                    is_booked = self.is_ledger_reachable = False
                if is_booked:
                    pause_s = RETRY_S_MIN
                    await asyncio.sleep(0)  # a ledger that answers without waiting must not keep the loop
                    if len(self._queue) < self._batch_max:
                        break  # what came meanwhile waits for others in its turn
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._is_full.wait()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything added is booked, which `run` does, from now on at once; False when the time is over."""
        self._is_draining = True
        self._is_full.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True

    async def book(self) -> None:
        """One batch of what `run` does. Raises LedgerUnavailable."""
        batch = [attempt for attempt, _ in islice(self._queue, self._batch_max)]
        try:
            await self._ledger.settle_batch(batch)
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a single row that the database refuses must not hold up everybody's money
            if len(batch) > 1:
                self._batch_max = len(batch) // 2
                return
            self.refused += 1
            self._leave_queue(1)
            self._on_refused(batch[0], error)
            return
        self.is_ledger_reachable = True
        self.booked += len(batch)
        self._batch_max = min(2 * self._batch_max, BATCH_MAX)
        self._journal.acknowledge(batch)
        for attempt in batch:
            lease_id = attempt.open.lease_id
            self._unbooked[lease_id] -= 1
            if not self._unbooked[lease_id]:
                del self._unbooked[lease_id]
        self._leave_queue(len(batch))

    def _leave_queue(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()
        if len(self._queue) < BATCH_MAX and not self._is_draining:
            self._is_full.clear()
        if not self._queue:
            self._has_work.clear()
            self._is_empty.set()
