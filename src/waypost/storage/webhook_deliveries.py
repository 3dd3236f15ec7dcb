"""Deliveries: taken when they are due, recorded when an attempt has ended, and forgotten.

Whoever takes one puts off the moment at which it is due. As long as the taker lives it puts it off again; when it is
gone, the delivery is due once more, and is sent once more: at least once, with the same id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.storage.pool import Pool
from waypost.storage.webhooks import CHANNEL
from waypost.webhooks.event import Event, EventType, ExecutionFacts
from waypost.webhooks.schedule import Attempt, Dead, Delivered, Reason, Retry

LEASE_S = 15.0  # of whoever takes a delivery; longer than two renewals may fail
TEST_S = 60.0  # a test that has not ended by then never does
FAILURES_MAX = 10  # in a row, across deliveries: then the endpoint gets no more (ModelRoute's number)
KEPT_DAYS = 30
SWEEP_ROWS = 5_000

_EVENT = "taken.event_id, taken.event, taken.org_id, taken.execution_id, taken.sequence, taken.created_at, taken.facts"

# The oldest that are due, of each lane as many as it has places for. A lane that is not known yet has one.
TAKE = f"""
WITH oldest AS MATERIALIZED (
    SELECT id, lane, due_at, org_id, lane = ANY (%(proven)s::uuid[]) AS is_proven FROM webhook_delivery
     WHERE state = 'PENDING' AND due_at <= now() AND lane <> ALL (%(busy)s::uuid[])
       AND (org_id <> ALL (%(crowded)s::uuid[]) OR lane = ANY (%(proven)s::uuid[]))
       AND (%(only)s::uuid[] IS NULL OR lane = ANY (%(only)s::uuid[]))
     ORDER BY due_at
     LIMIT %(window)s
),
placed AS (
    SELECT id, lane, due_at, org_id, is_proven, row_number() OVER (PARTITION BY lane ORDER BY due_at, id) AS place
      FROM oldest
),
shared AS (
    SELECT placed.id, due_at, is_proven,
           row_number() OVER (PARTITION BY org_id, is_proven ORDER BY due_at, placed.id) AS place
      FROM placed LEFT JOIN unnest(%(lanes)s::uuid[], %(free)s::integer[]) AS known (lane, free) USING (lane)
     WHERE place <= coalesce(free, 1)
),
chosen AS (
    SELECT id FROM shared
     WHERE is_proven OR place <= %(unproven_of_one)s
     ORDER BY due_at
     LIMIT %(most)s
),
taken AS (
    UPDATE webhook_delivery AS delivery SET due_at = now() + make_interval(secs => {LEASE_S})
      FROM chosen
     WHERE delivery.id = chosen.id AND delivery.state = 'PENDING' AND delivery.due_at <= now()
    RETURNING delivery.*
)
SELECT taken.id, taken.lane, taken.endpoint_id, coalesce(taken.url, endpoint.url), taken.retries,
       taken.first_attempt_at IS NULL, taken.expires_at, {_EVENT},
       coalesce(endpoint.secret, own.secret),
       CASE WHEN coalesce(endpoint.previous_until, own.previous_until) > now()
            THEN coalesce(endpoint.previous_secret, own.previous_secret) END,
       endpoint.headers, coalesce(endpoint.failures, 0)
  FROM taken
  LEFT JOIN webhook_endpoint AS endpoint ON endpoint.id = taken.endpoint_id
  LEFT JOIN webhook_secret AS own ON own.org_id = taken.org_id AND taken.endpoint_id IS NULL
"""  # noqa: S608 - put together from texts of ours

# For a test, which nobody else is to take.
INSERT_TEST = f"""
WITH taken AS (
    INSERT INTO webhook_delivery (id, org_id, endpoint_id, lane, event_id, event, sequence, state, due_at, expires_at)
    SELECT %(id)s, org_id, id, id, %(event_id)s, %(event)s, 0, 'PENDING', now() + make_interval(secs => {TEST_S}),
           now() + make_interval(secs => {TEST_S})
      FROM webhook_endpoint WHERE org_id = %(org_id)s AND id = %(endpoint_id)s
    RETURNING *
)
SELECT taken.id, taken.lane, taken.endpoint_id, endpoint.url, taken.retries, true, taken.expires_at, {_EVENT},
       endpoint.secret, CASE WHEN endpoint.previous_until > now() THEN endpoint.previous_secret END,
       endpoint.headers, endpoint.failures
  FROM taken JOIN webhook_endpoint AS endpoint ON endpoint.id = taken.endpoint_id
