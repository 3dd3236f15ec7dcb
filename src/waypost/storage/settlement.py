"""One statement that books a batch of attempts: the hot path's only write to the database.

It inserts what is not booked yet, takes the sums of exactly that from the leases, posts them to the general ledger, one
transfer for each lease and one for each kind of cost, and writes the metadata rows of the executions that ended.

It fits what comes in time. A batch with a row that its lease does not cover any more breaks a CHECK, and is booked row
by row: a late row draws on what is left in the lease, then on its rest in suspense, then on what the lease gave back as
far as the wallet still has it; what then is left the house bears. After a standby was promoted the wallet may hold what
a grant that is lost took from it: a row draws on that before the house bears anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from waypost.kit.ids import Ids
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.record import ClosedAttempt, LedgerPromoted, Outcome, ServerTerm
from waypost.storage.general_ledger import posting
from waypost.storage.leases import DRAWN_WINDOWS, LOCK_WALLET, take_from_windows
from waypost.storage.packed import Int8Array, UuidArray, int8_row

_IDS = ("attempt_id", "execution_id", "org_id", "lease_id", "api_key_id", "answer")
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
    "accepted_at_ms",
    "closed_at_ms",
    "first_content_ms",
    "small",  # what has few bits: see `_SMALL`
)
_NO_ANSWER = bytes(16)  # its provider gave the answer no name
_TEXTS = ("model", "provider", "deployment", "error_code")
_USUAL_UNITS = tuple(name for name in _NUMBERS if name.endswith("_tokens"))
# NULL takes no room in a row, and hardly any call has one of these: a batch without any of them does not send them.
_RARE_UNITS = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "images", "duration_ms", "characters")
# Where each part stands in `small`: its first bit, and the mask over it. With a number of its own for each of the eight
# and for the rare units, a row cost 3.3 µs of this process's CPU instead of 2.1.
_SMALL = {
    "outcome": (0, 0xFF),
    "flags": (8, 0xFF),
    "attempts": (16, 0xFF),
    "status": (24, 0xFFFF),
    "texts": (40, 0x3FFFFF),  # which of the (model, provider, deployment, error code) of the batch
}
_ESTIMATED, _FINAL, _STREAM = 1, 2, 4
_UNITS = (*_USUAL_UNITS, *_RARE_UNITS)


def _element(name: str) -> str:
    if name in _IDS:
        return f"(%(ids)s)[i * {len(_IDS)} + {_IDS.index(name) + 1}]"
    if name in _RARE_UNITS:
        return f"nullif((%(rare)s)[i * {len(_RARE_UNITS)} + {_RARE_UNITS.index(name) + 1}], 0)"
    if name in _TEXTS:
        return f"(%({name}s)s::text[])[{_element('texts')}]"
    if name in _SMALL:
        first_bit, mask = _SMALL[name]
        return f"({_element('small')} >> {first_bit} & {mask})"
    return f"(%(numbers)s)[i * {len(_NUMBERS)} + {_NUMBERS.index(name) + 1}]"


# A double holds milliseconds exactly enough; with numeric the division would go through text.
_MOMENT = "to_timestamp({} / 1000::double precision)"


# Where the cost of an attempt is debited: nobody, somebody late, or the customer paid for it.
COST_KIND = f"""
CASE WHEN outcome = {Outcome.CRASHED.value} THEN {AccountKind.HOUSE_CRASH.value}
     WHEN house > 0 THEN {AccountKind.HOUSE_LATE.value}
     WHEN outcome IN ({Outcome.FAILED.value}, {Outcome.REJECTED.value}) THEN {AccountKind.COGS_FAILED_ATTEMPT.value}
     ELSE {AccountKind.COGS_PROVIDER.value} END
"""
_COST_KINDS = range(AccountKind.COGS_PROVIDER, AccountKind.HOUSE_LATE + 1)


def _columns(units: Sequence[str]) -> str:
    """Of `attempt`, but for charge and house."""
    small = [name for name in _SMALL if name != "texts"]
    names = (*_IDS, *_NUMBERS[1:3], *units, "accepted_at_ms", "closed_at_ms", "first_content_ms", *small, *_TEXTS)
    return ", ".join(f"{_element(name)} AS {name}" for name in names)


def _insert(units: Sequence[str], on_conflict: str) -> str:
    """The CTEs that write what `attempt` holds and post its cost. `fresh` is what was not booked before."""
    return f"""
