"""A ledger in memory with the contract of `gateway.ports.KeptLedger`, and a connection that loses and delays."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from waypost.gateway.ports import LedgerUnavailable
from waypost.kit.money import Nanos
from waypost.ledger.record import (
    Balance,
    BudgetUsedUp,
    ClosedAttempt,
    Heartbeat,
    InsufficientFunds,
    NodeSuperseded,
)

Answer = TypeVar("Answer")


class LeaseRow(msgspec.Struct):
    org_id: bytes
    node_id: bytes
    node_epoch: int
    granted: int
    owners: tuple[bytes, ...] = ()
    settled: int = 0
    released: int = 0
    suspended: int = 0
    held: int = 0
    state: str = "ACTIVE"
    is_recalled: bool = False

    @property
    def rest(self) -> int:
        return self.granted - self.settled - self.released - self.suspended

    @property
    def is_closed(self) -> bool:
        return self.state == "CLOSED"


class FakeLedger:
    """Each method is one serialisable transaction."""

    def __init__(self) -> None:
        self.wallets: dict[bytes, Nanos] = {}
        self.suspense: dict[bytes, Nanos] = {}
        self.budgets: dict[bytes, list[Nanos]] = {}  # by owner: what may be taken, what is
        self.recalls = asyncio.Event()
        self.leases: dict[bytes, LeaseRow] = {}
        self.settlements: dict[bytes, ClosedAttempt] = {}
        self.executions: dict[bytes, ClosedAttempt] = {}
        self.topups: dict[str, tuple[bytes, Nanos]] = {}
        self.refunds: dict[tuple[bytes, str], Nanos] = {}
        self.epochs: dict[bytes, int] = {}
        self.calls: list[str] = []
        self.poison: set[bytes] = set()
        self.is_promoted = False

    async def register_node(self, node_id: bytes) -> int:
        self.epochs[node_id] = self.epochs.get(node_id, 0) + 1
        return self.epochs[node_id]

    async def grant(
        self,
        *,
        lease_id: bytes,
        org_id: bytes,
        node_id: bytes,
        node_epoch: int,
        amount_nanos: Nanos,
        owners: Sequence[bytes] = (),
    ) -> Nanos:
        self.calls.append("grant")
        if lease_id in self.leases:
            return self.leases[lease_id].granted
        if node_epoch != self.epochs[node_id]:
            raise NodeSuperseded
        self._take(lease_id, org_id, amount_nanos, owners)
        self.leases[lease_id] = LeaseRow(org_id, node_id, node_epoch, amount_nanos, tuple(owners))
        return amount_nanos

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        assert from_nanos < to_nanos
        self.calls.append("extend")
        lease = self.leases[lease_id]
        if lease.state != "ACTIVE":
            raise LookupError("the lease is closed")
        if lease.granted == from_nanos:
            self._take(lease_id, lease.org_id, to_nanos - from_nanos, lease.owners)
            lease.granted = to_nanos
        return lease.granted

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        self.calls.append("settle_batch")
        for attempt in batch:
            if attempt.open.attempt_id in self.poison:
                raise ValueError("a row that cannot be booked")
        for attempt in batch:
            if attempt.open.attempt_id not in self.settlements:
                self.settlements[attempt.open.attempt_id] = attempt
                self._spend(self.leases[attempt.open.lease_id], attempt.close.charge_nanos)
            if attempt.close.is_final:
                self.executions.setdefault(attempt.open.execution_id, attempt)

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        if node_epoch != self.epochs[node_id]:
            raise NodeSuperseded
        for lease_id, held in held_nanos.items():
            if lease_id in self.leases:
                self.leases[lease_id].held = held
        lost = {one for one in held_nanos if one not in self.leases or self.leases[one].state in ("ORPHANED", "CLOSED")}
        own = {key: one for key, one in self.leases.items() if one.node_id == node_id and one.node_epoch == node_epoch}
        recalled = {key for key, one in own.items() if one.is_recalled and one.state == "ACTIVE"}
        return Heartbeat(len(self.epochs), frozenset(recalled), frozenset(lost))

    async def wait_for_recall(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.recalls.wait()
        self.recalls.clear()

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        self.calls.append("close" if is_last else "release")
        lease = self.leases.get(lease_id)
        if lease is None or lease.is_closed:
            return
        more = max(0, min(released_nanos, lease.granted - lease.settled) - lease.released)
        from_suspense = max(0, more - lease.rest)
        lease.released += more
        lease.suspended -= from_suspense
        lease.is_recalled = False
        self.suspense[lease.org_id] = self.suspense.get(lease.org_id, 0) - from_suspense
        self.wallets[lease.org_id] += more
        self._count(lease.owners, -more)
        if is_last:
            lease.held = 0
            is_all = lease.settled + lease.released == lease.granted
            lease.state = "CLOSED" if is_all else lease.state if lease.state == "ORPHANED" else "DRAINING"

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        self.calls.append("finish_recovery")
        for lease_id, lease in self.leases.items():
            if lease.node_id == node_id and lease.node_epoch < node_epoch:
                await self.release(lease_id=lease_id, released_nanos=lease.granted, is_last=True)

    async def sweep(self) -> int:
        return 0

    async def has_to_present(self, node_id: bytes) -> bool:
        return self.is_promoted

    async def seal(self) -> int:
        return 0

    async def check(self) -> tuple[str, ...]:
        return ()

    def orphan(self, node_id: bytes) -> None:
        """What a sweep does to a silent node's leases."""
        for lease in self.leases.values():
            if lease.node_id == node_id and lease.state in ("ACTIVE", "DRAINING"):
                lease.suspended, lease.state = lease.rest, "ORPHANED"
                self.suspense[lease.org_id] = self.suspense.get(lease.org_id, 0) + lease.suspended

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        if reference in self.topups:
            return False
        self.topups[reference] = (org_id, amount_nanos)
        self.wallets[org_id] = self.wallets.get(org_id, 0) + amount_nanos
        return True

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        raise NotImplementedError

    async def snapshot(self, org_id: bytes) -> Balance:
        leases = [lease for lease in self.leases.values() if lease.org_id == org_id]
        held = sum(lease.held for lease in leases)
        available = self.wallets[org_id] + sum(lease.rest for lease in leases) - held
        return Balance(available, held, self.suspense.get(org_id, 0))

    def check_sums(self) -> None:
        """Conservation, and no account below zero."""
        assert all(available >= 0 for available in self.wallets.values())
        leases = self.leases.values()
        assert all(min(one.settled, one.released, one.suspended, one.rest) >= 0 for one in leases)
        assert sum(self.suspense.values()) == sum(one.suspended for one in leases)
        charged = sum(one.settled for one in leases)
        booked = sum(row.close.charge_nanos for row in self.settlements.values())
        assert charged == booked
        rest = sum(lease.rest + lease.suspended for lease in leases)
        assert sum(amount for _, amount in self.topups.values()) == sum(self.wallets.values()) + rest + charged
        for owner, (limit, taken) in self.budgets.items():
            assert taken == sum(one.granted - one.released for one in leases if owner in one.owners) <= limit

    def _spend(self, lease: LeaseRow, charge: Nanos) -> None:
        from_rest = min(charge, lease.rest)
        from_suspense = min(charge - from_rest, lease.suspended)
        from_wallet = charge - from_rest - from_suspense
        lease.settled += charge
        lease.suspended -= from_suspense
        lease.released -= from_wallet
        if from_suspense:
            self.suspense[lease.org_id] -= from_suspense
        if from_wallet:
            self.wallets[lease.org_id] -= from_wallet
            self._count(lease.owners, from_wallet)

    def _take(self, lease_id: bytes, org_id: bytes, amount: Nanos, owners: Sequence[bytes]) -> None:
        available = self.wallets[org_id]
        rooms = [limit - taken for limit, taken in (self.budgets[owner] for owner in owners if owner in self.budgets)]
        room = min([available, *rooms])
        if room < amount:
            recallable = 0
            for other_id, other in self.leases.items():
                if other_id != lease_id and other.org_id == org_id and other.state == "ACTIVE" and other.rest:
                    other.is_recalled = True
                    recallable += other.rest
            if recallable:
                self.recalls.set()
            budget = BudgetUsedUp("key", "lifetime", None) if room < available else None
            raise InsufficientFunds(room, budget=budget, recallable_nanos=recallable)
        self.wallets[org_id] = available - amount
        self._count(owners, amount)

    def _count(self, owners: Sequence[bytes], amount: Nanos) -> None:
        for owner in owners:
            if owner in self.budgets:
                self.budgets[owner][1] += amount


