"""An organisation's balance, and what is left of a key's own budget."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from waypost.kit.money import Nanos
from waypost.ledger.record import Balance
from waypost.storage.leases import WINDOW_ENDS, WINDOW_STARTS
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.pool import Pool

# What a node that fell silent has left is no longer available, whether or not its leases were swept already.
SNAPSHOT = """
SELECT wallet.available,
       coalesce(sum(room) FILTER (WHERE is_live), 0)::bigint,
       coalesce(sum(least(held_reported, room)) FILTER (WHERE is_live), 0)::bigint,
       (SELECT coalesce(sum(amount), 0)::bigint FROM long_hold
         WHERE org_id = %(org_id)s AND long_hold.state = 'HELD'),
       wallet.suspense + coalesce(sum(room) FILTER (WHERE NOT is_live), 0)::bigint
  FROM wallet
  LEFT JOIN (
       SELECT lease.org_id, granted - settled - released - suspended AS room, held_reported,
              node.epoch = node_epoch AND heartbeat_at > now() - make_interval(secs => %(orphaned_after_s)s) AS is_live
         FROM lease JOIN node ON node.id = lease.node_id
        WHERE lease.org_id = %(org_id)s AND state <> 'CLOSED'
       ) AS lease USING (org_id)
 WHERE wallet.org_id = %(org_id)s
 GROUP BY wallet.available, wallet.suspense
"""

OWN_BUDGET = f"""
SELECT period, amount, coalesce(taken, 0), {WINDOW_ENDS}
  FROM (SELECT *, {WINDOW_STARTS} AS starts_at FROM budget WHERE owner_id = %(owner_id)s) AS budget
  LEFT JOIN budget_window USING (owner_id, period, starts_at)
"""  # noqa: S608 - put together from texts of ours


class BudgetState(msgspec.Struct, frozen=True):
    """A budget in its present window."""

    period: str
    amount_nanos: Nanos
    taken_nanos: Nanos  # spent, or set aside for requests
    renews_at: datetime | None


async def read_balance(connection: AsyncConnection, org_id: bytes) -> Balance:
    """Raises LookupError for an organisation that the connection does not see."""
    parameters = {"org_id": UUID(bytes=org_id), "orphaned_after_s": ORPHANED_AFTER_S}
    row = await (await connection.execute(SNAPSHOT, parameters)).fetchone()
    if row is None:
        raise LookupError("no wallet")
    available, live_room, held, long_held, suspense = row
    return Balance(available + live_room - held, held + long_held, suspense)


async def balance_of(pool: Pool, org_id: bytes) -> Balance:
    """As its organisation sees it. `pool` is the app's, here and below."""
    async with pool.tenant(org_id) as connection:
        return await read_balance(connection, org_id)


async def budgets_of(pool: Pool, org_id: bytes, owner_id: bytes) -> list[BudgetState]:
    """The budgets of one owner."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(OWN_BUDGET, {"owner_id": UUID(bytes=owner_id)})).fetchall()
    return [BudgetState(*row) for row in rows]