fresh AS (
    INSERT INTO settlement (attempt_id, execution_id, org_id, lease_id, charge, house, cogs, price_version,
                            {", ".join(units)}, outcome, is_estimated, model, provider, deployment, answer)
    SELECT attempt_id, execution_id, org_id, lease_id, charge, house, cogs, price_version,
           {", ".join(units)}, outcome::smallint, flags & {_ESTIMATED} <> 0, model, provider, deployment,
           nullif(answer, '{_NO_ANSWER.hex()}'::uuid)
      FROM attempt
        {on_conflict}
    RETURNING lease_id, org_id, charge, house, cogs, outcome
),
ended AS (
    INSERT INTO execution (id, org_id, api_key_id, accepted_at, closed_at, charge, price_version, {", ".join(units)},
                           first_content_ms, attempts, outcome, status, is_stream, is_estimated, model, error_code)
    SELECT execution_id, org_id, api_key_id, {_MOMENT.format("accepted_at_ms")}, {_MOMENT.format("closed_at_ms")},
           charge, price_version, {", ".join(units)}, first_content_ms,
           attempts::smallint, outcome::smallint, status::smallint, flags & {_STREAM} <> 0,
           flags & {_ESTIMATED} <> 0, model, error_code
      FROM attempt
     WHERE flags & {_FINAL} <> 0
        {on_conflict}
),
cost AS (SELECT {COST_KIND} AS kind, sum(cogs)::bigint AS cogs FROM fresh GROUP BY kind HAVING sum(cogs) > 0),
cost_posted AS (
    INSERT INTO transfer (id, code, debit, credit, amount)
    SELECT (%(cost_ids)s)[kind - {_COST_KINDS.start} + 1], {TransferCode.COST.value}, kind,
           {AccountKind.PAYABLE.value}, cogs
      FROM cost
)"""  # noqa: S608 - put together from the names above


def _settle(units: Sequence[str], on_conflict: str) -> str:
    """For what comes in time. A lease that is not the organisation's gives a charge of -1, which no row may have: but
    nothing is taken for nothing, so an attempt without a charge, as on a long hold, needs none."""
    return f"""
WITH open_lease AS MATERIALIZED (
    SELECT id, org_id FROM lease WHERE id = ANY (%(lease_ids)s) ORDER BY id FOR NO KEY UPDATE
),
attempt AS MATERIALIZED (
    SELECT {_columns(units)}, 0 AS house,
           CASE WHEN open_lease.id IS NULL AND {_element("charge")} > 0 THEN -1 ELSE {_element("charge")} END AS charge
      FROM generate_series(0, %(count)s - 1) AS i
      LEFT JOIN open_lease ON open_lease.id = {_element("lease_id")} AND open_lease.org_id = {_element("org_id")}
),
{_insert(units, on_conflict)},
spent AS (
    SELECT lease_id, org_id, sum(charge)::bigint AS charge
      FROM fresh GROUP BY lease_id, org_id HAVING sum(charge) > 0
),
posted AS ({
        posting(
            TransferCode.SETTLE,
            AccountKind.LEASE,
            AccountKind.REVENUE,
            transfer_id="(%(transfer_ids)s)[array_position(%(lease_ids)s, lease_id)]",
            ref="lease_id",
            amount="charge",
            source="spent",
        )
    })
UPDATE lease SET settled = settled + spent.charge FROM spent WHERE lease.id = spent.lease_id
"""  # noqa: S608


def _posted_late(name: str, code: TransferCode, debit: AccountKind, place: int) -> str:
    text = posting(
        code,
        debit,
        AccountKind.REVENUE,
        transfer_id=f"(%(transfer_ids)s)[{place}]",
        org_id="attempt.org_id",
        ref="attempt.lease_id",
        amount=name,
        source="attempt, fresh",
    )
    return f"{name}_posted AS ({text})"


# Rows of leases that a promoted server has forgotten come for so long: as long as a lost node's leases wait for theirs.
FORGOTTEN_FOR_S = 24 * 3600
# Of a lease that it knows nothing of, only where the process says for which node it is made again.
_MAY_BE_FORGOTTEN = """
EXISTS (SELECT FROM ledger_timeline WHERE moved_at > now() - make_interval(secs => %(forgotten_for_s)s))
 AND (open_lease.id IS NOT NULL
      OR %(node_id)s::uuid IS NOT NULL AND NOT EXISTS (SELECT FROM lease AS other WHERE other.id = %(draw_id)s
                                                          AND other.org_id <> %(org_id)s))