"""  # noqa: S608

RENEW = f"""
UPDATE webhook_delivery SET due_at = now() + make_interval(secs => {LEASE_S})
 WHERE id = ANY (%(ids)s::uuid[]) AND state = 'PENDING'
"""  # noqa: S608

# What was buried meanwhile and arrived all the same has arrived.
RECORD = """
UPDATE webhook_delivery AS delivery
   SET state = told.state, attempts = attempts + told.tried, retries = told.retries,
       due_at = coalesce(told.due_at, delivery.due_at),
       first_attempt_at = coalesce(delivery.first_attempt_at, told.began_at),
       ended_at = CASE WHEN told.state = 'PENDING' THEN NULL ELSE now() END,
       last_status = told.status, last_error = told.error, last_took_ms = told.took_ms, reason = told.reason
  FROM unnest(%(id)s::uuid[], %(state)s::text[], %(tried)s::integer[], %(retries)s::integer[],
              %(due_at)s::timestamptz[], %(began_at)s::timestamptz[], %(status)s::smallint[], %(error)s::text[],
              %(took_ms)s::integer[], %(reason)s::text[])
       AS told (id, state, tried, retries, due_at, began_at, status, error, took_ms, reason)
 WHERE delivery.id = told.id AND (delivery.state = 'PENDING' OR told.state = 'DELIVERED')
"""

# Failures of this batch: `first_run` before its first success, `longest_run` after one, `last_run` after the last one.
COUNT_FAILURES = f"""
UPDATE webhook_endpoint AS endpoint
   SET failures = CASE WHEN told.succeeded_at IS NULL THEN failures + told.first_run ELSE told.last_run END,
       last_success_at = coalesce(told.succeeded_at, last_success_at),
       last_failure_at = coalesce(told.failed_at, last_failure_at),
       last_failure = coalesce(told.error, last_failure),
       state = CASE WHEN endpoint.state <> 'ACTIVE' THEN endpoint.state WHEN told.is_gone THEN 'GONE'
                    WHEN failures + told.first_run >= {FAILURES_MAX} OR told.longest_run >= {FAILURES_MAX}
                    THEN 'FAILING'
                    ELSE 'ACTIVE' END,
       state_since = CASE WHEN endpoint.state = 'ACTIVE' AND (told.is_gone
                               OR failures + told.first_run >= {FAILURES_MAX} OR told.longest_run >= {FAILURES_MAX})
                          THEN now() ELSE state_since END
  FROM unnest(%(id)s::uuid[], %(first_run)s::integer[], %(longest_run)s::integer[], %(last_run)s::integer[],
              %(succeeded_at)s::timestamptz[], %(failed_at)s::timestamptz[], %(error)s::text[], %(is_gone)s::boolean[])
       AS told (id, first_run, longest_run, last_run, succeeded_at, failed_at, error, is_gone)
 WHERE endpoint.id = told.id
RETURNING endpoint.id, endpoint.state, endpoint.state_since = now()
"""  # noqa: S608

BURY_OF = """
UPDATE webhook_delivery AS delivery SET state = 'DEAD', ended_at = now(), reason = told.reason
  FROM unnest(%(id)s::uuid[], %(reason)s::text[]) AS told (id, reason)
 WHERE delivery.lane = told.id AND delivery.state = 'PENDING'
"""

EXPIRE = """
UPDATE webhook_delivery SET state = 'DEAD', ended_at = now(), reason = 'expired'
 WHERE state = 'PENDING' AND due_at <= now() AND expires_at <= now()
"""

FORGET = """
DELETE FROM webhook_delivery
 WHERE id IN (SELECT id FROM webhook_delivery
               WHERE state <> 'PENDING' AND ended_at < now() - make_interval(days => %(days)s)
               LIMIT %(rows)s)
"""

COUNTS = """
SELECT (SELECT count(*) FROM webhook_delivery WHERE state = 'PENDING'),
       (SELECT count(*) FROM webhook_delivery WHERE state = 'DEAD'),
       (SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0) FROM webhook_delivery
         WHERE state = 'PENDING' AND due_at < now()),
       (SELECT count(*) FROM webhook_endpoint WHERE state = 'ACTIVE'),
       (SELECT count(*) FROM webhook_endpoint WHERE state IN ('FAILING', 'GONE'))
