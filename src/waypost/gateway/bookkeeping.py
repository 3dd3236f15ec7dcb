"""The upkeep of the books, by every gateway: what is stranded comes back, the general ledger is sealed, and rules are
looked at.

It is off everybody's way: with the database away it waits, and what was due is done later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waypost.gateway.ports import LedgerUnavailable, Upkeep
from waypost.gateway.settler import Settler
from waypost.kit.clock import Clock
from waypost.telemetry.events import BooksBroken, LeasesMoved, emit, report_bug

TICK_S = 1.0  # between seals; a node that started again gets its leases' rests back within it
SWEEP_S = 5.0
CHECK_S = 60.0


class Bookkeeper:
    """`run` must be running. `recovered` are the leases that the journal of an earlier run names: when all that it
    says of them is booked, their rests come back. None: parts of it could not be read, so they wait their day."""

    def __init__(
        self,
        upkeep: Upkeep,
        settler: Settler,
        clock: Clock,
        *,
        node_id: bytes,
        node_epoch: int,
        recovered: frozenset[bytes] | None,
        open_too_long: Callable[[], int] = lambda: 0,
    ) -> None:
        """`open_too_long` counts attempts that should have been closed long ago."""
        self._upkeep = upkeep
        self._settler = settler
        self._clock = clock
        self._node_id = node_id
        self._node_epoch = node_epoch
        self._unfinished = recovered
        self._open_too_long = open_too_long
        self._swept_s = self._checked_s = clock.monotonic_s()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.tick()
            except LedgerUnavailable:
                continue
            except Exception as error:  # noqa: BLE001  the edge of a task: requests go on without it
                report_bug(error)

    async def tick(self) -> None:
        """What is due now. Raises LedgerUnavailable."""
        now_s = self._clock.monotonic_s()
        if self._unfinished is not None and all(self._settler.is_booked(lease_id) for lease_id in self._unfinished):
            await self._upkeep.finish_recovery(node_id=self._node_id, node_epoch=self._node_epoch)
            self._unfinished = None
        await self._upkeep.seal()
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            moved = await self._upkeep.sweep()
            if moved:
                emit(LeasesMoved(leases=moved))
        if now_s - self._checked_s >= CHECK_S:
            self._checked_s = now_s
            broken, overdue = len(await self._upkeep.check()), self._open_too_long()
            if broken or overdue:
                emit(BooksBroken(violations=broken, overdue=overdue))
