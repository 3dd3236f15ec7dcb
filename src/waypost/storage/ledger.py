"""The books in PostgreSQL. Every money decision is one statement: a conditional UPDATE whose row lock orders those who
compete, or an insert that a second one of the same id leaves alone. Locks are taken wallet first, then lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from waypost.kit.money import Nanos
from waypost.ledger.record import Balance, ClosedAttempt, InsufficientFunds, LedgerUnavailable, NodeSuperseded
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.settlement import settle

# A node that has not been heard of for so long is taken for lost; its leases stay locked.
ORPHANED_AFTER_S = 60

REGISTER = """
INSERT INTO node (id, epoch) VALUES (%(node_id)s, 1)
    ON CONFLICT (id) DO UPDATE SET epoch = node.epoch + 1, heartbeat_at = now()
RETURNING epoch
"""

# A repeat finds `earlier`. Two at once: the second waits for the wallet's row and then breaks the lease's key.
GRANT = """
WITH paid AS (
    UPDATE wallet
       SET available = available - %(amount)s
     WHERE org_id = %(org_id)s
       AND available >= %(amount)s
       AND EXISTS (SELECT FROM node WHERE id = %(node_id)s AND epoch = %(node_epoch)s)
       AND NOT EXISTS (SELECT FROM lease WHERE id = %(lease_id)s)
    RETURNING org_id
),
granted AS (
    INSERT INTO lease (id, org_id, node_id, node_epoch, granted)
    SELECT %(lease_id)s, org_id, %(node_id)s, %(node_epoch)s, %(amount)s FROM paid
    RETURNING granted
)
SELECT (SELECT granted FROM granted),
       (SELECT granted FROM lease WHERE id = %(lease_id)s AND org_id = %(org_id)s) AS earlier,
       (SELECT available FROM wallet WHERE org_id = %(org_id)s),
       (SELECT epoch FROM node WHERE id = %(node_id)s)
"""

EXTEND = """
WITH locked AS MATERIALIZED (
    SELECT org_id, available
      FROM wallet
     WHERE org_id = (SELECT org_id FROM lease WHERE id = %(lease_id)s)
       FOR NO KEY UPDATE
),
raised AS (
    UPDATE lease
       SET granted = %(to)s
      FROM locked, node
     WHERE lease.id = %(lease_id)s
       AND lease.granted = %(from)s
       AND NOT lease.is_closed
       AND node.id = lease.node_id AND node.epoch = lease.node_epoch
       AND locked.available >= %(to)s - %(from)s
    RETURNING lease.org_id, lease.granted
),
paid AS (
    UPDATE wallet SET available = available - (%(to)s - %(from)s)
     WHERE org_id = (SELECT org_id FROM raised)
)
SELECT (SELECT granted FROM raised), lease.granted, lease.is_closed, locked.available, node.epoch = lease.node_epoch
  FROM lease, locked, node
 WHERE lease.id = %(lease_id)s AND node.id = lease.node_id
"""

REPORT_HOLDS = """
WITH alive AS (
    UPDATE node SET heartbeat_at = now() WHERE id = %(node_id)s AND epoch = %(node_epoch)s RETURNING id, epoch
)
UPDATE lease
   SET held_reported = report.held
  FROM alive, unnest(%(lease_ids)s::uuid[], %(held)s::bigint[]) AS report (lease_id, held)
 WHERE lease.id = report.lease_id
   AND lease.node_id = alive.id AND lease.node_epoch = alive.epoch
   AND lease.held_reported <> report.held