"""

# The lane's 32 digits: whoever makes it rest may end that.
NOTIFY = f"SELECT pg_notify('{CHANNEL}', %(lane)s)"


class Taken(msgspec.Struct, frozen=True):
    """A delivery to be tried now. `secret` and what follows are sealed too; a URL's organisation may have no secret
    yet."""

    id: bytes
    lane: bytes
    endpoint_id: bytes | None
    url: str | None  # sealed; None: the endpoint is gone
    retries: int  # so far
    is_first: bool
    expires_at: datetime
    event: Event
    secret: bytes | None
    previous_secret: bytes | None
    headers: bytes | None
    failures: int  # of the endpoint, in a row


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that has ended. `attempt` None: there was none, and nobody is to blame for it."""

    delivery: Taken
    attempt: Attempt | None
    step: Delivered | Retry | Dead
    began_at: datetime
    ended_at: datetime


class Counts(msgspec.Struct, frozen=True):
    pending: int
    dead: int
    overdue_s: float  # the oldest that is due
    active_endpoints: int
    deactivated_endpoints: int  # by us


async def take_due(
    pool: Pool,
    *,
    most: int,
    free: Mapping[bytes, int],
    busy: Sequence[bytes],
    only: Sequence[bytes] | None,
    window: int,
    proven: Sequence[bytes] = (),
    crowded: Sequence[bytes] = (),
    unproven_of_one: int = 1_000,
) -> list[Taken]:
    """At most `most`, of each lane as many as `free` says, of the lanes in `busy` none; with `only`, of these lanes
    alone. Of lanes that are not `proven`, at most `unproven_of_one` of an organisation, and none of those in `crowded`.
    `pool` is the app's, here and below."""
    parameters = {
        "most": most,
        "window": window,
        "busy": [UUID(bytes=lane) for lane in busy],
        "only": None if only is None else [UUID(bytes=lane) for lane in only],
        "proven": [UUID(bytes=lane) for lane in proven],
        "crowded": [UUID(bytes=org_id) for org_id in crowded],
        "unproven_of_one": unproven_of_one,
        "lanes": [UUID(bytes=lane) for lane in free],
        "free": list(free.values()),
    }
    async with pool.system() as connection:
        rows = await (await connection.execute(TAKE, parameters)).fetchall()
    return [_taken(row) for row in rows]


async def take_test(pool: Pool, org_id: bytes, endpoint_id: bytes, *, delivery_id: bytes, event_id: bytes) -> Taken:
    """A test's delivery, taken. Raises LookupError for an unknown endpoint."""
    parameters = _ids(org_id, delivery_id) | {"endpoint_id": UUID(bytes=endpoint_id)}
    parameters |= {"event_id": UUID(bytes=event_id), "event": EventType.TEST.value}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(INSERT_TEST, parameters)).fetchone()
    if row is None:
        raise LookupError
    return _taken(row)


async def renew(pool: Pool, delivery_ids: Sequence[bytes]) -> None:
    """Say of deliveries under way that their taker lives."""
    async with pool.system() as connection:
        await connection.execute(RENEW, {"ids": [UUID(bytes=each) for each in delivery_ids]})


async def record(pool: Pool, ended: Sequence[Ended]) -> dict[bytes, str]:
    """Write down what became of attempts, in the order in which they ended. The endpoints that get no more from now
    on, with their new state; what was on its way to them, and to those of before, has become dead letters."""
    async with pool.system() as connection:
        await connection.execute(RECORD, _columns(ended))
        counted = _failures(ended)
        if not counted["id"]:
            return {}
        rows = await (await connection.execute(COUNT_FAILURES, counted)).fetchall()
        suspects = {each.delivery.endpoint_id for each in ended if each.attempt and not each.attempt.is_success}
        stopped = {row[0].bytes: str(row[1]) for row in rows if row[1] != "ACTIVE" and row[0].bytes in suspects}
        if stopped:
            await _bury(connection, stopped)
    return {row[0].bytes: state for row in rows if row[2] and (state := stopped.get(row[0].bytes)) is not None}


async def expire(pool: Pool) -> int:
    """Make dead letters of what nobody could take in time; how many."""
    async with pool.system() as connection:
        return (await connection.execute(EXPIRE)).rowcount


