"""The books in PostgreSQL. Every money decision is one statement: a conditional UPDATE whose row lock orders those who
compete, or an insert that a second one of the same id leaves alone. Locks are taken wallet first, then lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from waypost.kit.ids import Ids
from waypost.kit.money import Nanos
from waypost.ledger.record import Balance, ClosedAttempt, Heartbeat, LedgerUnavailable, NodeSuperseded, ServerTerm
from waypost.storage import promotion
from waypost.storage.announcements import Announcements
from waypost.storage.balances import read_balance
from waypost.storage.funding import charge_back, credit, refund_charge
from waypost.storage.general_ledger import seal_transfers
from waypost.storage.leases import RECALL_CHANNEL, extend_lease, grant_lease, release_lease
from waypost.storage.ledger_check import check_quickly
from waypost.storage.long_holds import create_hold, create_hold_in_time, end_hold
from waypost.storage.orphans import finish_recovery, retire_node, sweep_leases
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.settlement import Standing, settle
from waypost.storage.unpresented import IS_UNPRESENTED

# A node's row is written at most so often; its leases' holds whenever they changed.
_HEARTBEAT_S = 4
# A node counts as one that shares the wallets for so long after its heartbeat.
_SHARES_S = 15

# A new one has nothing to present, but for what a promoted server has forgotten.
REGISTER = f"""
INSERT INTO node (id, epoch, timeline)
VALUES (%(node_id)s, 1, CASE WHEN NOT {IS_UNPRESENTED} THEN current_timeline() END)
    ON CONFLICT (id) DO UPDATE
   SET epoch = node.epoch + 1, heartbeat_at = now(), registered_at = now(), retired_at = NULL
RETURNING epoch
"""  # noqa: S608 - put together from texts of ours

REPORT_HOLDS = """
WITH self AS MATERIALIZED (
    SELECT id, epoch, heartbeat_at, timeline IS DISTINCT FROM current_timeline() AS is_promoted
      FROM node WHERE id = %(node_id)s
),
alive AS (
    UPDATE node
       SET heartbeat_at = now()
      FROM self
     WHERE node.id = self.id AND self.epoch = %(node_epoch)s AND NOT self.is_promoted
       AND self.heartbeat_at < now() - make_interval(secs => %(heartbeat_s)s)
),
report AS MATERIALIZED (SELECT * FROM unnest(%(lease_ids)s::uuid[], %(held)s::bigint[]) AS report (lease_id, held)),
reported AS (
    UPDATE lease
       SET held_reported = report.held
      FROM self, report
     WHERE lease.id = report.lease_id
       AND lease.node_id = self.id AND lease.node_epoch = self.epoch AND self.epoch = %(node_epoch)s
       AND lease.state IN ('ACTIVE', 'DRAINING')
       AND lease.held_reported <> report.held
)
SELECT self.epoch,
       (SELECT count(*) FROM node
         WHERE id = self.id OR heartbeat_at > now() - make_interval(secs => %(shares_s)s)),
       array(SELECT id FROM lease
              WHERE node_id = self.id AND node_epoch = %(node_epoch)s AND state = 'ACTIVE' AND is_recalled),
       array(SELECT lease_id FROM report LEFT JOIN lease ON lease.id = report.lease_id
              WHERE state IS NULL OR state IN ('ORPHANED', 'CLOSED')),
       self.is_promoted
  FROM self
