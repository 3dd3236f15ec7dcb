"""A standby was promoted that had not received every commit: nothing is granted until the nodes have told what they
know, so that no money is handed out a second time.

    ledger_timeline.timeline   where the books were last found whole
    current_timeline()         where the server writes now: each promotion begins another
    node.timeline              where a node has presented all of its leases, and booked again what it had booked

While the first two differ, every statement that takes money out of a wallet refuses. They are made equal when every
node that lived has presented itself, or when those that have not count as lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from waypost.kit.money import Nanos
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.record import LedgerPromoted, NodeSuperseded, ServerTerm
from waypost.storage.general_ledger import posting
from waypost.storage.leases import CURRENT_WINDOWS, DRAWN_WINDOWS, LOCK_WALLET, OPEN_WINDOWS, take_from_windows
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.pool import Pool
from waypost.storage.unpresented import IS_UNPRESENTED, is_unpresented

# A node that the promoted server does not know yet, because it began a moment before, has so long to say that it lives.
GRACE_S = 5

# Before any heartbeat is written there: who lived is told by what the server knew when it was promoted.
NOTE = """
UPDATE ledger_timeline
   SET moved_to = current_timeline(), moved_at = now(), heard_at = (SELECT max(heartbeat_at) FROM node)
 WHERE timeline IS DISTINCT FROM current_timeline() AND moved_to IS DISTINCT FROM current_timeline()
"""

# The promoted server may know an earlier epoch of the node, or nothing of it.
BEGIN = """
INSERT INTO node (id, epoch) VALUES (%(node_id)s, %(node_epoch)s)
    ON CONFLICT (id) DO UPDATE
   SET epoch = greatest(node.epoch, excluded.epoch), timeline = NULL, heartbeat_at = now()
RETURNING epoch, current_timeline(), (SELECT moved_at FROM ledger_timeline)
"""

FINISH = """
UPDATE node SET timeline = current_timeline(), heartbeat_at = now()
 WHERE id = %(node_id)s AND epoch = %(node_epoch)s AND current_timeline() IS NOT DISTINCT FROM %(timeline)s
   AND (SELECT moved_at FROM ledger_timeline) IS NOT DISTINCT FROM %(noticed_at)s
"""

ACKNOWLEDGE = """
UPDATE ledger_timeline
   SET timeline = moved_to
 WHERE timeline IS DISTINCT FROM current_timeline() AND moved_to IS NOT DISTINCT FROM current_timeline()
   AND (moved_at < now() - make_interval(secs => %(barrier_s)s)
        OR moved_at < now() - make_interval(secs => %(grace_s)s)
           AND NOT EXISTS (SELECT FROM node
                            WHERE retired_at IS NULL AND node.timeline IS DISTINCT FROM current_timeline()
                              AND heartbeat_at > heard_at - make_interval(secs => %(barrier_s)s)))
"""


def _granted_again(*, ref: str, source: str) -> str:
    """The transfer of what a presented lease takes out of its wallet once more."""
    return posting(
        TransferCode.GRANT,
        AccountKind.WALLET,
        AccountKind.LEASE,
        transfer_id="%(transfer_id)s",
        ref=ref,
        amount="more",
        source=source,
    )


# What the node has of a lease beyond what is known here comes out of the wallet once more. Is there less, because a
# credit was lost too, then the lease counts as having given the difference back. One that is closed takes nothing: its
# last return was booked and nobody heard of it, so all that was not charged to it counts as given back.
PRESENT_KNOWN = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
chain AS MATERIALIZED ({DRAWN_WINDOWS}),
known AS MATERIALIZED (
    SELECT lease.id, lease.org_id, granted, settled, granted - released AS kept,
           greatest(granted, %(granted)s) AS total, state <> 'CLOSED' AS is_open,
           CASE WHEN state = 'CLOSED' THEN 0
                ELSE least(available, greatest(0, %(granted)s - %(released)s - (granted - released))) END AS more
      FROM lease JOIN locked USING (org_id)
     WHERE lease.id = %(draw_id)s
       FOR NO KEY UPDATE OF lease
),
raised AS (
    UPDATE lease SET granted = total, released = total - kept - more FROM known WHERE lease.id = known.id AND is_open
    RETURNING released
),
paid AS (UPDATE wallet SET available = available - more FROM known WHERE wallet.org_id = known.org_id),
taken AS ({take_from_windows("more", "known")}),
posted AS ({_granted_again(ref="id", source="known")})
SELECT released FROM raised UNION ALL SELECT %(granted)s - settled FROM known WHERE NOT is_open
"""  # noqa: S608 - put together from texts of ours