"""

# `released` is a total, so a repeat adds nothing. It is never more than is left: what was settled stays settled. A rest
# that a node does not return stays in the lease, for attempts that come late.
CLOSE = """
WITH locked AS MATERIALIZED (
    SELECT org_id FROM wallet WHERE org_id = (SELECT org_id FROM lease WHERE id = %(lease_id)s) FOR NO KEY UPDATE
),
rest AS MATERIALIZED (
    SELECT lease.id, lease.org_id, released AS before, greatest(released, least(%(released)s, granted - settled)) AS now
      FROM lease, locked
     WHERE lease.id = %(lease_id)s AND NOT lease.is_closed
       FOR NO KEY UPDATE OF lease
),
closed AS (
    UPDATE lease SET released = rest.now, held_reported = 0, is_closed = settled + rest.now = granted
      FROM rest
     WHERE lease.id = rest.id
)
UPDATE wallet SET available = available + rest.now - rest.before FROM rest WHERE wallet.org_id = rest.org_id
"""

TOPUP = """
WITH credited AS (
    INSERT INTO topup (reference, org_id, amount)
    SELECT %(reference)s, org_id, %(amount)s FROM wallet WHERE org_id = %(org_id)s
        ON CONFLICT (reference) DO NOTHING
    RETURNING org_id, amount
),
paid AS (
    UPDATE wallet SET available = available + credited.amount FROM credited WHERE wallet.org_id = credited.org_id
    RETURNING wallet.org_id
)
SELECT (SELECT count(*) FROM paid), (SELECT count(*) FROM wallet WHERE org_id = %(org_id)s)
"""

EARLIER_TOPUP = "SELECT org_id, amount FROM topup WHERE reference = %(reference)s"

# `refunded <= charge` is a CHECK of the settlement, so two refunds at once cannot exceed the charge together.
REFUND = """
WITH given AS (
    INSERT INTO refund (attempt_id, refund_key, org_id, amount)
    SELECT attempt_id, %(refund_key)s, org_id, %(amount)s
      FROM settlement
     WHERE attempt_id = %(attempt_id)s AND refunded + %(amount)s <= charge
        ON CONFLICT (attempt_id, refund_key) DO NOTHING
    RETURNING attempt_id, org_id, amount
),
marked AS (
    UPDATE settlement SET refunded = refunded + given.amount FROM given WHERE settlement.attempt_id = given.attempt_id
    RETURNING settlement.org_id
)
UPDATE wallet SET available = available + %(amount)s FROM marked WHERE wallet.org_id = marked.org_id
"""

EARLIER_REFUND = "SELECT amount FROM refund WHERE attempt_id = %(attempt_id)s AND refund_key = %(refund_key)s"

SNAPSHOT = """
SELECT wallet.available,
       coalesce(sum(room) FILTER (WHERE is_live), 0)::bigint,
       coalesce(sum(least(held_reported, room)) FILTER (WHERE is_live), 0)::bigint,
       coalesce(sum(room) FILTER (WHERE NOT is_live), 0)::bigint
  FROM wallet
  LEFT JOIN (
       SELECT lease.org_id, granted - settled - released AS room, held_reported,
              node.epoch = node_epoch AND heartbeat_at > now() - make_interval(secs => %(orphaned_after_s)s) AS is_live
         FROM lease JOIN node ON node.id = lease.node_id
        WHERE lease.org_id = %(org_id)s AND NOT is_closed
       ) AS lease USING (org_id)
 WHERE wallet.org_id = %(org_id)s
 GROUP BY wallet.available
