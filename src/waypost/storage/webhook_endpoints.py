"""Endpoints of an organisation and the secrets that sign for them. What is sealed stays sealed here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.storage.pool import Pool
from waypost.storage.webhooks import CHANNEL
from waypost.webhooks.schedule import Reason

ROTATION_OVERLAP_S = 86_400.0  # for so long both secrets sign

_COLUMNS = """
id, url, description, events, state, state_since, header_names, failures, last_success_at, last_failure_at,
last_failure, created_at, CASE WHEN previous_until > now() THEN previous_until END,
(SELECT count(*) FROM webhook_delivery
  WHERE lane = webhook_endpoint.id AND webhook_delivery.state = 'DEAD' AND event <> 'webhook.test')
"""

# Endpoints of one organisation are made one after the other, so that the count holds.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoint' || %(org_id)s::text, 0))"
COUNT = "SELECT count(*) FROM webhook_endpoint WHERE org_id = %(org_id)s"

CREATE = f"""
INSERT INTO webhook_endpoint (id, org_id, url, description, events, secret, headers, header_names)
VALUES (%(id)s, %(org_id)s, %(url)s, %(description)s, %(events)s, %(secret)s, %(headers)s, %(header_names)s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together from the names above

LIST = f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE org_id = %(org_id)s ORDER BY id"  # noqa: S608

FIND = f"SELECT {_COLUMNS} FROM webhook_endpoint WHERE org_id = %(org_id)s AND id = %(id)s"  # noqa: S608

# Said to be active, or with another URL, it begins anew: its failures are forgotten.
CHANGE = f"""
UPDATE webhook_endpoint
   SET url = coalesce(%(url)s, url), description = coalesce(%(description)s, description),
       events = coalesce(%(events)s, events),
       headers = CASE WHEN %(has_headers)s THEN %(headers)s ELSE headers END,
       header_names = CASE WHEN %(has_headers)s THEN %(header_names)s ELSE header_names END,
       state = coalesce(%(state)s, state),
       state_since = CASE WHEN %(state)s IS DISTINCT FROM state AND %(state)s IS NOT NULL THEN now()
                          ELSE state_since END,
       failures = CASE WHEN %(state)s = 'ACTIVE' OR %(url)s::text IS NOT NULL THEN 0 ELSE failures END
 WHERE org_id = %(org_id)s AND id = %(id)s
RETURNING {_COLUMNS}
"""  # noqa: S608

DELETE = "DELETE FROM webhook_endpoint WHERE org_id = %(org_id)s AND id = %(id)s"

# What is on its way to a receiver that gets no more.
BURY = """
UPDATE webhook_delivery SET state = 'DEAD', ended_at = now(), reason = %(reason)s
 WHERE lane = %(id)s AND state = 'PENDING'
"""

# The secret of before the last rotation ends with the next one, so that never more than two count.
ROTATE = """
UPDATE webhook_endpoint
   SET previous_secret = CASE WHEN %(overlap_s)s > 0 THEN secret END,
       previous_until = CASE WHEN %(overlap_s)s > 0 THEN now() + make_interval(secs => %(overlap_s)s) END,
       secret = %(secret)s
 WHERE org_id = %(org_id)s AND id = %(id)s
RETURNING previous_until
"""

KEEP_OWN = """
INSERT INTO webhook_secret (org_id, secret) VALUES (%(org_id)s, %(secret)s) ON CONFLICT (org_id) DO NOTHING
"""
FIND_OWN = """
SELECT secret, CASE WHEN previous_until > now() THEN previous_until END FROM webhook_secret WHERE org_id = %(org_id)s
"""
ROTATE_OWN = """
INSERT INTO webhook_secret AS kept (org_id, secret) VALUES (%(org_id)s, %(secret)s)
    ON CONFLICT (org_id) DO UPDATE
   SET previous_secret = CASE WHEN %(overlap_s)s > 0 THEN kept.secret END,
       previous_until = CASE WHEN %(overlap_s)s > 0 THEN now() + make_interval(secs => %(overlap_s)s) END,
       secret = excluded.secret
RETURNING previous_until
"""


OPEN_LANE = f"SELECT pg_notify('{CHANNEL}', %(lane)s)"  # to who makes it rest


class TooManyEndpoints(Exception):
    """The organisation has as many as it may have."""


class Endpoint(msgspec.Struct, frozen=True):
    """An endpoint as its organisation sees it, but for the URL, which is sealed. `state`: ACTIVE, PAUSED by its owner,
    FAILING, GONE (it said so)."""

    id: bytes
    url: str
    description: str
    events: tuple[str, ...]  # none: all
    state: str
    state_since: datetime
    header_names: tuple[str, ...]
    failures: int  # in a row
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_failure: str | None
    created_at: datetime
    previous_secret_until: datetime | None
    dead_letters: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes another; None stays. `url` and `headers` are sealed; headers change when `header_names` is given."""

    url: str | None = None
    description: str | None = None
    events: Sequence[str] | None = None
    headers: bytes | None = None
    header_names: Sequence[str] | None = None
    state: str | None = None


async def create_endpoint(
    pool: Pool, org_id: bytes, endpoint_id: bytes, wanted: Change, *, secret: bytes, endpoints_max: int
) -> Endpoint:
    """Raises TooManyEndpoints. `pool` is the app's, here and below."""
    parameters = _parameters(org_id, endpoint_id, wanted) | {"secret": secret}
    parameters |= {"description": wanted.description or "", "events": list(wanted.events or ())}
    parameters |= {"header_names": list(wanted.header_names or ())}
    async with pool.tenant(org_id) as connection:
        await connection.execute(LOCK, parameters)
        counted = await (await connection.execute(COUNT, parameters)).fetchone()
        if counted is not None and counted[0] >= endpoints_max:
            raise TooManyEndpoints
        row = await (await connection.execute(CREATE, parameters)).fetchone()
    assert row is not None
    return _endpoint(row)


async def list_endpoints(pool: Pool, org_id: bytes) -> list[Endpoint]:
    """The oldest first."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, {"org_id": UUID(bytes=org_id)})).fetchall()
    return [_endpoint(row) for row in rows]


async def find_endpoint(pool: Pool, org_id: bytes, endpoint_id: bytes) -> Endpoint | None:
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND, _ids(org_id, endpoint_id))).fetchone()
    return None if row is None else _endpoint(row)


async def change_endpoint(pool: Pool, org_id: bytes, endpoint_id: bytes, wanted: Change) -> Endpoint:
    """Paused, what is on its way to it becomes dead letters; else a rest ends. Raises LookupError."""
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(CHANGE, _parameters(org_id, endpoint_id, wanted))).fetchone()
        if row is None:
            raise LookupError
        if wanted.state == "PAUSED":
            await bury(connection, endpoint_id, Reason.INACTIVE)
        else:
            await connection.execute(OPEN_LANE, {"lane": endpoint_id.hex()})
    return _endpoint(row)


async def delete_endpoint(pool: Pool, org_id: bytes, endpoint_id: bytes) -> None:
    """What was sent to it stays in the history. Raises LookupError."""
    async with pool.tenant(org_id) as connection:
        if (await connection.execute(DELETE, _ids(org_id, endpoint_id))).rowcount == 0:
            raise LookupError
        await bury(connection, endpoint_id, Reason.DELETED)


async def bury(connection: AsyncConnection, endpoint_id: bytes, reason: Reason) -> None:
    """Make dead letters of what is on its way to an endpoint."""
    await connection.execute(BURY, {"id": UUID(bytes=endpoint_id), "reason": reason.value})


async def rotate_secret(
    pool: Pool, org_id: bytes, endpoint_id: bytes, *, secret: bytes, overlap_s: float = ROTATION_OVERLAP_S
) -> datetime | None:
    """Sign with another secret, and until the moment given with the one before it too. Raises LookupError."""
    parameters = _ids(org_id, endpoint_id) | {"secret": secret, "overlap_s": overlap_s}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(ROTATE, parameters)).fetchone()
    if row is None:
        raise LookupError
    until: datetime | None = row[0]
    return until


async def organisation_secret(pool: Pool, org_id: bytes, *, fresh: bytes) -> tuple[bytes, datetime | None]:
    """The sealed secret that signs for URLs given with requests, `fresh` when there was none; and until when the one
    before it signs too."""
    parameters = {"org_id": UUID(bytes=org_id), "secret": fresh}
    async with pool.tenant(org_id) as connection:
        await connection.execute(KEEP_OWN, parameters)
        row = await (await connection.execute(FIND_OWN, parameters)).fetchone()
    assert row is not None
    return bytes(row[0]), row[1]


async def rotate_organisation_secret(
    pool: Pool, org_id: bytes, *, secret: bytes, overlap_s: float = ROTATION_OVERLAP_S
) -> datetime | None:
    """As `rotate_secret` does."""
    parameters = {"org_id": UUID(bytes=org_id), "secret": secret, "overlap_s": overlap_s}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(ROTATE_OWN, parameters)).fetchone()
    assert row is not None
    until: datetime | None = row[0]
    return until


def _ids(org_id: bytes, endpoint_id: bytes) -> dict[str, Any]:
    return {"org_id": UUID(bytes=org_id), "id": UUID(bytes=endpoint_id)}


def _parameters(org_id: bytes, endpoint_id: bytes, wanted: Change) -> dict[str, Any]:
    given = {
        "url": wanted.url,
        "description": wanted.description,
        "events": None if wanted.events is None else list(wanted.events),
        "has_headers": wanted.header_names is not None,
        "headers": wanted.headers,
        "header_names": list(wanted.header_names or ()),
        "state": wanted.state,
    }
    return _ids(org_id, endpoint_id) | given


def _endpoint(row: TupleRow) -> Endpoint:
    values = (row[0].bytes, *row[1:3], tuple(row[3]), *row[4:6], tuple(row[6]), *row[7:])
    return Endpoint(*values)