async def forget(pool: Pool, *, days: int = KEPT_DAYS) -> int:
    """Delete deliveries that ended so long ago, some thousand at most; how many."""
    async with pool.system() as connection:
        return (await connection.execute(FORGET, {"days": days, "rows": SWEEP_ROWS})).rowcount


async def count_deliveries(pool: Pool) -> Counts:
    async with pool.system(is_view=True) as connection:
        row = await (await connection.execute(COUNTS)).fetchone()
    assert row is not None
    return Counts(row[0], row[1], float(row[2]), row[3], row[4])


async def announce_repaired(pool: Pool, endpoint_id: bytes) -> None:
    """Its receiver works: whoever has it rest ends that."""
    async with pool.system() as connection:
        await connection.execute(NOTIFY, {"lane": endpoint_id.hex()})


async def _bury(connection: AsyncConnection, stopped: Mapping[bytes, str]) -> None:
    reasons = [(Reason.GONE if state == "GONE" else Reason.INACTIVE).value for state in stopped.values()]
    await connection.execute(BURY_OF, {"id": [UUID(bytes=each) for each in stopped], "reason": reasons})


def _ids(org_id: bytes, delivery_id: bytes) -> dict[str, object]:
    return {"org_id": UUID(bytes=org_id), "id": UUID(bytes=delivery_id)}


def _columns(ended: Sequence[Ended]) -> dict[str, list[object]]:
    states = {Delivered: "DELIVERED", Retry: "PENDING", Dead: "DEAD"}
    attempts = [each.attempt or Attempt() for each in ended]
    return {
        "id": [UUID(bytes=each.delivery.id) for each in ended],
        "state": [states[type(each.step)] for each in ended],
        "tried": [int(each.attempt is not None) for each in ended],
        "retries": [
            each.delivery.retries + (each.attempt is not None and isinstance(each.step, Retry)) for each in ended
        ],
        "due_at": [each.step.at if isinstance(each.step, Retry) else None for each in ended],
        "began_at": [None if each.attempt is None else each.began_at for each in ended],
        "status": [each.status for each in attempts],
        "error": [None if told.attempt is None else each.error for told, each in zip(ended, attempts, strict=True)],
        "took_ms": [round(each.took_s * 1000) for each in attempts],
        "reason": [each.step.reason.value if isinstance(each.step, Dead) else None for each in ended],
    }


def _failures(ended: Sequence[Ended]) -> dict[str, list[object]]:
    """By endpoint; tests do not count."""
    by_endpoint: dict[bytes, list[Ended]] = {}
    for each in ended:
        is_test = each.delivery.event.type is EventType.TEST
        if each.delivery.endpoint_id is not None and each.attempt is not None and not is_test:
            by_endpoint.setdefault(each.delivery.endpoint_id, []).append(each)
    names = ("id", "first_run", "longest_run", "last_run", "succeeded_at", "failed_at", "error", "is_gone")
    columns: dict[str, list[object]] = {name: [] for name in names}
    for endpoint_id, group in by_endpoint.items():
        runs, succeeded_at, failed = [0], None, None
        for each in group:
            assert each.attempt is not None
            if each.attempt.is_success:
                succeeded_at = each.ended_at
                runs.append(0)
            else:
                failed = each
                runs[-1] += 1
        error = None if failed is None or failed.attempt is None else failed.attempt.error
        failed_at = None if failed is None else failed.ended_at
        is_gone = any(each.attempt is not None and each.attempt.is_gone for each in group)
        values = (UUID(bytes=endpoint_id), runs[0], max(runs[1:], default=0), runs[-1])
        for name, value in zip(names, (*values, succeeded_at, failed_at, error, is_gone), strict=True):
            columns[name].append(value)
    return columns


def _taken(row: TupleRow) -> Taken:
    execution_id = None if row[10] is None else row[10].bytes
    facts = None if row[13] is None else msgspec.convert(row[13], ExecutionFacts)
    event = Event(
        id=row[7].bytes,
        type=EventType(row[8]),
        org_id=row[9].bytes,
        execution_id=execution_id,
        sequence=row[11],
        happened_at=row[12],
        facts=facts,
    )
    endpoint_id = None if row[2] is None else row[2].bytes
    values = (row[0].bytes, row[1].bytes, endpoint_id, *row[3:7], event, *row[14:])
    return Taken(*values)
