"""Journals that nobody has: of a gateway that died and does not come back, or of one that is not run any more because
there are fewer workers now. Whoever sees it first books what is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from waypost.app.secrets import SecretsError, open_node_id
from waypost.gateway.journal import Journal
from waypost.gateway.ports import KeptLedger, LedgerUnavailable
from waypost.gateway.recovery import REPLAYED_S, Recovery, recover
from waypost.gateway.segment import segment_paths
from waypost.gateway.settler import Settler
from waypost.kit.clock import Clock
from waypost.ledger.record import ClosedAttempt, Outcome
from waypost.telemetry.events import (
    JournalNotTakenOver,
    JournalQuarantined,
    JournalRecovered,
    SettlementRefused,
    emit,
    report_bug,
)

LOOK_S = 15.0  # between looks: a gateway that crashed is back long before, and recovers its journal itself
BOOK_S = 60.0  # for one journal; what is not booked by then stays for the next look
_SEGMENT_BYTES = 1 << 20  # nothing but acknowledgements is written


class LeftBehind:
    """Looks after the directories beside that of this process. The journal's lock says whether somebody has it."""

    def __init__(self, own: Path, ledger: KeptLedger, clock: Clock, *, keeps_booked: bool = False) -> None:
        """`keeps_booked`: for REPLAYED_S, since a standby may be promoted that has not received the bookings."""
        self._own = own
        self._keeps_booked = keeps_booked
        self._booked: dict[Path, int] = {}  # kept directories of which all is booked, by when they were written to
        self._ledger = ledger
        self._clock = clock
        self._told: set[Path] = set()  # directories that could not be taken over, each told once

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Book what stands in every journal that nobody has. One that cannot be taken over is told and left."""
        for directory in sorted(self._own.parent.iterdir()):
            if directory == self._own or not segment_paths(directory):
                continue
            try:
                await self._take(directory)
                self._told.discard(directory)
            except Exception as error:  # noqa: BLE001  the edge of a directory: ours and the next are as good as before
                if directory not in self._told:
                    self._told.add(directory)
                    _tell(directory, error)

    async def _take(self, directory: Path) -> None:
        try:
            written_ns = max((path.stat().st_mtime_ns for path in segment_paths(directory)), default=0)
            is_recent = self._keeps_booked and self._clock.unix_ns() - written_ns < REPLAYED_S * 1_000_000_000
            if is_recent and self._booked.get(directory) == written_ns and not await self._has_to_present(directory):
                return
            journal = Journal.open_dir(directory, segment_bytes=_SEGMENT_BYTES, emergency_bytes=_SEGMENT_BYTES)
        except (OSError, LedgerUnavailable):  # somebody has it, or there is no room for us to work: another time
            return
        self._booked.pop(directory, None)
        settler = Settler(self._ledger, journal, self._clock, on_refused=report_refused)
        booking = asyncio.ensure_future(settler.run())
        try:
            now_ms = self._clock.unix_ns() // 1_000_000
            try:
                is_whole = await self._has_to_present(directory)
            except LedgerUnavailable:
                return
            # In a thread: a full journal takes a second to read, and requests are being answered meanwhile.
            # What is booked again after a promotion goes: nobody will be asked for it a second time.
            lets_go = is_whole or not is_recent
            recovery = await asyncio.to_thread(partial(recover, journal, now_ms, is_whole=is_whole, lets_go=lets_go))
            leases = book_recovered(recovery, settler, process=directory.name)
            if await settler.drain(BOOK_S) and leases is not None and all(map(settler.is_booked, leases)):
                await self._finish(directory)
                if not lets_go:
                    self._booked[directory] = written_ns
        finally:
            booking.cancel()
            await asyncio.gather(booking, return_exceptions=True)
            journal.shut()

    async def _has_to_present(self, directory: Path) -> bool:
        try:
            return await self._ledger.has_to_present(open_node_id(directory))
        except (LookupError, SecretsError):  # what the database does not know of a node it may have lost
            return True

    async def _finish(self, directory: Path) -> None:
        """In the node's place, which the lock on its journal gives us: what is left of its leases comes back."""
        node_id = open_node_id(directory)
        with contextlib.suppress(LedgerUnavailable):  # then at the node's next start, or after a day
            epoch = await self._ledger.register_node(node_id)
            await self._ledger.finish_recovery(node_id=node_id, node_epoch=epoch)


def _tell(directory: Path, error: Exception) -> None:
    if isinstance(error, (OSError, SecretsError)):
        emit(JournalNotTakenOver(process=directory.name, error_type=type(error).__name__))
    else:
        report_bug(error)


def book_recovered(recovery: Recovery, settler: Settler, *, process: str) -> frozenset[bytes] | None:
    """Hand what a journal had to the settler, and tell of it. The leases of that; None when a part of the journal
    cannot be read."""
    for attempt in recovery.attempts:
        settler.add(attempt)
    for _ in recovery.damages:
        emit(JournalQuarantined(process=process))
    if recovery.attempts:
        crashed = sum(attempt.close.outcome is Outcome.CRASHED for attempt in recovery.attempts)
        emit(JournalRecovered(recovered=len(recovery.attempts), crashed=crashed))
    return None if recovery.damages else frozenset(attempt.open.lease_id for attempt in recovery.attempts)


def report_refused(attempt: ClosedAttempt, error: Exception) -> None:
    """The alarm of a settler."""
    emit(SettlementRefused(execution_id=attempt.open.execution_id.hex(), error_type=type(error).__name__))
