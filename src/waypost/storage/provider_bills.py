"""Providers' bills beside the settlements: the lines that were imported, and the corrections of cost that follow.

A correction is kept as what an attempt, or a group as a whole, costs more or less than was booked. Importing again
computes the same again; only what differs from before is posted to the general ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from waypost.kit.ids import Ids, lowest_at
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.bill_file import BillLine
from waypost.ledger.reconciliation import THE_GROUP, BookedAttempt, Group, reconcile_group
from waypost.ledger.record import Outcome
from waypost.storage.pool import Pool
from waypost.storage.retention import kept_from
from waypost.storage.settlement import COST_KIND

_LOCK = 0x6269_6C6C  # any number, the same everywhere: bills are imported one after the other
_DAY = timedelta(days=1)

IS_KNOWN = "SELECT EXISTS (SELECT FROM settlement WHERE provider = %(provider)s)"

# Where a line was before: a later file may say that it belongs to another day or model.
EARLIER = """
SELECT DISTINCT day, model FROM provider_bill_line WHERE provider = %(provider)s AND key = ANY (%(keys)s)
"""

# A file of sums replaces one of requests for the same model and day, and the other way round: both say the whole.
REPLACE = """
DELETE FROM provider_bill_line AS line
 USING unnest(%(days)s::date[], %(models)s::text[], %(by_request)s::boolean[]) AS said (day, model, is_by_request)
 WHERE provider = %(provider)s AND line.day = said.day AND line.model = said.model
   AND (line.answer IS NOT NULL) <> said.is_by_request
"""

IMPORT = """
INSERT INTO provider_bill_line AS known (provider, key, day, model, amount, answer)
SELECT %(provider)s, key, day, model, amount, answer
  FROM unnest(%(keys)s::uuid[], %(days)s::date[], %(models)s::text[], %(amounts)s::bigint[], %(answers)s::uuid[])
       AS line (key, day, model, amount, answer)
    ON CONFLICT (provider, key) DO UPDATE
   SET day = excluded.day, model = excluded.model, amount = excluded.amount, imported_at = now()
 WHERE (known.day, known.model, known.amount) <> (excluded.day, excluded.model, excluded.amount)
"""

LINES = """
SELECT key, day, model, amount, answer
  FROM provider_bill_line
 WHERE provider = %(provider)s AND model = %(model)s AND day BETWEEN %(first)s AND %(last)s
"""

# The id's time is when the attempt was opened, so the bounds prune whole partitions.
ATTEMPTS = f"""
SELECT attempt_id, execution_id, cogs, charge, is_estimated OR outcome = {Outcome.CRASHED.value}, answer, {COST_KIND}
  FROM settlement
 WHERE attempt_id >= %(lowest)s AND attempt_id < %(highest)s AND deployment = %(deployment)s
"""  # noqa: S608 - put together from names of ours

CORRECTIONS = """
SELECT subject, kind, raised - lowered
  FROM cost_correction
 WHERE provider = %(provider)s AND day = %(day)s AND model = %(model)s OR subject = ANY (%(subjects)s)
"""

CORRECT = """
INSERT INTO cost_correction (provider, day, model, subject, kind, raised, lowered)
SELECT %(provider)s, %(day)s, %(model)s, subject, kind, greatest(amount, 0), greatest(-amount, 0)
  FROM unnest(%(subjects)s::uuid[], %(kinds)s::smallint[], %(amounts)s::bigint[]) AS wanted (subject, kind, amount)
    ON CONFLICT (subject, kind) DO UPDATE
   SET day = excluded.day, model = excluded.model, raised = excluded.raised, lowered = excluded.lowered,
       corrected_at = now()
"""

POST = f"""
INSERT INTO transfer (id, code, debit, credit, ref, amount)
SELECT id, {TransferCode.COST_CORRECTION.value},
       CASE WHEN change > 0 THEN kind ELSE {AccountKind.PAYABLE.value} END,
       CASE WHEN change > 0 THEN {AccountKind.PAYABLE.value} ELSE kind END,
       subject, abs(change)
  FROM unnest(%(ids)s::uuid[], %(subjects)s::uuid[], %(kinds)s::smallint[], %(changes)s::bigint[])
       AS correction (id, subject, kind, change)
"""  # noqa: S608

# What is older than the settlements says nothing any more.
FORGET = """
WITH gone AS (DELETE FROM provider_bill_line WHERE day < %(before)s)
DELETE FROM cost_correction WHERE day < %(before)s
"""


class Imported(msgspec.Struct, frozen=True):
    """What an import came to."""

    lines_new: int  # or changed; the others were imported before
    corrected_nanos: int  # by how much the cost of goods changed
    groups: tuple[Group, ...]  # by day and model


def oldest_billed(today: date) -> date:
    """The first day whose lines can still be compared. A bill of the first kept day may name attempts that were opened
    the evening before, whose settlements are gone: they would be booked as cost a second time."""
    return kept_from(today).first_day + _DAY


async def is_provider_known(pool: Pool, provider: str) -> bool:
    """Whether anything was ever settled with it. `pool` is the settling role's."""
    async with pool.connection() as connection:
        row = await (await connection.execute(IS_KNOWN, {"provider": provider})).fetchone()
    return row == (True,)


