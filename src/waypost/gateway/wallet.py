"""The money that this process may spend: one lease per organisation or budget chain, and the holds of running requests
on it.

A lease is cut from the organisation's wallet in the database, the only place where money can run out. Within a lease
nothing waits: a hold is a look-up and an addition with no await between the test and the step. A lease that runs low is
raised, a lease that lies idle goes back, and so does what is free of one that another node needs. Calls
to the database take turns per organisation, and a call whose outcome is unknown is repeated with the same ids before
anything else is asked for, so nothing is ever taken twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from waypost.gateway.hold import NEVER_MS, Account, Hold, NodeIdentity, pause_between_looks
from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.ports import Ledger, LedgerUnavailable
from waypost.gateway.settler import Settler
from waypost.gateway.together import together
from waypost.kit.clock import Clock
from waypost.kit.ids import Ids
from waypost.kit.money import NANOS_MAX, Nanos
from waypost.ledger.lease import LEASE_S, Lease, is_tail, lease_size
from waypost.ledger.record import Grant, Heartbeat, InsufficientFunds, NodeSuperseded
from waypost.tenancy.budget import Chain, chain_ends_at

__all__ = ["Hold", "NodeIdentity", "Wallet"]

SYNC_S = 1  # that what goes back waits for the disk
HEARTBEAT_S = 1  # holds are shown in balances at most this late
BALANCE_AGE_S_MAX = 1  # how old a balance may be that the size of a lease is taken from
IDLE_S = 30  # a lease without a hold for so long goes back
RATE_PERCENT = 30  # weight of the last second in the moving average of what an organisation spends
# For 1.2 s others may give back what is free, since a heartbeat and an announcement take at most one.
RECALL_LOOKS = 24
# The rest of a lost node's lease waits a day for its rows. A node that reaches nobody stops spending an hour before.
CONTACT_S = 23 * 3600


class _LeaseLost(LookupError):
    """The books, restored from a copy perhaps, do not know a lease of ours, hold it for lost, or its window is over."""


class Wallet:
    """`run` must be running. All methods belong to one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        ids: Ids,
        clock: Clock,
        node: NodeIdentity,
        settler: Settler,
        *,
        on_superseded: Callable[[], None] = lambda: None,
        pause: Callable[[], Awaitable[None]] = pause_between_looks,
    ) -> None:
        """`on_superseded` is called when the ledger grants this node nothing more: only a new start helps."""
        self._ledger = ledger
        self._on_superseded = on_superseded
        self.on_promoted: Callable[[], None] = lambda: None  # leases have to be presented to the ledger's server
        self._pause = pause
        self._journal = journal
        self._ids = ids
        self._clock = clock
        self._node = node
        self._settler = settler
        self._nodes = node.nodes
        self._accounts: dict[bytes, Account] = {}
        self._low: set[bytes] = set()
        self._wake = asyncio.Event()
        self._is_beat_due = False
        self.contact_s = clock.monotonic_s()  # when a ledger that knows this node last answered
        self.is_ledger_reachable = True

    def hold(self, org_id: bytes, amount_nanos: Nanos, chain: Chain | None = None) -> Hold | None:
        """Reserve an amount from the lease at hand; None when it has no room, or its budget window has ended.

        What is free holds 1 nano: it too needs a lease to be recorded on."""
        amount_nanos = amount_nanos or 1
        account_id = org_id if chain is None else chain.id
        account = self._accounts.get(account_id)
        if account is None:
            return None
        lease = account.lease
        if lease is None or (chain is not None and self._is_over(account)) or not lease.take(amount_nanos):
            return None
        if lease.free_nanos < account.raised_by // 2 and not account.is_tail and account_id not in self._low:
            self._low.add(account_id)
            self._wake.set()
        return Hold(lease, amount_nanos, chain)

    async def hold_with_grant(self, org_id: bytes, amount_nanos: Nanos, chain: Chain | None = None) -> Hold:
        """Reserve an amount, taking more from the wallet when the lease has no room.

        Callers of one account share one call to the ledger. Raises InsufficientFunds with what one request could
        have at most, LedgerUnavailable, NodeSuperseded, LookupError for an organisation the books do not know,
        JournalFull, JournalFailed."""
        amount_nanos = amount_nanos or 1
        account_id = org_id if chain is None else chain.id
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = Account(account_id, org_id, chain)
        turns_before = account.turns
        account.waiters += 1
        account.waiting_nanos += amount_nanos
        try:
            while True:
                hold = self.hold(org_id, amount_nanos, chain)
                if hold is not None:
                    return hold
                turn = account.turn or self._take_turn(account, partial(self._raise, account, amount_nanos))
                is_fresh = account.turns > turns_before  # an older answer may not know of a credit that I know of
                try:
                    # A caller who leaves must not take the outcome of the call with him.
                    await asyncio.shield(turn)
                except InsufficientFunds as refusal:
                    afforded = refusal.available_nanos + account.free_nanos
                    if is_fresh and afforded < amount_nanos:
                        raise InsufficientFunds(afforded, budget=refusal.budget) from None
        finally:
            account.waiters -= 1
            account.waiting_nanos -= amount_nanos

    def settle(self, hold: Hold, charge_nanos: Nanos) -> None:
        """The hold's execution is over: the charge is spent, the rest free again. After `Settler.add` of its attempts,
        in the same step; the charge is the sum of theirs."""
        lease = hold.resolve(charge_nanos)
        account = self._accounts.get(lease.org_id if hold.chain is None else hold.chain.id)
        if account is not None:
            account.last_hold_s = self._clock.monotonic_s()
            if account.is_recalled and account.lease is lease:
                self._is_beat_due = True
                self._wake.set()

    def release(self, hold: Hold) -> None:
        """The hold's execution is over and costs nothing."""
        self.settle(hold, 0)

    async def run(self) -> None:
        """Raise leases that run low at once; every second, and when others need money, report holds and return what is
        not needed. Until cancelled."""
        await together(self._listen(), self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time() + HEARTBEAT_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(heartbeat_at):
                    await self._wake.wait()
            self._wake.clear()
            await self.refill()
            if self._is_beat_due or loop.time() >= heartbeat_at:
                self._is_beat_due = False
                await self.beat()
                heartbeat_at = loop.time() + HEARTBEAT_S

    async def _listen(self) -> None:
        while True:
            await self._ledger.wait_for_recall(HEARTBEAT_S)
            self._is_beat_due = True
            self._wake.set()

    async def refill(self) -> None:
        """Raise the leases that ran low since the last time."""
        low, self._low = self._low, set()
        accounts = [self._accounts[account_id] for account_id in low if account_id in self._accounts]
        turns = [self._take_turn(one, partial(self._raise, one, 0)) for one in accounts if one.turn is None]
        for turn in turns:
            await self._finish(turn)

    async def beat(self) -> None:
        """One heartbeat: report holds, finish what is unfinished, return what is not needed here."""
        held = {lease.lease_id: lease.held_nanos for lease in self._leases()}
        # Also when nothing is held: it says that this node lives.
        beat = await self._report(held)
        if beat is not None:
            self._hear(beat)
        elif self._clock.monotonic_s() - self.contact_s > CONTACT_S:
            for account in self._accounts.values():
                account.drain()
        turns = []
        for account in list(self._accounts.values()):
            self._measure(account)
            if account.turn is None and self._is_something_to_return(account):
                turns.append(self._take_turn(account, partial(self._give_back, account)))
        for turn in turns:
            await self._finish(turn)
        for account in list(self._accounts.values()):
            if account.lease is None and account.turn is None and not account.waiters and not account.draining:
                del self._accounts[account.id]

    async def close_all(self) -> int:
        """At the end, when every hold is resolved and every attempt booked: return the rest of every lease. The number
        of leases that could not be returned; they stay locked in the ledger."""
        for account in list(self._accounts.values()):
            while account.turn is not None:
                await self._finish(account.turn)
            await self._finish(self._take_turn(account, partial(self._give_back, account, is_end=True)))
            if not self.is_ledger_reachable:
                break
        return sum((one.lease is not None) + len(one.draining) for one in self._accounts.values())

    @property
    def nodes(self) -> int:
        """Gateways that share the database, as far as is known."""
        return self._nodes

    @property
    def leases(self) -> int:
        return len(self._leases())

    @property
    def holds(self) -> int:
        return sum(lease.holds for lease in self._leases())

    @property
    def held_nanos(self) -> Nanos:
        return sum(lease.held_nanos for lease in self._leases())

    @property
    def granted_nanos(self) -> Nanos:
        """What the leases may still spend or hold: the most that a crash of this process can lock up."""
        return sum(lease.granted_nanos - lease.returned_nanos - lease.spent_nanos for lease in self._leases())

    def has_lease(self, lease_id: bytes) -> bool:
        return any(lease.lease_id == lease_id for lease in self._leases())

    async def in_turns(self, work: Callable[[Account], Awaitable[None]]) -> None:
        """Do it with each account, while no call of it is under way. Raises what it does."""
        for account in list(self._accounts.values()):
            while account.turn is not None:
                await self._finish(account.turn)
            await self._take_turn(account, partial(work, account))

    def _leases(self) -> list[Lease]:
        active = [account.lease for account in self._accounts.values() if account.lease is not None]
        return active + [lease for account in self._accounts.values() for lease in account.draining]

    # Turns: one call to the ledger at a time for each organisation.

    def _take_turn(self, account: Account, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        assert account.turn is None
        account.turns += 1
        account.turn = asyncio.ensure_future(self._work_through(account, work))
        account.turn.add_done_callback(_overhear)
        return account.turn

    async def _work_through(self, account: Account, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            # Here and not in a callback: who wakes by the turn's end must find it gone.
            account.turn = None

    async def _raise(self, account: Account, needed_nanos: Nanos) -> None:
        """Take more from the wallet: at least what `needed_nanos` lacks. Raises as hold_with_grant does."""
        with contextlib.suppress(_LeaseLost):
            await self._raise_once(account, needed_nanos)
            return
        await self._raise_once(account, needed_nanos)

    async def _raise_once(self, account: Account, needed_nanos: Nanos) -> None:
        await self._finish_unknown(account)
        if self._is_over(account):
            account.drain()
        lacking = self._lacking(account, needed_nanos)
        if needed_nanos and not lacking:
            return
        size = await self._size(account, lacking)
        if not size:
            return
        try:
            await self._raise_by(account, size)
        except InsufficientFunds as refused:
            account.is_tail = True
            account.available_nanos, account.balance_s = refused.available_nanos, self._clock.monotonic_s()
            if not needed_nanos:
                raise
            refusal = refused  # handled outside: compiled code must not wait within a handler
        else:
            return
        await self._raise_by_the_least(account, needed_nanos, refusal)

    async def _raise_by_the_least(self, account: Account, needed_nanos: Nanos, refusal: InsufficientFunds) -> None:
        """Exactly what one request lacks, as soon as others have given back what they were asked for."""
        looks = 0
        while lacking := self._lacking(account, needed_nanos):
            if lacking > refusal.available_nanos:
                is_hopeless = lacking > refusal.available_nanos + refusal.recallable_nanos
                if is_hopeless or looks >= RECALL_LOOKS:
                    raise refusal
                looks += 1
                await self._pause()
                # Two who wait for each other's part must both let go of it: then one of them gets all.
                await self._return_free(account)
                lacking = self._lacking(account, needed_nanos)
                if not lacking:
                    return  # a hold of ours has ended meanwhile
            try:
                await self._raise_by(account, lacking)
            except InsufficientFunds as again:
                refusal = again

    def _lacking(self, account: Account, needed_nanos: Nanos) -> Nanos:
        return max(0, needed_nanos - account.free_nanos)

    async def _size(self, account: Account, lacking: Nanos) -> Nanos:
        now_s = self._clock.monotonic_s()
        if account.balance_s is None or now_s - account.balance_s > BALANCE_AGE_S_MAX:
            balance = await self._ledger.snapshot(account.org_id)
            account.available_nanos, account.balance_s = balance.available_nanos, now_s
        available, nodes = account.available_nanos, self._nodes
        wanted = max(account.rate_nanos * LEASE_S, account.waiting_nanos - account.free_nanos)
        account.is_tail = is_tail(available_nanos=available, needed_nanos=lacking, nodes=nodes)
        return lease_size(available_nanos=available, needed_nanos=lacking, wanted_nanos=wanted, nodes=nodes)

    async def _raise_by(self, account: Account, amount_nanos: Nanos) -> None:
        lease = account.lease
        if lease is None:
            lease = account.lease = Lease(lease_id=self._ids.new(), org_id=account.org_id)
            if account.chain is not None:
                account.ends_ms = chain_ends_at(account.chain, self._now_ms()) or NEVER_MS
        account.asked_to = lease.granted_nanos + amount_nanos
        account.raised_by = amount_nanos
        try:
            self._journal.grant(Grant(lease.lease_id, account.org_id, account.asked_to))
        except (JournalFull, JournalFailed):
            self._refused(account)
            raise
        await self._ask(account, lease)

    async def _ask(self, account: Account, lease: Lease) -> None:
        """Ask, or ask again, for what `asked_to` says. It stays set while the outcome is unknown."""
        assert account.asked_to is not None
        asked_s = self._clock.monotonic_s()
        try:
            if lease.granted_nanos:
                total = await self._ledger.extend(
                    lease_id=lease.lease_id, from_nanos=lease.granted_nanos, to_nanos=account.asked_to
                )
            else:
                total = await self._ledger.grant(
                    lease_id=lease.lease_id,
                    org_id=account.org_id,
                    node_id=self._node.node_id,
                    node_epoch=self._node.epoch,
                    amount_nanos=account.asked_to,
                    owners=() if account.chain is None else account.chain.owners,
                )
        except InsufficientFunds:
            self._refused(account)
            raise
        except NodeSuperseded:
            self._refused(account)
            self._on_superseded()
            raise
        except LookupError as unknown:
            is_lost = lease.granted_nanos > 0
            account.asked_to = None
            account.drain()  # its holds still resolve
            raise (_LeaseLost() if is_lost else unknown) from None
        self.contact_s = max(self.contact_s, asked_s)
        assert total >= lease.granted_nanos
        lease.granted_nanos = total
        account.asked_to = None

    def _refused(self, account: Account) -> None:
        account.asked_to = None
        if account.lease is not None and not account.lease.granted_nanos:
            account.lease = None

    async def _finish_unknown(self, account: Account) -> None:
        """Repeat the call whose outcome is unknown, if there is one."""
        if account.asked_to is not None and account.lease is not None:
            with contextlib.suppress(InsufficientFunds):
                await self._ask(account, account.lease)

    async def _give_back(self, account: Account, *, is_end: bool = False) -> None:
        """Return what is not needed here: of a lease that goes on, what is free of it when somebody else needs it; the
        rest of every other one as soon as all that was charged to it is booked, and until then what is free."""
        with contextlib.suppress(LookupError):
            await self._finish_unknown(account)
        if is_end or self._is_idle(account) or self._is_over(account):
            account.drain()
        await self._return_free(account)
        for draining in list(account.draining):
            is_done = not draining.holds and self._settler.is_booked(draining.lease_id)
            if is_done:
                # All of it, since an extension may have been made that nobody answered. What is booked stays booked.
                await self._ledger.release(lease_id=draining.lease_id, released_nanos=NANOS_MAX, is_last=True)
                account.draining.remove(draining)
            elif draining.free_nanos:
                await self._release(draining, is_last=True)

    async def _return_free(self, account: Account) -> None:
        """What somebody else needs of a lease that goes on."""
        lease = account.lease
        if lease is not None and account.is_recalled and lease.free_nanos:
            account.is_tail = True
            account.is_recalled = not await self._release(lease, is_last=False)

    async def _release(self, lease: Lease, *, is_last: bool) -> bool:
        """Whether what is free goes back; if not, at a later beat. What came of a call that was not answered, a later
        one makes good: it tells the total.

        The CLOSE of each execution that made this free is synced first: were it lost with the power, the execution
        would be charged by its progress, of a lease that has too little left. On a disk that stalls nobody waits."""
        returned_before = lease.returned_nanos
        released_nanos = lease.give_back()
        if not await self._journal.is_synced(SYNC_S):
            lease.returned_nanos = returned_before  # nobody was told
            return False
        await self._ledger.release(lease_id=lease.lease_id, released_nanos=released_nanos, is_last=is_last)
        return True

    # What the heartbeat looks at.

    async def _finish(self, call: Awaitable[None]) -> None:
        """Wait for a call on nobody's behalf: what it could not do now is tried again at a later beat."""
        try:
            await asyncio.shield(call)
            self.is_ledger_reachable = True
        except LedgerUnavailable:
            self.is_ledger_reachable = False
        except (InsufficientFunds, LookupError, JournalFull, JournalFailed):
            self.is_ledger_reachable = True

    async def _report(self, held: dict[bytes, Nanos]) -> Heartbeat | None:
        asked_s = self._clock.monotonic_s()
        try:
            beat = await self._ledger.report_holds(held, node_id=self._node.node_id, node_epoch=self._node.epoch)
        except LedgerUnavailable:
            self.is_ledger_reachable = False
            return None
        except NodeSuperseded:
            self._on_superseded()
            return None
        self.is_ledger_reachable = True
        self.contact_s = self.contact_s if beat.is_promoted else asked_s
        return beat

    def _hear(self, beat: Heartbeat) -> None:
        if beat.is_promoted:
            self.on_promoted()
            return  # what it knows of leases is older than what it said before
        self._nodes = max(1, beat.nodes)
        for account in self._accounts.values():
            lease = account.lease
            if lease is None or account.asked_to is not None:
                continue
            if lease.lease_id in beat.lost:
                account.drain()
            elif lease.lease_id in beat.recalled:
                account.is_recalled = True

    def _measure(self, account: Account) -> None:
        spent = account.lease.spent_nanos if account.lease else 0
        new = max(0, spent - account.spent_before)
        account.spent_before = spent
        account.rate_nanos += (new - account.rate_nanos) * RATE_PERCENT // 100

    def _is_something_to_return(self, account: Account) -> bool:
        return (
            account.asked_to is not None
            or bool(account.draining)
            or (account.is_recalled and account.free_nanos > 0)
            or self._is_idle(account)
            or self._is_over(account)
        )

    def _is_over(self, account: Account) -> bool:
        """Whether the lease at hand was cut for a budget window that has ended."""
        return account.ends_ms <= self._now_ms()

    def _is_idle(self, account: Account) -> bool:
        lease = account.lease
        if lease is None or lease.holds or not self._settler.is_booked(lease.lease_id):
            return False
        # In the tail somebody else may need the rest at once.
        return account.is_tail or self._clock.monotonic_s() - account.last_hold_s >= IDLE_S

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // 1_000_000


def _overhear(turn: asyncio.Task[None]) -> None:
    # Those who wait have the exception; when all of them have left, it is not worth a word from asyncio.
    if not turn.cancelled():
        turn.exception()
