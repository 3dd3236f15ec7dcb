"""The real books and the model's in lockstep: every call is carried out by both, and both must say and hold the same.

`Lockstep` has the methods of `gateway.ports.KeptLedger`, on the real SQL. One call at a time, and the caller decides
when: that makes a schedule repeatable although a real server answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from psycopg import AsyncConnection

from tests.simulation.model_books import ModelBooks, Row, need
from waypost.kit.money import Nanos
from waypost.ledger.record import Balance, ClosedAttempt, Heartbeat, InsufficientFunds, NodeSuperseded
from waypost.storage.ledger import PostgresLedger

Answer = TypeVar("Answer")
ORPHANED_AFTER_S, SUSPENSE_S = 60, 24 * 3600

_AGE = """
WITH nodes AS (
    UPDATE node SET heartbeat_at = heartbeat_at - make_interval(secs => %(by_s)s),
                    registered_at = registered_at - make_interval(secs => %(by_s)s) WHERE id = ANY (%(nodes)s)
)
UPDATE lease SET orphaned_at = orphaned_at - make_interval(secs => %(by_s)s)
 WHERE org_id = ANY (%(orgs)s) AND orphaned_at IS NOT NULL
"""
# One statement, because it is the one that runs most often.
_BOOKS = """
SELECT 'wallet', org_id, ARRAY[available, suspense] FROM wallet WHERE org_id = ANY (%(orgs)s)
UNION ALL
SELECT 'lease', id, ARRAY[granted, settled, released, suspended] FROM lease WHERE org_id = ANY (%(orgs)s)
UNION ALL
SELECT 'settlement', attempt_id, ARRAY[charge, house, cogs, refunded] FROM settlement WHERE org_id = ANY (%(orgs)s)
UNION ALL
SELECT 'budget', owner_id, ARRAY[taken] FROM budget_window WHERE org_id = ANY (%(orgs)s)
"""


class Lockstep:
    def __init__(self, real: PostgresLedger, owner: AsyncConnection, orgs: Sequence[bytes]) -> None:
        self.model = ModelBooks()
        self.now_s = 0  # of the database: it stands still but for `pass_time`
        self._real = real
        self._owner = owner
        self._orgs = [UUID(bytes=org) for org in orgs]
        self._epochs: dict[bytes, int] = {}
        self._registered_s: dict[bytes, int] = {}
        self._heartbeat_s: dict[bytes, int] = {}
        self._recovered_before: dict[bytes, int] = {}
        self._node_of: dict[str, tuple[bytes, int]] = {}  # lease → node, epoch

    # What nodes ask.

    async def register_node(self, node_id: bytes) -> int:
        epoch = await self._real.register_node(node_id)
        self._epochs[node_id] = self._epochs.get(node_id, 0) + 1
        self._registered_s[node_id] = self._heartbeat_s[node_id] = self.now_s
        need(epoch == self._epochs[node_id], "an epoch was skipped")
        return epoch

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
        budgets = tuple(owner.hex() for owner in owners)
        name = lease_id.hex()
        is_current = self._epochs[node_id] == node_epoch

        def expected() -> int:
            if name not in self.model.leases and not is_current:
                return 0
            self._node_of[name] = (node_id, node_epoch)
            if name in self.model.leases:
                return self.model.leases[name].granted
            return self.model.grant(name, org_id.hex(), budgets, 0, from_total=0, to_total=amount_nanos)

        return await self._granted(
            lambda: self._real.grant(
                lease_id=lease_id,
                org_id=org_id,
                node_id=node_id,
                node_epoch=node_epoch,
                amount_nanos=amount_nanos,
                owners=owners,
            ),
            expected,
            before=0,
        )

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        name = lease_id.hex()
        lease = self.model.leases.get(name)

        def expected() -> int:
            if lease is None:
                return -1
            node_id, epoch = self._node_of[name]
            is_current = self._epochs[node_id] == epoch
            if lease.granted == from_nanos and not is_current and not (lease.is_orphaned or lease.is_draining):
                return from_nanos
            return self.model.grant(name, lease.wallet, lease.budgets, 0, from_total=from_nanos, to_total=to_nanos)

        return await self._granted(
            lambda: self._real.extend(lease_id=lease_id, from_nanos=from_nanos, to_nanos=to_nanos),
            expected,
            before=from_nanos,
        )

    async def _granted(
        self, call: Callable[[], Awaitable[Nanos]], expected: Callable[[], int], *, before: int
    ) -> Nanos:
        wanted = expected()
        try:
            total = await call()
        except InsufficientFunds:
            need(wanted == before, "refused, and the model grants it")
            raise
        except NodeSuperseded:
            need(wanted == before, "superseded, and the model grants it")
            raise
        except LookupError:
            need(wanted == -1, "lost, and the model knows it")
            raise
        need(total == wanted, f"granted {total}, and the model {wanted}")
        return total

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        await self._real.settle_batch(batch)
        self.model.settle(
            Row(
                one.open.attempt_id.hex(),
                one.open.lease_id.hex(),
                one.close.charge_nanos,
                one.close.cogs_nanos,
                is_estimated=one.close.usage.is_estimated,
            )
            for one in batch
        )

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        beat = await self._real.report_holds(held_nanos, node_id=node_id, node_epoch=node_epoch)
        self._heartbeat_s[node_id] = self.now_s
        return beat

    async def wait_for_recall(self, timeout_s: float) -> None:
        raise AssertionError("nobody waits here: recalls are heard with the heartbeat")

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        await self._real.release(lease_id=lease_id, released_nanos=released_nanos, is_last=is_last)
        if lease_id.hex() in self.model.leases:
            self.model.release(lease_id.hex(), released_nanos, is_last=is_last)

    async def snapshot(self, org_id: bytes) -> Balance:
        return await self._real.snapshot(org_id)

    # Money in, and back.

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        credited = await self._real.topup(org_id=org_id, amount_nanos=amount_nanos, reference=reference)
        need(credited == self.model.topup(org_id.hex(), amount_nanos, reference), "a payment counts once")
        return credited

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        wanted = self.model.refund(attempt_id.hex(), refund_key, amount_nanos)
        try:
            given = await self._real.refund(attempt_id=attempt_id, refund_key=refund_key, amount_nanos=amount_nanos)
        except ValueError:
            given = False
        need(given == wanted, "refunded otherwise than the model")
        return given

    # Asynchronous executions.

    async def create_hold(
        self, *, hold_id: bytes, org_id: bytes, amount_nanos: Nanos, owners: Sequence[bytes] = ()
    ) -> bool:
        budgets = tuple(owner.hex() for owner in owners)
        wanted = self.model.hold(hold_id.hex(), org_id.hex(), budgets, amount_nanos, amount_nanos)
        try:
            await self._real.create_hold(hold_id=hold_id, org_id=org_id, amount_nanos=amount_nanos, owners=owners)
        except InsufficientFunds:
            need(not wanted, "a hold was refused, and the model has it")
        return wanted

    async def end_hold(self, *, hold_id: bytes, charge_nanos: Nanos) -> None:
        name = hold_id.hex()
        wanted = self.model.resolve(name, Row(name, "", charge_nanos, 0))
        try:
            ended = await self._real.end_hold(hold_id=hold_id, charge_nanos=charge_nanos)
        except ValueError:
            ended = False  # it ended otherwise before
        need(ended == wanted, "a hold ended otherwise than the model's")

    # Upkeep.

    async def sweep(self) -> int:
        for name, lease in list(self.model.open_leases.items()):
            node_id, epoch = self._node_of[name]
            silent_s = self.now_s - self._heartbeat_s[node_id]
            is_old = epoch < self._epochs[node_id] and self.now_s - self._registered_s[node_id] >= ORPHANED_AFTER_S
            if epoch < self._recovered_before.get(node_id, 0):
                self.model.return_rest(name)
            elif lease.is_orphaned:
                if self.now_s - lease.orphaned_at >= SUSPENSE_S:
                    self.model.return_rest(name)
            elif silent_s >= ORPHANED_AFTER_S or is_old:
                self.model.orphan(name, self.now_s)
        return await self._real.sweep()

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        if self._epochs[node_id] == node_epoch:
            self._recovered_before[node_id] = node_epoch
        await self.sweep()
        await self._real.finish_recovery(node_id=node_id, node_epoch=node_epoch)

    async def seal(self) -> int:
        return await self._real.seal()

    async def pass_time(self, by_s: int) -> None:
        """The database's clock goes on: its rows grow older."""
        self.now_s += by_s
        nodes = [UUID(bytes=node_id) for node_id in self._epochs]
        await self._owner.execute(_AGE, {"by_s": by_s, "nodes": nodes, "orgs": self._orgs})

    # What both hold.

    async def compare(self) -> None:
        """Wallets, leases, settlements and budgets of both; and the model's own rules."""
        self.model.check()
        rows: dict[str, dict[str, list[int]]] = {"wallet": {}, "lease": {}, "settlement": {}, "budget": {}}
        for table, row_id, amounts in await (await self._owner.execute(_BOOKS, {"orgs": self._orgs})).fetchall():
            rows[table][row_id.hex] = amounts
        model = self.model
        _same("wallets", rows["wallet"], {name: [one.available, one.suspense] for name, one in model.wallets.items()})
        leases = {name: [one.granted, one.settled, one.released, one.suspended] for name, one in model.leases.items()}
        _same("leases", rows["lease"], leases)
        settled = {
            name: [row.charge, row.house, row.cogs, row.refunded]
            for name, row in model.settlements.items()
            if name not in model.holds
        }
        _same("settlements", rows["settlement"], settled)
        used = {name: row for name, row in rows["budget"].items() if row != [0]}
        _same("budgets", used, {name: [one.used] for name, one in model.budgets.items() if one.used})


def _same(what: str, real: Mapping[str, list[int]], model: Mapping[str, list[int]]) -> None:
    differing = {
        name: (real.get(name), model.get(name)) for name in {*real, *model} if real.get(name) != model.get(name)
    }
    need(not differing, f"{what}: the books (first) and the model differ: {differing}")
