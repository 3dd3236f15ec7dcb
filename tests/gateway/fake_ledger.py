"""A ledger in memory with the contract of `gateway.ports.Ledger`, and a connection that loses and delays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from waypost.gateway.ports import LedgerUnavailable
from waypost.kit.money import Nanos
from waypost.ledger.record import Balance, ClosedAttempt, InsufficientFunds, NodeSuperseded

Answer = TypeVar("Answer")


class LeaseRow(msgspec.Struct):
    org_id: bytes
    node_id: bytes
    node_epoch: int
    granted: int
    settled: int = 0
    released: int = 0
    held: int = 0
    is_closed: bool = False

    @property
    def rest(self) -> int:
        return self.granted - self.settled - self.released


class FakeLedger:
    """Each method is one serialisable transaction."""

    def __init__(self) -> None:
        self.wallets: dict[bytes, Nanos] = {}
        self.leases: dict[bytes, LeaseRow] = {}
        self.settlements: dict[bytes, ClosedAttempt] = {}
        self.executions: dict[bytes, ClosedAttempt] = {}
        self.topups: dict[str, tuple[bytes, Nanos]] = {}
        self.refunds: dict[tuple[bytes, str], Nanos] = {}
        self.epochs: dict[bytes, int] = {}
        self.calls: list[str] = []
        self.poison: set[bytes] = set()

    async def register_node(self, node_id: bytes) -> int:
        self.epochs[node_id] = self.epochs.get(node_id, 0) + 1
        return self.epochs[node_id]

    async def grant(
        self, *, lease_id: bytes, org_id: bytes, node_id: bytes, node_epoch: int, amount_nanos: Nanos
    ) -> Nanos:
        self.calls.append("grant")
        if lease_id in self.leases:
            return self.leases[lease_id].granted
        if node_epoch != self.epochs[node_id]:
            raise NodeSuperseded
        self._take(org_id, amount_nanos)
        self.leases[lease_id] = LeaseRow(org_id, node_id, node_epoch, amount_nanos)
        return amount_nanos

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        self.calls.append("extend")
        lease = self.leases[lease_id]
        if lease.granted == from_nanos and not lease.is_closed:
            self._take(lease.org_id, to_nanos - from_nanos)
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
                self.leases[attempt.open.lease_id].settled += attempt.close.charge_nanos
            if attempt.close.is_final:
                self.executions.setdefault(attempt.open.execution_id, attempt)

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> None:
        for lease_id, held in held_nanos.items():
            self.leases[lease_id].held = held

    async def close(self, *, lease_id: bytes, released_nanos: Nanos) -> None:
        self.calls.append("close")
        lease = self.leases[lease_id]
        if not lease.is_closed:
            assert released_nanos == lease.rest, "only what is settled may stay behind"
            lease.is_closed = True
            lease.released += released_nanos
            self.wallets[lease.org_id] += released_nanos

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
        return Balance(self.wallets[org_id] + sum(lease.rest for lease in leases) - held, held, 0)

    def check(self) -> None:
        """Conservation, and no account below zero."""
        assert all(available >= 0 for available in self.wallets.values())
        assert all(lease.settled >= 0 and lease.released >= 0 and lease.rest >= 0 for lease in self.leases.values())
        charged = sum(row.close.charge_nanos for row in self.settlements.values())
        rest = sum(lease.rest for lease in self.leases.values())
        assert sum(amount for _, amount in self.topups.values()) == sum(self.wallets.values()) + rest + charged

    def _take(self, org_id: bytes, amount: Nanos) -> None:
        available = self.wallets[org_id]
        if available < amount:
            raise InsufficientFunds(available)
        self.wallets[org_id] = available - amount


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
        self, *, lease_id: bytes, org_id: bytes, node_id: bytes, node_epoch: int, amount_nanos: Nanos
    ) -> Nanos:
        return await self._carry(
            lambda: self.ledger.grant(
                lease_id=lease_id, org_id=org_id, node_id=node_id, node_epoch=node_epoch, amount_nanos=amount_nanos
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

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> None:
        await self._carry(lambda: self.ledger.report_holds(held_nanos, node_id=node_id, node_epoch=node_epoch))

    async def close(self, *, lease_id: bytes, released_nanos: Nanos) -> None:
        await self._carry(lambda: self.ledger.close(lease_id=lease_id, released_nanos=released_nanos))

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