# A lease of which nothing is left here. Its budgets' windows are those of now.
PRESENT_LOST = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
chain AS MATERIALIZED ({CURRENT_WINDOWS}),
lost AS MATERIALIZED (SELECT org_id, least(available, %(granted)s - %(released)s) AS more FROM locked),
made AS (
    INSERT INTO lease (id, org_id, node_id, node_epoch, granted, released)
    SELECT %(draw_id)s, org_id, %(node_id)s, %(node_epoch)s, %(granted)s, %(granted)s - more FROM lost
    RETURNING released
),
paid AS (UPDATE wallet SET available = available - more FROM lost WHERE wallet.org_id = lost.org_id),
taken AS ({take_from_windows("more", "lost")}),
drawn AS (
    INSERT INTO budget_draw (draw_id, owner_id, period, starts_at, org_id)
    SELECT %(draw_id)s, owner_id, period, starts_at, chain.org_id FROM chain, lost
),
posted AS ({_granted_again(ref="%(draw_id)s", source="lost")})
SELECT released FROM made
"""  # noqa: S608

OPEN_LEASES = "SELECT id FROM lease WHERE node_id = %(node_id)s AND node_epoch = %(node_epoch)s AND state <> 'CLOSED'"

STANDING = """
SELECT current_timeline(), (SELECT moved_at FROM ledger_timeline), node.timeline IS DISTINCT FROM current_timeline()
  FROM node
 WHERE id = %(node_id)s
"""

STATE = f"SELECT timeline, current_timeline(), moved_at, {IS_UNPRESENTED} FROM ledger_timeline"  # noqa: S608


class LedgerState(msgspec.Struct, frozen=True):
    """Whether money leaves wallets, and if not since when."""

    timeline: int | None
    server_timeline: int | None
    moved_at: datetime | None
    is_unpresented: bool


async def standing(pool: Pool, node_id: bytes) -> tuple[ServerTerm, bool]:
    """The server's term, and whether the node has yet to present itself there. Raises LookupError."""
    async with pool.connection() as connection:
        row = await (await connection.execute(STANDING, {"node_id": UUID(bytes=node_id)})).fetchone()
    if row is None:
        raise LookupError("no such node")
    return ServerTerm(row[0], row[1]), bool(row[2])


async def begin(pool: Pool, *, node_id: bytes, node_epoch: int) -> ServerTerm:
    """The node is at it; the term of the server that it presents itself to. Raises NodeSuperseded. `pool` is the
    settling role's."""
    async with pool.connection() as connection:
        await connection.execute(NOTE)
        parameters = {"node_id": UUID(bytes=node_id), "node_epoch": node_epoch}
        row = await (await connection.execute(BEGIN, parameters)).fetchone()
    assert row is not None
    if row[0] != node_epoch:
        raise NodeSuperseded
    return ServerTerm(row[1], row[2])


async def present(pool: Pool, parameters: dict[str, object]) -> Nanos:
    """See `gateway.ports.Presentable.present`. `parameters` are those of the statements."""
    async with pool.connection() as connection, connection.transaction():
        row = await (await connection.execute(PRESENT_KNOWN, parameters)).fetchone()
        if row is None:
            if parameters["owners"]:
                await connection.execute(OPEN_WINDOWS, parameters)
            row = await (await connection.execute(PRESENT_LOST, parameters)).fetchone()
    if row is None:
        raise LookupError("no wallet")
    released: Nanos = row[0]
    return released


async def open_leases(pool: Pool, *, node_id: bytes, node_epoch: int) -> Sequence[bytes]:
    """Those of the node's epoch that are not closed."""
    async with pool.connection() as connection:
        parameters = {"node_id": UUID(bytes=node_id), "node_epoch": node_epoch}
        rows = await (await connection.execute(OPEN_LEASES, parameters)).fetchall()
    return [row[0].bytes for row in rows]


async def finish(pool: Pool, *, node_id: bytes, node_epoch: int, term: ServerTerm) -> None:
    """Everything is presented. Raises LedgerPromoted when the server is another again: then all of it once more."""
    parameters: dict[str, object] = {"node_id": UUID(bytes=node_id), "node_epoch": node_epoch}
    parameters |= {"timeline": term.timeline, "noticed_at": term.noticed_at}
    async with pool.connection() as connection:
        if not (await connection.execute(FINISH, parameters)).rowcount:
            raise LedgerPromoted


async def resume(pool: Pool) -> bool:
    """Grant again, if it is time; whether money leaves wallets. Any number of processes may ask."""
    async with pool.connection() as connection:
        if not await is_unpresented(connection):
            return True
        await connection.execute(NOTE)
        await connection.execute(ACKNOWLEDGE, {"barrier_s": ORPHANED_AFTER_S, "grace_s": GRACE_S})
        return not await is_unpresented(connection)


async def ledger_state(pool: Pool) -> LedgerState:
    """For `waypost doctor`."""
    async with pool.connection() as connection:
        row = await (await connection.execute(STATE)).fetchone()
    assert row is not None
    return LedgerState(*row)