"""


# One attempt, from wherever its lease still has something.
SETTLE_LATE = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
chain AS MATERIALIZED ({DRAWN_WINDOWS}),
open_lease AS MATERIALIZED (
    SELECT lease.id, granted - settled - released - suspended AS room, suspended, released
      FROM lease JOIN locked USING (org_id)
     WHERE id = %(draw_id)s
       FOR NO KEY UPDATE OF lease
),
asked AS MATERIALIZED (
    SELECT {_columns(_UNITS)}, {_element("charge")} AS worth, coalesce(room, 0) AS room,
           open_lease.id IS NULL AS is_lost,
           coalesce(suspended, 0) AS suspended, coalesce(released, 0) AS released, coalesce(available, 0) AS available,
           {_MAY_BE_FORGOTTEN} AS may_be_forgotten
      FROM generate_series(0, 0) AS i LEFT JOIN locked ON true LEFT JOIN open_lease ON true
),
drawn AS MATERIALIZED (
    SELECT *, least(worth, room) AS from_lease,
           least(greatest(0, worth - room), suspended) AS from_suspense,
           least(greatest(0, worth - room - suspended), available,
                 CASE WHEN may_be_forgotten THEN worth ELSE released END) AS from_wallet
      FROM asked
),
attempt AS MATERIALIZED (
    SELECT *, from_lease + from_suspense + from_wallet AS charge,
           worth - from_lease - from_suspense - from_wallet AS house,
           least(from_wallet, released) AS given_back
      FROM drawn
),
{_insert(_UNITS, "ON CONFLICT DO NOTHING")},
{_posted_late("from_lease", TransferCode.SETTLE, AccountKind.LEASE, 1)},
{_posted_late("from_suspense", TransferCode.LATE, AccountKind.SUSPENSE, 2)},
{_posted_late("from_wallet", TransferCode.LATE, AccountKind.WALLET, 3)},
paid AS (
    UPDATE wallet
       SET available = wallet.available - from_wallet, suspense = suspense - from_suspense
      FROM attempt, fresh
     WHERE wallet.org_id = attempt.org_id AND from_wallet + from_suspense > 0
),
taken AS ({take_from_windows("from_wallet", "attempt, fresh")}),
remade AS (
    INSERT INTO lease (id, org_id, node_id, node_epoch, granted, settled, state)
    SELECT %(draw_id)s, attempt.org_id, %(node_id)s::uuid, %(node_epoch)s::integer, from_wallet, from_wallet, 'CLOSED'
      FROM attempt, fresh
     WHERE is_lost AND from_wallet > 0
        ON CONFLICT (id) DO UPDATE
       SET granted = lease.granted + excluded.granted, settled = lease.settled + excluded.settled
)
UPDATE lease
   SET granted = granted + from_wallet - given_back,
       settled = settled + attempt.charge,
       suspended = lease.suspended - from_suspense,
       released = lease.released - given_back
  FROM attempt, fresh
 WHERE lease.id = attempt.lease_id AND attempt.charge > 0
"""  # noqa: S608


# Looking for a conflict before each insert costs a third of the whole, and there is one only when a batch is resent.
SETTLE_FRESH = _settle(_USUAL_UNITS, "")
SETTLE_FRESH_OF_ALL_UNITS = _settle(_UNITS, "")
SETTLE_AGAIN = _settle(_UNITS, "ON CONFLICT DO NOTHING")

_ROW = int8_row(len(_NUMBERS))
_RARE_ROW = int8_row(len(_RARE_UNITS))
_NO_RARE = Int8Array((), 0)
_IDS_OF_LATE = 3


class Standing(msgspec.Struct, frozen=True):
    """A node, and the term of the server that it has presented its leases to."""

    node_id: UUID
    node_epoch: int
    term: ServerTerm


# The node's row tells it of a server of the same number; but only when the node is done, and it books late before.
IS_PRESENTED = """
SELECT current_timeline() IS NOT DISTINCT FROM %(timeline)s
   AND (EXISTS (SELECT FROM node WHERE id = %(node_id)s AND timeline IS NOT DISTINCT FROM current_timeline())
        OR EXISTS (SELECT FROM ledger_timeline WHERE moved_at IS NOT DISTINCT FROM %(noticed_at)s))
"""