class Connection:
    """One node's way to the ledger. Chance decides what happens to a call; `is_up` and `is_alive` are switches."""

    def __init__(self, ledger: FakeLedger, dice: random.Random, fault_rate: float = 0.0) -> None:
        self.ledger = ledger
        self.dice = dice
        self.fault_rate = fault_rate
        self.is_up = True
        self.first_answer = asyncio.Event()
        self.is_alive = True  # of the node; a dead one's call may still be carried out, to nobody's knowledge

    async def register_node(self, node_id: bytes) -> int:
        return await self.ledger.register_node(node_id)

    async def grant(
        self,
        *,
        lease_id: bytes,
        org_id: bytes,
        node_id: bytes,
        node_epoch: int,
        amount_nanos: Nanos,
        owners: Sequence[bytes] = (),
    ) -> Nanos:
        return await self._carry(
            lambda: self.ledger.grant(
                lease_id=lease_id,
                org_id=org_id,
                node_id=node_id,
                node_epoch=node_epoch,
                amount_nanos=amount_nanos,
                owners=owners,
            )
        )

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        return await self._carry(
            lambda: self.ledger.extend(lease_id=lease_id, from_nanos=from_nanos, to_nanos=to_nanos)
        )

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        rows = list(batch)
        if self.fault_rate and self.dice.random() < 0.2:
            self.dice.shuffle(rows)
            rows += rows[:2]
        await self._carry(lambda: self.ledger.settle_batch(rows))

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        return await self._carry(lambda: self.ledger.report_holds(held_nanos, node_id=node_id, node_epoch=node_epoch))

    async def wait_for_recall(self, timeout_s: float) -> None:
        await self.ledger.wait_for_recall(timeout_s)

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        await self._carry(
            lambda: self.ledger.release(lease_id=lease_id, released_nanos=released_nanos, is_last=is_last)
        )

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        await self._carry(lambda: self.ledger.finish_recovery(node_id=node_id, node_epoch=node_epoch))

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        return await self.ledger.topup(org_id=org_id, amount_nanos=amount_nanos, reference=reference)

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        raise NotImplementedError

    async def snapshot(self, org_id: bytes) -> Balance:
        return await self._carry(lambda: self.ledger.snapshot(org_id))

    async def _carry(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        for _ in range(self.dice.randrange(4) if self.fault_rate else 1):
            await asyncio.sleep(0)
        if not self.is_up or not self.is_alive or self.dice.random() < self.fault_rate:
            raise LedgerUnavailable
        try:
            answer = await call()
        finally:
            self.first_answer.set()
        await asyncio.sleep(0)
        if self.dice.random() < self.fault_rate:
            raise LedgerUnavailable  # carried out, but the reply is lost
        return answer