async def import_bill(pool: Pool, ids: Ids, *, provider: str, lines: Sequence[BillLine], today: date) -> Imported:
    """Take lines over, compare every group that they touch, and correct the costs; all of it or nothing. A group before
    `oldest_billed`, which a line was moved out of, stays as it is. `pool` is the settling role's."""
    async with pool.connection(is_patient=True) as connection, connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        touched, lines_new = await _take_over(connection, provider, lines)
        await connection.execute(FORGET, {"before": kept_from(today).first_day})
        oldest = oldest_billed(today)
        touched = {(day, model) for day, model in touched if day >= oldest}
        groups, corrected = [], 0
        for model in sorted({model for _, model in touched}):
            for day, found in await _reconcile_model(connection, provider, model, touched):
                corrected += await _correct(connection, ids, provider, day, model, found)
                groups.append(found)
    groups.sort(key=lambda group: (group.day, group.model))
    return Imported(lines_new, corrected, tuple(groups))


async def _take_over(
    connection: AsyncConnection, provider: str, lines: Sequence[BillLine]
) -> tuple[set[tuple[date, str]], int]:
    """The groups that have to be compared (again), and how many lines are new."""
    said = {(line.day, line.model): bool(line.answer) for line in lines}
    keys = [UUID(bytes=line.key) for line in lines]
    earlier = await (await connection.execute(EARLIER, {"provider": provider, "keys": keys})).fetchall()
    await connection.execute(
        REPLACE,
        {
            "provider": provider,
            "days": [day for day, _ in said],
            "models": [model for _, model in said],
            "by_request": list(said.values()),
        },
    )
    taken = await connection.execute(
        IMPORT,
        {
            "provider": provider,
            "keys": keys,
            "days": [line.day for line in lines],
            "models": [line.model for line in lines],
            "amounts": [line.amount_nanos for line in lines],
            "answers": [UUID(bytes=line.answer) if line.answer else None for line in lines],
        },
    )
    return {*said, *((day, model) for day, model in earlier)}, taken.rowcount


async def _reconcile_model(
    connection: AsyncConnection, provider: str, model: str, touched: Iterable[tuple[date, str]]
) -> list[tuple[date, Group]]:
    """The touched days of one model. A request shortly before midnight may be on the bill of the next day: what a line
    of a neighbouring day names belongs there."""
    compared = []
    for day in sorted(day for day, of_model in touched if of_model == model):
        around = {"provider": provider, "model": model, "first": day - _DAY, "last": day + _DAY}
        rows = await (await connection.execute(LINES, around)).fetchall()
        lines = [BillLine(row[0].bytes, row[1], row[2], row[3], row[4].bytes if row[4] else b"") for row in rows]
        day_of_answer = {line.answer: line.day for line in lines if line.answer}
        attempts = [
            attempt
            for own_day in (day - _DAY, day, day + _DAY)
            for attempt in await _attempts(connection, f"{provider}/{model}", own_day)
            if day_of_answer.get(attempt.answer, own_day) == day
        ]
        compared.append((day, reconcile_group(day, model, [line for line in lines if line.day == day], attempts)))
    return compared


async def _attempts(connection: AsyncConnection, deployment: str, day: date) -> list[BookedAttempt]:
    parameters = {"deployment": deployment, "lowest": _lowest_id(day), "highest": _lowest_id(day + _DAY)}
    rows = await (await connection.execute(ATTEMPTS, parameters)).fetchall()
    return [
        BookedAttempt(
            row[0].bytes, row[1].bytes, row[2], row[3], row[4], row[5].bytes if row[5] else b"", AccountKind(row[6])
        )
        for row in rows
    ]


async def _correct(connection: AsyncConnection, ids: Ids, provider: str, day: date, model: str, found: Group) -> int:
    """Make the corrections of a group what was found; the change of its cost."""
    whole = UUID(bytes=blake2b(msgspec.json.encode([provider, day, model]), digest_size=16).digest())
    wanted = {
        (whole if subject == THE_GROUP else UUID(bytes=subject), int(kind)): amount
        for (subject, kind), amount in found.corrections.items()
    }
    place = {"provider": provider, "day": day, "model": model}
    subjects = [subject for subject, _ in wanted]
    rows = await (await connection.execute(CORRECTIONS, {**place, "subjects": subjects})).fetchall()
    known = {(subject, kind): amount for subject, kind, amount in rows}
    changes = {at: wanted.get(at, 0) - known.get(at, 0) for at in {**known, **wanted}}
    changes = {at: change for at, change in changes.items() if change}
    if not changes:
        return 0
    columns = {
        "subjects": [subject for subject, _ in changes],
        "kinds": [kind for _, kind in changes],
        "amounts": [wanted.get(at, 0) for at in changes],
        "changes": list(changes.values()),
        "ids": [UUID(bytes=ids.new()) for _ in changes],
    }
    await connection.execute(CORRECT, {**place, **columns})
    await connection.execute(POST, columns)
    return sum(changes.values())


def _lowest_id(day: date) -> UUID:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return UUID(bytes=lowest_at(int(midnight.timestamp()) * 1000))