"""


class PostgresLedger:
    """`gateway.ports.Ledger` and `Upkeep` on PostgreSQL. For one event loop."""

    def __init__(self, conninfo: str, *, connections_max: int = 8) -> None:
        self._pool = Pool(conninfo, Role.SETTLE, size=connections_max)
        self._ids = Ids()
        self._recalls = Announcements(conninfo, Role.SETTLE, RECALL_CHANNEL)
        self._standing: Standing | None = None

    async def register_node(self, node_id: bytes) -> int:
        async with self._pool.connection() as connection:
            await connection.execute(promotion.NOTE)  # before a heartbeat is written
            row = await (await connection.execute(REGISTER, {"node_id": UUID(bytes=node_id)})).fetchone()
        assert row is not None
        epoch: int = row[0]
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
        parameters: dict[str, object] = {
            "lease_id": UUID(bytes=lease_id),
            "org_id": UUID(bytes=org_id),
            "node_id": UUID(bytes=node_id),
            "node_epoch": node_epoch,
            "amount": amount_nanos,
            "owners": [UUID(bytes=owner) for owner in owners],
            "transfer_id": self._new_id(),
        }
        return await grant_lease(self._pool, parameters, amount_nanos)

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        assert from_nanos < to_nanos
        parameters: dict[str, object] = {
            "draw_id": UUID(bytes=lease_id),
            "from": from_nanos,
            "to": to_nanos,
            "transfer_id": self._new_id(),
        }
        return await extend_lease(self._pool, parameters, from_nanos=from_nanos, to_nanos=to_nanos)

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        if not batch:
            return
        try:
            async with self._pool.connection() as connection:
                await settle(connection, batch, self._ids, self._standing)
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except psycopg.Error:
            # Not these rows' fault: a right, a table or a function is missing, and others would fare no better.
            raise LedgerUnavailable from None

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        parameters = {
            "node_id": UUID(bytes=node_id),
            "node_epoch": node_epoch,
            "lease_ids": [UUID(bytes=lease_id) for lease_id in held_nanos],
            "held": list(held_nanos.values()),
            "heartbeat_s": _HEARTBEAT_S,
            "shares_s": _SHARES_S,
        }
        async with self._pool.connection() as connection:
            row = await (await connection.execute(REPORT_HOLDS, parameters)).fetchone()
        if row is None or row[0] < node_epoch:
            return Heartbeat(1, frozenset(), frozenset(), is_promoted=True)  # it registered in what is lost
        epoch, nodes, recalled, lost, is_promoted = row
        if epoch != node_epoch:
            raise NodeSuperseded
        recalled_ids, lost_ids = (frozenset(one.bytes for one in ids) for ids in (recalled, lost))
        return Heartbeat(nodes, recalled_ids, lost_ids, is_promoted=is_promoted)

    async def wait_for_recall(self, timeout_s: float) -> None:
        try:
            await self._recalls.wait(timeout_s)
        except psycopg.Error:
            await self._recalls.close()
            await asyncio.sleep(timeout_s)  # the heartbeat tells it too

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        await release_lease(
            self._pool,
            lease_id=UUID(bytes=lease_id),
            transfer_ids=(self._new_id(), self._new_id()),
            released=released_nanos,
            is_last=is_last,
        )

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        await finish_recovery(self._pool, self._ids, node_id=node_id, node_epoch=node_epoch)

    async def sweep(self) -> int:
        await promotion.resume(self._pool)
        return await sweep_leases(self._pool, self._ids)

    async def seal(self) -> int:
        return await seal_transfers(self._pool)

    async def check(self) -> tuple[str, ...]:
        return await check_quickly(self._pool)

    async def retire_node(self, node_id: bytes) -> None:
        """Declare a node's journal lost. Raises LookupError, storage.orphans.NodeAlive."""
        await retire_node(self._pool, self._ids, node_id)

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str, is_promo: bool = False) -> bool:
        return await credit(
            self._pool,
            (self._new_id(), self._new_id()),
            org_id=org_id,
            amount_nanos=amount_nanos,
            reference=reference,
            is_promo=is_promo,
        )

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        return await refund_charge(
            self._pool, self._new_id(), attempt_id=attempt_id, refund_key=refund_key, amount_nanos=amount_nanos
        )

    async def charge_back(self, *, topup_reference: str, reference: str, amount_nanos: Nanos) -> bool:
        """A payment was taken back by whoever paid it. Raises LookupError, ValueError; see storage.funding."""
        return await charge_back(
            self._pool,
            (self._new_id(), self._new_id()),
            topup_reference=topup_reference,
            reference=reference,
            amount_nanos=amount_nanos,
        )

    async def create_hold(
        self,
        *,
        hold_id: bytes,
        org_id: bytes,
        amount_nanos: Nanos,
        owners: Sequence[bytes] = (),
        is_patient: bool = False,
    ) -> Nanos:
        """Set money aside for an asynchronous execution; to who is patient, as soon as other leases have given back
        what they were asked for. Raises InsufficientFunds, LookupError."""
        create = create_hold_in_time if is_patient else create_hold
        return await create(
            self._pool, self._new_id(), hold_id=hold_id, org_id=org_id, amount_nanos=amount_nanos, owners=owners
        )

    async def end_hold(self, *, hold_id: bytes, charge_nanos: Nanos) -> bool:
        """Settle or, with 0, release it; False when it ended so before. Raises LookupError, ValueError."""
        return await end_hold(self._pool, (self._new_id(), self._new_id()), hold_id=hold_id, charge_nanos=charge_nanos)

    async def snapshot(self, org_id: bytes) -> Balance:
        async with self._pool.connection() as connection:
            return await read_balance(connection, org_id)

    # What a node tells a promoted server: `gateway.ports.Presentable`.

    async def stand_for(self, *, node_id: bytes, node_epoch: int) -> bool:
        term, has_to_present = await promotion.standing(self._pool, node_id)
        self._standing = Standing(UUID(bytes=node_id), node_epoch, term)
        return has_to_present

    async def has_to_present(self, node_id: bytes) -> bool:
        """Whether a standby was promoted since this node presented itself. Raises LookupError."""
        return (await promotion.standing(self._pool, node_id))[1]

    async def begin_presenting(self, *, node_id: bytes, node_epoch: int) -> ServerTerm:
        return await promotion.begin(self._pool, node_id=node_id, node_epoch=node_epoch)

    async def present(
        self,
        *,
        lease_id: bytes,
        org_id: bytes,
        node_id: bytes,
        node_epoch: int,
        granted_nanos: Nanos,
        released_nanos: Nanos,
        owners: Sequence[bytes] = (),
    ) -> Nanos:
        await self.release(lease_id=lease_id, released_nanos=released_nanos, is_last=False)
        parameters: dict[str, object] = {
            "draw_id": UUID(bytes=lease_id),
            "org_id": UUID(bytes=org_id),
            "node_id": UUID(bytes=node_id),
            "node_epoch": node_epoch,
            "granted": granted_nanos,
            "released": released_nanos,
            "owners": [UUID(bytes=owner) for owner in owners],
            "transfer_id": self._new_id(),
        }
        return await promotion.present(self._pool, parameters)

    def may_book_late(self, *, node_id: bytes, node_epoch: int, term: ServerTerm) -> None:
        self._standing = Standing(UUID(bytes=node_id), node_epoch, term)

    async def open_leases(self, *, node_id: bytes, node_epoch: int) -> Sequence[bytes]:
        return await promotion.open_leases(self._pool, node_id=node_id, node_epoch=node_epoch)

    async def finish_presenting(self, *, node_id: bytes, node_epoch: int, term: ServerTerm) -> None:
        await promotion.finish(self._pool, node_id=node_id, node_epoch=node_epoch, term=term)

    async def resume_granting(self) -> bool:
        return await promotion.resume(self._pool)

    async def close_connections(self) -> None:
        await self._recalls.close()
        await self._pool.close()

    def _new_id(self) -> UUID:
        return UUID(bytes=self._ids.new())

    async def _one(self, statement: str, **parameters: object) -> TupleRow:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(statement, parameters)).fetchone()
        if row is None:
            raise LookupError("no such node")
        return row
