"""Deliveries as their organisation sees them: listed, shown, and sent again."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from waypost.storage.pool import Pool
from waypost.storage.webhook_deliveries import NOTIFY

REPLAY_MAX = 10_000

_COLUMNS = """
delivery.id, delivery.endpoint_id, delivery.event_id, delivery.event, delivery.execution_id, delivery.sequence,
delivery.state, delivery.attempts, delivery.due_at, delivery.expires_at, delivery.created_at, delivery.ended_at,
delivery.last_status, delivery.last_error, delivery.last_took_ms, delivery.reason
"""

LIST = f"""
SELECT {_COLUMNS} FROM webhook_delivery AS delivery
 WHERE org_id = %(org_id)s AND id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND (%(endpoint_id)s::uuid IS NULL OR endpoint_id = %(endpoint_id)s)
   AND (%(execution_id)s::uuid IS NULL OR execution_id = %(execution_id)s)
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(event)s::text IS NULL OR event = %(event)s)
 ORDER BY id DESC
 LIMIT %(limit)s
"""  # noqa: S608

FIND = f"SELECT {_COLUMNS} FROM webhook_delivery AS delivery WHERE org_id = %(org_id)s AND id = %(id)s"  # noqa: S608

# Anew, with the whole schedule before it.
_REVIVED = """state = 'PENDING', ended_at = NULL, reason = NULL, retries = 0, due_at = now(),
       expires_at = now() + make_interval(secs => %(expires_s)s)"""

REDELIVER = f"""
UPDATE webhook_delivery AS delivery SET {_REVIVED}
 WHERE org_id = %(org_id)s AND id = %(id)s AND delivery.state <> 'PENDING'
   AND (endpoint_id IS NULL
        OR EXISTS (SELECT FROM webhook_endpoint WHERE webhook_endpoint.id = endpoint_id AND state = 'ACTIVE'))
RETURNING {_COLUMNS}
"""  # noqa: S608

REPLAY = f"""
UPDATE webhook_delivery AS delivery SET {_REVIVED}
 WHERE id IN (SELECT id FROM webhook_delivery
               WHERE org_id = %(org_id)s AND lane = %(endpoint_id)s AND state = 'DEAD' AND event <> 'webhook.test'
                 AND created_at >= coalesce(%(since)s, '-infinity'::timestamptz)
               ORDER BY id LIMIT {REPLAY_MAX})
"""  # noqa: S608

IS_ACTIVE = "SELECT state = 'ACTIVE' FROM webhook_endpoint WHERE org_id = %(org_id)s AND id = %(endpoint_id)s"


class Delivery(msgspec.Struct, frozen=True):
    """A delivery as its organisation sees it."""

    id: bytes
    endpoint_id: bytes | None
    event_id: bytes
    event: str
    execution_id: bytes | None
    sequence: int
    state: str
    attempts: int
    due_at: datetime
    expires_at: datetime
    created_at: datetime
    ended_at: datetime | None
    last_status: int | None
    last_error: str | None
    last_took_ms: int | None
    reason: str | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries are listed; None is any."""

    endpoint_id: bytes | None = None
    execution_id: bytes | None = None
    state: str | None = None
    event: str | None = None


class Inactive(Exception):
    """The endpoint gets nothing now."""


class Deleted(Exception):
    """The endpoint is no more."""


async def list_deliveries(
    pool: Pool, org_id: bytes, wanted: Wanted, *, limit: int, before: bytes | None
) -> list[Delivery]:
    """The newest first, older than `before`."""
    parameters = {
        "org_id": UUID(bytes=org_id),
        "before": None if before is None else UUID(bytes=before),
        "endpoint_id": None if wanted.endpoint_id is None else UUID(bytes=wanted.endpoint_id),
        "execution_id": None if wanted.execution_id is None else UUID(bytes=wanted.execution_id),
        "state": wanted.state,
        "event": wanted.event,
        "limit": limit,
    }
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, parameters)).fetchall()
    return [_delivery(row) for row in rows]


async def find_delivery(pool: Pool, org_id: bytes, delivery_id: bytes) -> Delivery | None:
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND, _ids(org_id, delivery_id))).fetchone()
    return None if row is None else _delivery(row)


async def redeliver(pool: Pool, org_id: bytes, delivery_id: bytes, *, expires_s: float) -> Delivery:
    """Send an ended delivery again, a test too, with the same event id; one that is on its way stays as it is. A rest
    of its endpoint ends. Raises LookupError, and Inactive or Deleted when its endpoint gets nothing."""
    parameters = _ids(org_id, delivery_id) | {"expires_s": expires_s}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(REDELIVER, parameters)).fetchone()
        if row is not None:
            delivery = _delivery(row)
            await connection.execute(NOTIFY, {"lane": _lane_text(delivery.endpoint_id)})
            return delivery
        found = await (await connection.execute(FIND, parameters)).fetchone()
        if found is None:
            raise LookupError
        delivery = _delivery(found)
        if delivery.state == "PENDING":
            return delivery
        assert delivery.endpoint_id is not None, "what goes to a URL can always be sent again"
        named = {"org_id": UUID(bytes=org_id), "endpoint_id": UUID(bytes=delivery.endpoint_id)}
        there = await (await connection.execute(IS_ACTIVE, named)).fetchone()
    raise Deleted if there is None else Inactive


async def replay(pool: Pool, org_id: bytes, endpoint_id: bytes, *, since: datetime | None, expires_s: float) -> int:
    """Send the endpoint's dead letters again, the oldest first, REPLAY_MAX at most; how many. Raises LookupError, and
    Inactive."""
    parameters = {"org_id": UUID(bytes=org_id), "endpoint_id": UUID(bytes=endpoint_id)}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(IS_ACTIVE, parameters)).fetchone()
        if row is None:
            raise LookupError
        if not row[0]:
            raise Inactive
        revived = await connection.execute(REPLAY, parameters | {"since": since, "expires_s": expires_s})
        await connection.execute(NOTIFY, {"lane": endpoint_id.hex()})
        return revived.rowcount


def _lane_text(endpoint_id: bytes | None) -> str:
    return "" if endpoint_id is None else endpoint_id.hex()


def _ids(org_id: bytes, delivery_id: bytes) -> dict[str, object]:
    return {"org_id": UUID(bytes=org_id), "id": UUID(bytes=delivery_id)}


def _delivery(row: TupleRow) -> Delivery:
    endpoint_id, execution_id = (None if each is None else each.bytes for each in (row[1], row[4]))
    return Delivery(row[0].bytes, endpoint_id, row[2].bytes, row[3], execution_id, *row[5:])
