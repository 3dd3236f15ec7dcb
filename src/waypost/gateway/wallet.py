"""The money that this process may spend: one lease per organisation, and the holds of running requests on it.

A lease is cut from the organisation's wallet in the database, the only place where money can run out. Within a lease
nothing waits: a hold is a look-up and an addition with no await between the test and the step. A lease that runs low is
raised, a lease that lies idle goes back. Calls to the database take turns per organisation, and a call whose outcome is
unknown is repeated with the same ids before anything else is asked for, so nothing is ever taken twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.ports import Ledger, LedgerUnavailable
from waypost.gateway.settler import Settler
from waypost.kit.clock import Clock
from waypost.kit.ids import Ids
from waypost.kit.money import Nanos
from waypost.ledger.lease import LEASE_S, Lease, is_tail, lease_size
from waypost.ledger.record import Grant, InsufficientFunds, NodeSuperseded

HEARTBEAT_S = 1  # holds are shown in balances at most this late
BALANCE_AGE_S_MAX = 1  # how old a balance may be that the size of a lease is taken from
IDLE_S = 30  # a lease without a hold for so long goes back
RATE_PERCENT = 30  # weight of the last second in the moving average of what an organisation spends


class NodeIdentity(msgspec.Struct, frozen=True):
    """This process to the ledger: an id that stays, and the epoch that the ledger gave it at this start."""

    node_id: bytes
    epoch: int
    nodes: int = 1  # processes that share the wallets: each leaves room for the others


class Hold:
    """Money reserved for one execution; resolves exactly once, by `Wallet.settle`."""

    __slots__ = ("_lease", "amount_nanos")

    def __init__(self, lease: Lease, amount_nanos: Nanos) -> None:
        self._lease: Lease | None = lease
        self.amount_nanos = amount_nanos

    @property
    def lease_id(self) -> bytes:
        """The lease that OPEN names."""
        assert self._lease is not None, "the hold is resolved"
        return self._lease.lease_id

    @property
    def is_open(self) -> bool:
        return self._lease is not None

    def absorb(self, more: Hold) -> None:
        """Take over what another hold on the same lease reserves; that one is resolved by it."""
        lease = self._lease
        assert lease is not None, "the hold is resolved"
        assert more._lease is lease, "the other hold is on another lease"
        more._lease = None
        lease.holds -= 1
        self.amount_nanos += more.amount_nanos

    def resolve(self, charge_nanos: Nanos) -> Lease:
        """What `Wallet.settle` does to the hold itself."""
        assert self._lease is not None, "a hold resolves once"
        lease, self._lease = self._lease, None
        lease.spend(hold_nanos=self.amount_nanos, charge_nanos=charge_nanos)
        return lease


class _Account:
    """An organisation's money at this node."""

    __slots__ = (
        "asked_to",
        "available_nanos",
        "balance_s",
        "closing",
        "is_asked_for",
        "is_tail",
        "last_hold_s",
        "lease",
        "org_id",
        "raised_by",
        "rate_nanos",
        "spent_before",
        "turn",
        "turns",
        "waiters",
        "waiting_nanos",
    )

    def __init__(self, org_id: bytes) -> None:
        self.org_id = org_id
        self.lease: Lease | None = None
        self.asked_to: Nanos | None = None  # total that the lease was asked to be raised to, outcome not known yet
        self.closing: Lease | None = None  # going back, outcome not known yet
        self.turn: asyncio.Task[None] | None = None
        self.turns = 0
        self.waiters = 0  # callers of hold_with_grant
        self.waiting_nanos = 0  # the sum of what they wait for
        self.available_nanos = 0  # as the ledger said at balance_s
        self.balance_s: float | None = None
        self.is_tail = False
        self.raised_by = 0  # size of the last raise: below half of it the next one is due
        self.rate_nanos = 0  # spent per second, moving average
        self.spent_before = 0
        self.last_hold_s: float = 0


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
    ) -> None:
        """`on_superseded` is called when the ledger grants this node nothing more: only a new start helps."""
        self._ledger = ledger
        self._on_superseded = on_superseded
        self._journal = journal
        self._ids = ids
        self._clock = clock
        self._node = node
        self._settler = settler
        self._accounts: dict[bytes, _Account] = {}
        self._low: set[bytes] = set()
        self._wake = asyncio.Event()
        self.is_ledger_reachable = True

    def hold(self, org_id: bytes, amount_nanos: Nanos) -> Hold | None:
        """Reserve an amount from the lease at hand; None when it has no room.

        What is free holds 1 nano: it too needs a lease to be recorded on."""
        amount_nanos = amount_nanos or 1
        account = self._accounts.get(org_id)
        if account is None:
            return None
        lease = account.lease
        if lease is None or not lease.take(amount_nanos):
            return None
        if lease.free_nanos < account.raised_by // 2 and not account.is_tail and org_id not in self._low:
            self._low.add(org_id)
            self._wake.set()
        return Hold(lease, amount_nanos)

    async def hold_with_grant(self, org_id: bytes, amount_nanos: Nanos) -> Hold:
        """Reserve an amount, taking more from the wallet when the lease has no room.

        Callers of one organisation share one call to the ledger. Raises InsufficientFunds with what one request could
        have at most, LedgerUnavailable, NodeSuperseded, LookupError for an organisation or a lease the books do not
        know (the next caller gets a new lease), JournalFull, JournalFailed."""
        amount_nanos = amount_nanos or 1
        account = self._accounts.setdefault(org_id, _Account(org_id))
        turns_before = account.turns
        account.waiters += 1
        account.waiting_nanos += amount_nanos
        try:
            while True:
                hold = self.hold(org_id, amount_nanos)
                if hold is not None:
                    return hold
                turn = account.turn or self._take_turn(account, partial(self._raise, account, amount_nanos))
                is_fresh = account.turns > turns_before  # an older answer may not know of a credit that I know of
                try:
                    # A caller who leaves must not take the outcome of the call with him.
                    await asyncio.shield(turn)
                except InsufficientFunds as refusal:
                    free = account.lease.free_nanos if account.lease else 0
                    if is_fresh and refusal.available_nanos + free < amount_nanos:
                        raise InsufficientFunds(refusal.available_nanos + free) from None
        finally:
            account.waiters -= 1
            account.waiting_nanos -= amount_nanos

    def settle(self, hold: Hold, charge_nanos: Nanos) -> None:
        """The hold's execution is over: the charge is spent, the rest free again. After `Settler.add` of its attempts,
        in the same step; the charge is the sum of theirs."""
        lease = hold.resolve(charge_nanos)
        account = self._accounts.get(lease.org_id)  # None: the lease was lost and nobody has asked since
        if account is not None:
            account.last_hold_s = self._clock.monotonic_s()

    def release(self, hold: Hold) -> None:
        """The hold's execution is over and costs nothing."""
        self.settle(hold, 0)

    async def run(self) -> None:
        """Raise leases that run low at once; every second report holds and return what lies idle. Until cancelled."""
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time() + HEARTBEAT_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(heartbeat_at):
                    await self._wake.wait()
            self._wake.clear()
            await self.refill()
            if loop.time() >= heartbeat_at:
                await self.beat()
                heartbeat_at = loop.time() + HEARTBEAT_S

    async def refill(self) -> None:
        """Raise the leases that ran low since the last time."""
        low, self._low = self._low, set()
        accounts = [self._accounts[org_id] for org_id in low if org_id in self._accounts]
        turns = [self._take_turn(one, partial(self._raise, one, 0)) for one in accounts if one.turn is None]
        for turn in turns:
            await self._finish(turn)

    async def beat(self) -> None:
        """One heartbeat: finish what is unfinished, return what lies idle, report holds."""
        turns = []
        for account in list(self._accounts.values()):
            self._measure(account)
            if account.turn is None and (self._is_unfinished(account) or self._is_idle(account)):
                turns.append(self._take_turn(account, partial(self._give_back, account)))
        for turn in turns:
            await self._finish(turn)
        for account in list(self._accounts.values()):
            if account.lease is None and account.turn is None and not account.waiters and account.closing is None:
                del self._accounts[account.org_id]
        held = {lease.lease_id: lease.held_nanos for lease in self._leases()}
        # Also when nothing is held: it says that this node lives.
        await self._finish(self._ledger.report_holds(held, node_id=self._node.node_id, node_epoch=self._node.epoch))

    async def close_all(self) -> int:
        """At the end, when every hold is resolved and every attempt booked: return the rest of every lease. The number
        of leases that could not be returned; they stay locked in the ledger."""
        for account in list(self._accounts.values()):
            while account.turn is not None:
                await self._finish(account.turn)
            await self._finish(self._take_turn(account, partial(self._give_back, account)))
            if not self.is_ledger_reachable:
                break
        return sum(account.lease is not None or account.closing is not None for account in self._accounts.values())

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
        return sum(lease.granted_nanos - lease.spent_nanos for lease in self._leases())

    def _leases(self) -> list[Lease]:
        return [account.lease for account in self._accounts.values() if account.lease is not None]

    # Turns: one call to the ledger at a time for each organisation.

    def _take_turn(self, account: _Account, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        assert account.turn is None
        account.turns += 1
        account.turn = asyncio.ensure_future(self._work_through(account, work))
        account.turn.add_done_callback(_hear)
        return account.turn

    async def _work_through(self, account: _Account, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            # Here and not in a callback: who wakes by the turn's end must find it gone.
            account.turn = None

    async def _raise(self, account: _Account, needed_nanos: Nanos) -> None:
        """Take more from the wallet: at least what `needed_nanos` lacks. Raises as hold_with_grant does."""
        await self._finish_unknown(account)
        lacking = self._lacking(account, needed_nanos)
        if needed_nanos and not lacking:
            return
        size = await self._size(account, lacking)
        if not size:
            return
        try:
            await self._raise_by(account, size)
        except InsufficientFunds as refusal:
            account.is_tail = True
            account.available_nanos, account.balance_s = refusal.available_nanos, self._clock.monotonic_s()
            lacking = self._lacking(account, needed_nanos)
            if not 0 < lacking <= refusal.available_nanos:
                raise
            await self._raise_by(account, lacking)

    def _lacking(self, account: _Account, needed_nanos: Nanos) -> Nanos:
        return max(0, needed_nanos - (account.lease.free_nanos if account.lease else 0))

    async def _size(self, account: _Account, lacking: Nanos) -> Nanos:
        now_s = self._clock.monotonic_s()
        if account.balance_s is None or now_s - account.balance_s > BALANCE_AGE_S_MAX:
            balance = await self._ledger.snapshot(account.org_id)
            account.available_nanos, account.balance_s = balance.available_nanos, now_s
        available, nodes = account.available_nanos, self._node.nodes
        free = account.lease.free_nanos if account.lease else 0
        wanted = max(account.rate_nanos * LEASE_S, account.waiting_nanos - free)
        account.is_tail = is_tail(available_nanos=available, needed_nanos=lacking, nodes=nodes)
        return lease_size(available_nanos=available, needed_nanos=lacking, wanted_nanos=wanted, nodes=nodes)

    async def _raise_by(self, account: _Account, amount_nanos: Nanos) -> None:
        lease = account.lease
        if lease is None:
            lease = account.lease = Lease(lease_id=self._ids.new(), org_id=account.org_id)
        account.asked_to = lease.granted_nanos + amount_nanos
        account.raised_by = amount_nanos
        try:
            self._journal.grant(Grant(lease.lease_id, account.org_id, account.asked_to))
        except (JournalFull, JournalFailed):
            self._refused(account)
            raise
        await self._ask(account, lease)

    async def _ask(self, account: _Account, lease: Lease) -> None:
        """Ask, or ask again, for what `asked_to` says. It stays set while the outcome is unknown."""
        assert account.asked_to is not None
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
                )
        except InsufficientFunds:
            self._refused(account)
            raise
        except NodeSuperseded:
            self._refused(account)
            self._on_superseded()
            raise
        except LookupError:
            self._lose(account)
            raise
        assert total >= lease.granted_nanos
        lease.granted_nanos = total
        account.asked_to = None

    def _refused(self, account: _Account) -> None:
        account.asked_to = None
        if account.lease is not None and not account.lease.granted_nanos:
            account.lease = None

    def _lose(self, account: _Account) -> None:
        """The books, restored from a copy perhaps, do not know the lease or have closed it: nothing more is held on it.
        The holds that it has resolve by themselves."""
        account.asked_to = account.lease = None
        account.raised_by = account.spent_before = 0
        account.balance_s = None

    async def _finish_unknown(self, account: _Account) -> None:
        """Repeat the call whose outcome is unknown, if there is one."""
        if account.closing is not None:
            await self._close(account, account.closing)
        if account.asked_to is not None and account.lease is not None:
            with contextlib.suppress(InsufficientFunds):
                await self._ask(account, account.lease)

    async def _give_back(self, account: _Account) -> None:
        await self._finish_unknown(account)
        lease = account.lease
        if lease is not None and not lease.holds and self._settler.is_booked(lease.lease_id):
            account.lease = None
            account.closing = lease
            account.spent_before = 0
            await self._close(account, lease)

    async def _close(self, account: _Account, lease: Lease) -> None:
        released_nanos = lease.granted_nanos - lease.spent_nanos
        await self._ledger.close(lease_id=lease.lease_id, released_nanos=released_nanos)
        account.closing = None
        account.balance_s = None

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

    def _measure(self, account: _Account) -> None:
        spent = account.lease.spent_nanos if account.lease else 0
        new = max(0, spent - account.spent_before)
        account.spent_before = spent
        account.rate_nanos += (new - account.rate_nanos) * RATE_PERCENT // 100

    def _is_unfinished(self, account: _Account) -> bool:
        return account.asked_to is not None or account.closing is not None

    def _is_idle(self, account: _Account) -> bool:
        lease = account.lease
        if lease is None or lease.holds or not self._settler.is_booked(lease.lease_id):
            return False
        # In the tail somebody else may need the rest at once.
        return account.is_tail or self._clock.monotonic_s() - account.last_hold_s >= IDLE_S


def _hear(turn: asyncio.Task[None]) -> None:
    # Those who wait have the exception; when all of them have left, it is not worth a word from asyncio.
    if not turn.cancelled():
        turn.exception()