async def settle(
    connection: AsyncConnection, batch: Sequence[ClosedAttempt], ids_source: Ids, standing: Standing | None = None
) -> None:
    """Book a batch in one round trip, or where rows of it are booked already or come late, in a few. `standing` is of
    the node that books.

    Raises psycopg.Error for a row that can never be booked, when all before it are, and LedgerPromoted when a lease
    does not cover its rows because the server is another than the one that granted it: not until it is presented."""
    parameters = settle_parameters(batch, ids_source)
    fresh = SETTLE_FRESH if parameters["rare"] is _NO_RARE else SETTLE_FRESH_OF_ALL_UNITS
    for statement in (fresh, SETTLE_AGAIN):
        try:
            await connection.execute(statement, parameters, prepare=True)
        except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation):
            continue
        return
    if standing is not None and not await _is_presented(connection, standing):
        raise LedgerPromoted
    for attempt in batch:
        parameters = settle_parameters([attempt], ids_source, transfers=_IDS_OF_LATE)
        parameters |= {
            "node_id": None if standing is None else standing.node_id,
            "node_epoch": None if standing is None else standing.node_epoch,
            "forgotten_for_s": FORGOTTEN_FOR_S,
        }
        parameters |= {"draw_id": UUID(bytes=attempt.open.lease_id), "org_id": UUID(bytes=attempt.open.org_id)}
        await connection.execute(SETTLE_LATE, parameters, prepare=True)


async def _is_presented(connection: AsyncConnection, standing: Standing) -> bool:
    term = standing.term
    parameters = {"node_id": standing.node_id, "timeline": term.timeline, "noticed_at": term.noticed_at}
    return await (await connection.execute(IS_PRESENTED, parameters)).fetchone() == (True,)


def settle_parameters(
    batch: Sequence[ClosedAttempt], ids_source: Ids, *, transfers: int | None = None
) -> dict[str, object]:
    """What the statements take; `transfers` ids are made for the general ledger, by default one for each lease.
    Attempts are ordered by id, so that two batches never wait for each other in a ring."""
    ids: list[bytes] = []
    rows: list[bytes] = []
    texts: dict[tuple[str, str, str, str], int] = {}
    ordered = sorted(batch, key=_attempt_id)
    for attempt in ordered:
        opened, closed, usage = attempt.open, attempt.close, attempt.close.usage
        ids += (
            opened.attempt_id,
            opened.execution_id,
            opened.org_id,
            opened.lease_id,
            opened.api_key_id,
            closed.answer or _NO_ANSWER,
        )
        named = (opened.model, opened.provider, opened.deployment, closed.error_code)
        place = texts.setdefault(named, len(texts) + 1)
        flags = _ESTIMATED * usage.is_estimated + _FINAL * closed.is_final + _STREAM * opened.is_stream
        # fmt: off
        rows.append(_ROW.pack(
            8, closed.charge_nanos,
            8, closed.cogs_nanos,
            8, opened.price_version,
            8, usage.input_tokens,
            8, usage.cache_read_tokens,
            8, usage.cache_write_5m_tokens,
            8, usage.cache_write_1h_tokens,
            8, usage.output_tokens,
            8, usage.reasoning_tokens,
            8, opened.accepted_at_ms,
            8, closed.closed_at_ms,
            8, closed.first_content_ms,
            8, closed.outcome | flags << 8 | opened.attempt_number << 16 | closed.status << 24 | place << 40,
        ))
        # fmt: on
    lease_ids = sorted(set(ids[_IDS.index("lease_id") :: len(_IDS)]))
    models, providers, deployments, error_codes = zip(*texts, strict=True) if texts else ((),) * len(_TEXTS)
    return {
        "count": len(rows),
        "ids": UuidArray(ids),
        "numbers": Int8Array(rows, len(rows) * len(_NUMBERS)),
        "rare": _rare_units(ordered),
        "models": list(models),
        "providers": list(providers),
        "deployments": list(deployments),
        "error_codes": list(error_codes),
        "lease_ids": UuidArray(lease_ids),
        "transfer_ids": UuidArray([ids_source.new() for _ in range(transfers or len(lease_ids))]),
        "cost_ids": UuidArray([ids_source.new() for _ in _COST_KINDS]),
    }


def _rare_units(batch: Sequence[ClosedAttempt]) -> Int8Array:
    """Those of every row, when any row has one."""
    if not any(attempt.close.usage.has_rare_units for attempt in batch):
        return _NO_RARE
    rows = [
        _RARE_ROW.pack(
            *(8, usage.audio_input_tokens),
            *(8, usage.image_input_tokens),
            *(8, usage.audio_output_tokens),
            *(8, usage.images),
            *(8, usage.duration_ms),
            *(8, usage.characters),
        )
        for usage in [attempt.close.usage for attempt in batch]
    ]
    return Int8Array(rows, len(rows) * len(_RARE_UNITS))


def _attempt_id(attempt: ClosedAttempt) -> bytes:
    return attempt.open.attempt_id