"""


class PostgresLedger:
    """`gateway.ports.Ledger` on PostgreSQL. For one event loop."""

    def __init__(self, conninfo: str, *, connections_max: int = 8) -> None:
        self._pool = Pool(conninfo, Role.SETTLE, size=connections_max)

    async def register_node(self, node_id: bytes) -> int:
        row = await self._one(REGISTER, node_id=UUID(bytes=node_id))
        epoch: int = row[0]
        return epoch

    async def grant(
        self, *, lease_id: bytes, org_id: bytes, node_id: bytes, node_epoch: int, amount_nanos: Nanos
    ) -> Nanos:
        parameters = {
            "lease_id": UUID(bytes=lease_id),
            "org_id": UUID(bytes=org_id),
            "node_id": UUID(bytes=node_id),
            "node_epoch": node_epoch,
            "amount": amount_nanos,
        }
        try:
            granted, earlier, available, epoch = await self._one(GRANT, **parameters)
        except psycopg.errors.UniqueViolation:
            granted, earlier, available, epoch = await self._one(GRANT, **parameters)
        result: Nanos | None = granted if granted is not None else earlier
        if result is not None:
            return result
        if available is None:
            raise LookupError("no wallet")
        if epoch != node_epoch:
            raise NodeSuperseded
        # A rival took it between this statement's view and its lock: say less than was asked for.
        raise InsufficientFunds(min(available, amount_nanos - 1))

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        assert from_nanos < to_nanos
        parameters = {"lease_id": UUID(bytes=lease_id), "from": from_nanos, "to": to_nanos}
        async with self._pool.connection() as connection:
            row = await (await connection.execute(EXTEND, parameters)).fetchone()
        if row is None:
            raise LookupError("no lease")
        raised, total, is_closed, available, is_current = row
        if raised is not None:
            return to_nanos
        if is_closed:
            raise LookupError("the lease is closed")
        if total != from_nanos:
            result: Nanos = total
            return result
        if not is_current:
            raise NodeSuperseded
        raise InsufficientFunds(min(available, to_nanos - from_nanos - 1))

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        if not batch:
            return
        try:
            async with self._pool.connection() as connection:
                await settle(connection, batch)
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except psycopg.Error:
            # Not these rows' fault: a right, a table or a function is missing, and others would fare no better.
            raise LedgerUnavailable from None

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> None:
        await self._run(
            REPORT_HOLDS,
            node_id=UUID(bytes=node_id),
            node_epoch=node_epoch,
            lease_ids=[UUID(bytes=lease_id) for lease_id in held_nanos],
            held=list(held_nanos.values()),
        )

    async def close(self, *, lease_id: bytes, released_nanos: Nanos) -> None:
        await self._run(CLOSE, lease_id=UUID(bytes=lease_id), released=released_nanos)

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        parameters = {"org_id": UUID(bytes=org_id), "amount": amount_nanos, "reference": reference}
        try:
            credited, wallets = await self._one(TOPUP, **parameters)
        except psycopg.errors.CheckViolation:
            raise ValueError("an amount is more than zero, and a balance at most 4000000000 USD") from None
        if credited:
            return True
        if not wallets:
            raise LookupError("no wallet")
        if await self._one(EARLIER_TOPUP, **parameters) != (parameters["org_id"], amount_nanos):
            raise ValueError("this reference was credited with another amount or to another organisation")
        return False

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        parameters = {"attempt_id": UUID(bytes=attempt_id), "refund_key": refund_key, "amount": amount_nanos}
        async with self._pool.connection() as connection:
            try:
                if (await connection.execute(REFUND, parameters)).rowcount:
                    return True
            except psycopg.errors.CheckViolation:
                raise ValueError("more than is left of the charge") from None
            earlier = await (await connection.execute(EARLIER_REFUND, parameters)).fetchone()
        if earlier != (amount_nanos,):
            raise ValueError("more than is left of the charge, or this key refunded another amount")
        return False

    async def snapshot(self, org_id: bytes) -> Balance:
        async with self._pool.connection() as connection:
            parameters = {"org_id": UUID(bytes=org_id), "orphaned_after_s": ORPHANED_AFTER_S}
            row = await (await connection.execute(SNAPSHOT, parameters)).fetchone()
        if row is None:
            raise LookupError("no wallet")
        available, live_room, held, lost_room = row
        return Balance(available + live_room - held, held, lost_room)

    async def close_connections(self) -> None:
        await self._pool.close()

    async def _run(self, statement: str, **parameters: object) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(statement, parameters)

    async def _one(self, statement: str, **parameters: object) -> TupleRow:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(statement, parameters)).fetchone()
        assert row is not None
        return row
