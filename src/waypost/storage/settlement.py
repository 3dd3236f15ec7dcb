"""One statement that books a batch of attempts: the hot path's only write to the database.

It inserts what is not booked yet, takes the sums of exactly that from the leases, and writes the metadata rows of the
executions that ended. The lease rows are locked first, so each attempt is priced against what its lease really has
left; what no lease covers any more, because it came late, the house bears. That is exact for one attempt of a lease;
several that only together exceed it break the lease's CHECK, and are then booked one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from waypost.ledger.record import ClosedAttempt
from waypost.storage.packed import Int8Array, UuidArray, int8_row

_IDS = ("attempt_id", "execution_id", "org_id", "lease_id", "api_key_id")
_NUMBERS = (
    "charge",
    "cogs",
    "price_version",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "audio_output_tokens",
    "images",
    "duration_ms",
    "characters",
    "outcome",
    "flags",
    "accepted_at_ms",
    "closed_at_ms",
    "first_content_ms",
    "attempts",
    "status",
    "model",  # these four are places in the array of texts
    "provider",
    "deployment",
    "error_code",
)
_TEXTS = ("model", "provider", "deployment", "error_code")
_ESTIMATED, _FINAL, _STREAM = 1, 2, 4
_RARE_UNITS = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "images", "duration_ms", "characters")
_UNITS = ", ".join(name for name in _NUMBERS if name.endswith("_tokens") or name in _RARE_UNITS)
# NULL takes no room in a row, and hardly any call has one of these.
_UNIT_VALUES = ", ".join(f"nullif({name}, 0)" if name in _RARE_UNITS else name for name in _UNITS.split(", "))


def _element(name: str) -> str:
    if name in _IDS:
        return f"(%(ids)s)[i * {len(_IDS)} + {_IDS.index(name) + 1}]"
    element = f"(%(numbers)s)[i * {len(_NUMBERS)} + {_NUMBERS.index(name) + 1}]"
    return f"(%(texts)s::text[])[{element}]" if name in _TEXTS else element


# A double holds milliseconds exactly enough; with numeric the division would go through text.
_MOMENT = "to_timestamp({} / 1000::double precision)"


def _settle(on_conflict: str) -> str:
    return f"""
WITH open_lease AS MATERIALIZED (
    SELECT id, org_id, granted - settled - released AS room
      FROM lease
     WHERE id = ANY (%(lease_ids)s)
     ORDER BY id
       FOR NO KEY UPDATE
),
attempt AS MATERIALIZED (
    SELECT {", ".join(f"{_element(name)} AS {name}" for name in (*_IDS, *_NUMBERS) if name != "charge")},
           {_element("charge")} AS worth,
           least({_element("charge")}, coalesce(open_lease.room, 0)) AS charge
      FROM generate_series(0, %(count)s - 1) AS i
      LEFT JOIN open_lease ON open_lease.id = {_element("lease_id")} AND open_lease.org_id = {_element("org_id")}
),
fresh AS (
    INSERT INTO settlement (attempt_id, execution_id, org_id, lease_id, charge, house, cogs, price_version,
                            {_UNITS}, outcome, is_estimated, model, provider, deployment)
    SELECT attempt_id, execution_id, org_id, lease_id, charge, worth - charge, cogs, price_version,
           {_UNIT_VALUES}, outcome::smallint, flags & {_ESTIMATED} <> 0, model, provider, deployment
      FROM attempt
        {on_conflict}
    RETURNING lease_id, charge
),
ended AS (
    INSERT INTO execution (id, org_id, api_key_id, accepted_at, closed_at, charge, price_version, {_UNITS},
                           first_content_ms, attempts, outcome, status, is_stream, is_estimated, model, error_code)
    SELECT execution_id, org_id, api_key_id, {_MOMENT.format("accepted_at_ms")}, {_MOMENT.format("closed_at_ms")},
           charge, price_version, {_UNIT_VALUES}, first_content_ms,
           attempts::smallint, outcome::smallint, status::smallint, flags & {_STREAM} <> 0,
           flags & {_ESTIMATED} <> 0, model, error_code
      FROM attempt
     WHERE flags & {_FINAL} <> 0
        {on_conflict}
)
UPDATE lease
   SET settled = settled + spent.charge
  FROM (SELECT lease_id, sum(charge)::bigint AS charge FROM fresh GROUP BY lease_id HAVING sum(charge) > 0) AS spent
 WHERE lease.id = spent.lease_id
"""  # noqa: S608 - put together from the names above


# Looking for a conflict before each insert costs a third of the whole, and there is one only when a batch is resent.
SETTLE_FRESH = _settle("")
SETTLE_AGAIN = _settle("ON CONFLICT DO NOTHING")

_ROW = int8_row(len(_NUMBERS))


async def settle(connection: AsyncConnection, batch: Sequence[ClosedAttempt]) -> None:
    """Book a batch in one round trip, or where rows of it are booked already or come late, in a few.

    Raises psycopg.Error for a row that can never be booked, when all before it are."""
    parameters = settle_parameters(batch)
    for statement in (SETTLE_FRESH, SETTLE_AGAIN):
        try:
            await connection.execute(statement, parameters, prepare=True)
        except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation):
            continue
        return
    for attempt in batch:
        await connection.execute(SETTLE_AGAIN, settle_parameters([attempt]), prepare=True)


def settle_parameters(batch: Sequence[ClosedAttempt]) -> dict[str, object]:
    """What the statements take. Attempts are ordered by id, so that two batches never wait for each other in a ring."""
    ids: list[bytes] = []
    rows: list[bytes] = []
    places: dict[str, int] = {}
    for attempt in sorted(batch, key=_attempt_id):
        opened, closed = attempt.open, attempt.close
        ids += (opened.attempt_id, opened.execution_id, opened.org_id, opened.lease_id, opened.api_key_id)
        flags = _ESTIMATED * closed.is_estimated + _FINAL * closed.is_final + _STREAM * opened.is_stream
        # fmt: off
        rows.append(_ROW.pack(
            8, closed.charge_nanos,
            8, closed.cogs_nanos,
            8, opened.price_version,
            8, closed.input_tokens,
            8, closed.cache_read_tokens,
            8, closed.cache_write_5m_tokens,
            8, closed.cache_write_1h_tokens,
            8, closed.output_tokens,
            8, closed.reasoning_tokens,
            8, closed.audio_input_tokens,
            8, closed.image_input_tokens,
            8, closed.audio_output_tokens,
            8, closed.images,
            8, closed.duration_ms,
            8, closed.characters,
            8, closed.outcome,
            8, flags,
            8, opened.accepted_at_ms,
            8, closed.closed_at_ms,
            8, closed.first_content_ms,
            8, opened.attempt_number,
            8, closed.status,
            8, places.setdefault(opened.model, len(places) + 1),
            8, places.setdefault(opened.provider, len(places) + 1),
            8, places.setdefault(opened.deployment, len(places) + 1),
            8, places.setdefault(closed.error_code, len(places) + 1),
        ))
        # fmt: on
    return {
        "count": len(rows),
        "ids": UuidArray(ids),
        "numbers": Int8Array(rows, len(rows) * len(_NUMBERS)),
        "texts": list(places),
        "lease_ids": UuidArray(sorted(set(ids[_IDS.index("lease_id") :: len(_IDS)]))),
    }


def _attempt_id(attempt: ClosedAttempt) -> bytes:
    return attempt.open.attempt_id
