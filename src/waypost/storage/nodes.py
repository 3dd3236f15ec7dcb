"""The gateway nodes that the ledger knows: when each was last heard of, and what its leases hold."""

from __future__ import annotations

from datetime import datetime

import msgspec

from waypost.kit.money import Nanos
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.pool import Pool

LIST = """
SELECT node.id, node.epoch, heartbeat_at,
       retired_at IS NULL AND heartbeat_at > now() - make_interval(secs => %(orphaned_after_s)s), retired_at,
       count(lease.id) FILTER (WHERE node_epoch = node.epoch AND state IN ('ACTIVE', 'DRAINING')),
       coalesce(sum(room) FILTER (WHERE node_epoch = node.epoch), 0)::bigint,
       coalesce(sum(room) FILTER (WHERE node_epoch < node.epoch), 0)::bigint,
       coalesce(sum(suspended), 0)::bigint
  FROM node
  LEFT JOIN (SELECT *, granted - settled - released - suspended AS room FROM lease WHERE state <> 'CLOSED') AS lease
       ON lease.node_id = node.id
 GROUP BY node.id
 ORDER BY node.id
"""


class Node(msgspec.Struct, frozen=True):
    id: bytes
    epoch: int
    heartbeat_at: datetime
    is_alive: bool
    retired_at: datetime | None
    leases: int  # open ones of this epoch
    leased_nanos: Nanos  # unspent, in leases of this epoch
    left_behind_nanos: Nanos  # unspent, in leases of earlier epochs that are not in suspense yet
    suspended_nanos: Nanos  # of all epochs


async def list_nodes(pool: Pool) -> list[Node]:
    """Every node, oldest first. `pool` is the app's."""
    async with pool.system() as connection:
        rows = await (await connection.execute(LIST, {"orphaned_after_s": ORPHANED_AFTER_S})).fetchall()
    return [Node(row[0].bytes, *row[1:]) for row in rows]
