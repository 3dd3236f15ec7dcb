"""What is stranded comes back: leases of nodes that fell silent go to suspense, and from there to the wallet when the
node's journal was booked, when its operator declares it lost, or after a day.

Clocks decide only when: what a lost node spent is covered at every moment, because its rest is in suspense and not
available until its rows can have come.
"""

from __future__ import annotations

from uuid import UUID

from waypost.kit.ids import Ids
from waypost.ledger.account import AccountKind, TransferCode
from waypost.storage.general_ledger import posting
from waypost.storage.leases import LOCK_WALLET, release_lease
from waypost.storage.pool import Pool
from waypost.storage.unpresented import IS_UNPRESENTED

# A node that has not been heard of for so long is taken for lost: its leases are orphaned.
ORPHANED_AFTER_S = 60
# How long the rest of an orphaned lease waits for late rows. A node that reaches nobody stops before.
SUSPENSE_S = 24 * 3600
_SWEPT_MAX = 200  # leases at one time

# An earlier epoch's leases wait as long as a silent node's: its journal is being read. None is touched while nodes tell
# a promoted server what it lost: how long ago it heard of them says nothing.
CANDIDATES = f"""
SELECT lease.id, lease.org_id,
       CASE WHEN node_epoch < recovered_before THEN 'recovered'
            WHEN state = 'ORPHANED' THEN 'expired'
            ELSE 'lost' END,
       recovered_before
  FROM lease JOIN node ON node.id = lease.node_id
 WHERE state <> 'CLOSED' AND NOT {IS_UNPRESENTED}
   AND (node_epoch < recovered_before
        OR state = 'ORPHANED' AND orphaned_at < now() - make_interval(secs => %(suspense_s)s)
        OR state <> 'ORPHANED'
           AND (heartbeat_at < now() - make_interval(secs => %(orphaned_after_s)s)
                OR node_epoch < epoch AND registered_at < now() - make_interval(secs => %(orphaned_after_s)s)))
 ORDER BY lease.id
 LIMIT %(swept_max)s
"""  # noqa: S608 - put together from texts of ours, here and below

ORPHAN = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("(SELECT org_id FROM lease WHERE id = %(lease_id)s)")}),
known AS MATERIALIZED (
    SELECT lease.id, lease.org_id, granted - settled - released AS room
      FROM lease, locked, node
     WHERE lease.id = %(lease_id)s AND node.id = lease.node_id
       AND state IN ('ACTIVE', 'DRAINING')
       AND (heartbeat_at < now() - make_interval(secs => %(orphaned_after_s)s)
            OR node_epoch < epoch AND registered_at < now() - make_interval(secs => %(orphaned_after_s)s))
       FOR NO KEY UPDATE OF lease
),
moved AS (
    UPDATE lease
       SET state = 'ORPHANED', suspended = room, held_reported = 0, orphaned_at = now()
      FROM known
     WHERE lease.id = known.id
),
posted AS ({
    posting(
        TransferCode.ORPHAN,
        AccountKind.LEASE,
        AccountKind.SUSPENSE,
        transfer_id="%(transfer_id)s",
        ref="id",
        amount="room",
        source="known",
    )
})
UPDATE wallet SET suspense = suspense + room FROM known WHERE wallet.org_id = known.org_id
"""  # noqa: S608

RECOVERED = """
UPDATE node SET recovered_before = epoch
 WHERE id = %(node_id)s AND epoch = %(node_epoch)s AND recovered_before < epoch
"""

# A retired node's next epoch is already an old one: it is granted nothing more, should it still live.
RETIRE = """
UPDATE node
   SET epoch = epoch + 1, recovered_before = epoch + 1, retired_at = now()
 WHERE id = %(node_id)s AND heartbeat_at < now() - make_interval(secs => %(orphaned_after_s)s)
RETURNING epoch
"""

_TIMES: dict[str, object] = {
    "orphaned_after_s": ORPHANED_AFTER_S,
    "suspense_s": SUSPENSE_S,
    "swept_max": _SWEPT_MAX,
}


class NodeAlive(Exception):
    """A node that was heard of a moment ago cannot be declared lost."""


async def sweep_leases(pool: Pool, ids: Ids) -> int:
    """Move what is due, of every node; the number of leases moved. Any number of processes may do so at once.
    `pool` is the settling role's, here and below."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(CANDIDATES, _TIMES)).fetchall()
    for lease_id, _, why, recovered_before in rows:
        transfer_ids = UUID(bytes=ids.new()), UUID(bytes=ids.new())
        if why == "lost":
            parameters = {"lease_id": lease_id, "transfer_id": transfer_ids[0], **_TIMES}
            async with pool.connection() as connection:
                await connection.execute(ORPHAN, parameters)
            continue
        is_recovered = why == "recovered"
        await release_lease(
            pool,
            lease_id=lease_id,
            transfer_ids=transfer_ids,
            released=None,
            is_last=True,
            node_epoch_below=recovered_before if is_recovered else None,
            orphaned_for_s=None if is_recovered else SUSPENSE_S,
        )
    return len(rows)


async def finish_recovery(pool: Pool, ids: Ids, *, node_id: bytes, node_epoch: int) -> None:
    """Everything that earlier epochs of the node wrote down is booked: what is left of their leases comes back."""
    async with pool.connection() as connection:
        await connection.execute(RECOVERED, {"node_id": UUID(bytes=node_id), "node_epoch": node_epoch})
    while await sweep_leases(pool, ids) == _SWEPT_MAX:
        pass


async def retire_node(pool: Pool, ids: Ids, node_id: bytes) -> None:
    """Its journal is lost, so no row of it will come: what is left of its leases comes back. Raises LookupError for an
    unknown node, NodeAlive for one that lives."""
    async with pool.connection() as connection:
        parameters = {"node_id": UUID(bytes=node_id), **_TIMES}
        if not (await connection.execute(RETIRE, parameters)).rowcount:
            known = await connection.execute("SELECT FROM node WHERE id = %(node_id)s", parameters)
            raise NodeAlive if known.rowcount else LookupError("no such node")
    while await sweep_leases(pool, ids) == _SWEPT_MAX:
        pass
