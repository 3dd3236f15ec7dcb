"""What this process tells a database server that was promoted and may have lost commits: what it has in leases, then
the attempts that it had booked, again. Only when every node has, money leaves wallets again.

    noticed → leases presented → attempts of the last minutes booked again → leases given back that it no longer has
            → done here → grants resume, when all are done or those that are not count as lost

Leases at hand are spent on meanwhile: the most they may be charged was taken from the wallet before. Booking is
idempotent, so an attempt that was not lost changes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence

from waypost.gateway.hold import Account, NodeIdentity
from waypost.gateway.journal import Journal
from waypost.gateway.ports import LedgerUnavailable, Presentable
from waypost.gateway.recovery import REPLAYED_S, closed_since
from waypost.gateway.settler import BATCH_MAX, Settler
from waypost.gateway.wallet import Wallet
from waypost.kit.clock import Clock
from waypost.kit.money import NANOS_MAX
from waypost.ledger.lease import Lease
from waypost.ledger.record import ClosedAttempt, LedgerPromoted, NodeSuperseded, ServerTerm
from waypost.telemetry.events import GrantsResumed, LeasesPresented, ServerPromoted, emit, report_bug

# Between signs of life while it books again, which may take longer than a node may be silent.
BEAT_S = 10.0
ROUND_S = 1.0  # between tries, while the server is away or does not have everything


class _Round:
    """How far presenting has come, in one term of the server."""

    def __init__(self, term: ServerTerm, began_s: float, since_ms: int) -> None:
        self.term = term
        self.began_s = began_s
        self.since_ms = since_ms
        self.is_covered_booked = False  # again, what leases there cover
        self.is_booked = False  # again, all


class Presenter:
    """`run` must be running; `notice` is called when the ledger says that it does not know this node's leases."""

    def __init__(
        self,
        ledger: Presentable,
        wallet: Wallet,
        journal: Journal,
        settler: Settler,
        clock: Clock,
        node: NodeIdentity,
        *,
        on_refused: Callable[[ClosedAttempt, Exception], None],
    ) -> None:
        """`on_refused`: see Settler."""
        self.on_presented: Callable[[], None] = lambda: None
        """Called when everything is presented: what else was read from the database may have changed back."""
        self._ledger = ledger
        self._wallet = wallet
        self._journal = journal
        self._settler = settler
        self._clock = clock
        self._node = node
        self._on_refused = on_refused
        self._noticed = asyncio.Event()
        self._round: _Round | None = None
        self._is_whole = False  # whether the wallets had all that the leases here have
        self.booked_again = 0

    def notice(self) -> None:
        """The ledger's server is another than the one that this node presented itself to."""
        self._noticed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._noticed.wait()
            emit(ServerPromoted(leases=self._wallet.leases))
            await self._insist(self.present)
            self.on_presented()
            await self._insist(self._ledger.resume_granting)
            self._noticed.clear()
            emit(GrantsResumed())

    async def _insist(self, work: Callable[[], Awaitable[bool]]) -> None:
        while True:
            if await self._survive(work):
                return
            await asyncio.sleep(ROUND_S)

    async def _survive(self, work: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await work()
        except LedgerUnavailable:
            return False
        except NodeSuperseded:
            return False  # the wallet hears it too, and ends this process
        except Exception as error:  # noqa: BLE001  the edge of a task: others must not wait for this node for ever
            report_bug(error)
            return False

    async def present(self) -> bool:
        """One round: whether the server knows all of it now. Raises LedgerUnavailable, NodeSuperseded."""
        node, now_s = self._node, self._clock.monotonic_s()
        term = await self._ledger.begin_presenting(node_id=node.node_id, node_epoch=node.epoch)
        if self._round is None or self._round.term != term:
            lost_s = REPLAYED_S + now_s - self._wallet.contact_s
            self._round = _Round(term, now_s, self._clock.unix_ns() // 1_000_000 - int(1000 * lost_s))
        this = self._round
        self._is_whole = True
        await self._wallet.in_turns(self._present_account)
        # What is lacking may be in a lease that another node has returned and the server has lost that. So whatever is
        # covered is booked, and what is left of such leases returned; only then a row may draw on a wallet.
        may_draw = self._is_whole or await self._ledger.resume_granting()
        if may_draw:
            self._ledger.may_book_late(node_id=node.node_id, node_epoch=node.epoch, term=term)
        if not this.is_booked and (may_draw or not this.is_covered_booked):
            await self._book_again(this.since_ms)
            this.is_booked, this.is_covered_booked = may_draw, True
            await self._give_back_forgotten()
        # What waited to be booked, after a start that is all of the journal, draws on wallets too.
        if not may_draw or self._settler.oldest_age_s > self._clock.monotonic_s() - this.began_s:
            return False
        await self._ledger.finish_presenting(node_id=node.node_id, node_epoch=node.epoch, term=term)
        self._round = None
        emit(LeasesPresented(leases=self._wallet.leases, recovered=self.booked_again))
        return True

    async def _present_account(self, account: Account) -> None:
        """In the account's turn, so that nothing of it is under way."""
        current = [] if account.lease is None else [account.lease]
        for lease in (*current, *account.draining):
            if lease.granted_nanos:  # else it was asked for and never answered, and is asked for again
                await self._present_lease(account, lease)

    async def _present_lease(self, account: Account, lease: Lease) -> None:
        released_nanos = await self._ledger.present(
            lease_id=lease.lease_id,
            org_id=lease.org_id,
            node_id=self._node.node_id,
            node_epoch=self._node.epoch,
            granted_nanos=lease.granted_nanos,
            released_nanos=lease.returned_nanos,
            owners=() if account.chain is None else account.chain.owners,
        )
        lacking_nanos = released_nanos - lease.returned_nanos
        if lacking_nanos > 0:
            # Another node has not given back yet, or a credit was lost as well. What is free here is not spent; what is
            # held draws on the wallet when it is booked.
            lease.returned_nanos += min(lacking_nanos, max(0, lease.free_nanos))
            self._is_whole = False

    async def _book_again(self, since_ms: int) -> None:
        found = closed_since(self._journal, since_ms)
        self.booked_again = 0
        beat_s = self._clock.monotonic_s()
        # In a thread: reading takes seconds where the calls are many, and requests are being answered meanwhile.
        while batch := await asyncio.to_thread(_next_of, found):
            self.booked_again += len(batch)
            if not await self._is_settled(batch):
                for attempt in batch:
                    await self._is_settled([attempt])
            if self._clock.monotonic_s() - beat_s > BEAT_S:
                beat_s = self._clock.monotonic_s()
                await self._ledger.begin_presenting(node_id=self._node.node_id, node_epoch=self._node.epoch)

    async def _is_settled(self, batch: Sequence[ClosedAttempt]) -> bool:
        """Whether it was booked. One that is not yet covered comes again; one that is refused must not hold up the
        others' money."""
        try:
            await self._ledger.settle_batch(batch)
        except LedgerPromoted:
            return False
        except LedgerUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  whatever the database has against it
            if len(batch) == 1:
                self._on_refused(batch[0], error)
            return False
        return True

    async def _give_back_forgotten(self) -> None:
        """Leases that went back, while the server has lost that. Whatever was charged to them is booked."""
        node = self._node
        for lease_id in await self._ledger.open_leases(node_id=node.node_id, node_epoch=node.epoch):
            if not self._wallet.has_lease(lease_id):
                await self._ledger.release(lease_id=lease_id, released_nanos=NANOS_MAX, is_last=True)


def _next_of(found: Iterator[ClosedAttempt]) -> list[ClosedAttempt]:
    return list(itertools.islice(found, BATCH_MAX))
