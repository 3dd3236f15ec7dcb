"""The books checked against themselves: every nano that came in is in a wallet, in a lease, or was charged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from psycopg import AsyncConnection

from waypost.kit.ids import text
from waypost.kit.money import Nanos
from waypost.ledger.account import AccountKind, TransferCode
from waypost.storage.ledger_rules import QUICK, SETTLED, THOROUGH, Rule
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.pool import Pool

TOTALS = f"""
WITH booked AS ({SETTLED}),
rest AS (
    SELECT granted - settled - released - suspended AS room,
           least(held_reported, granted - settled - released - suspended) AS held,
           node.epoch = node_epoch AND heartbeat_at > now() - make_interval(secs => %(orphaned_after_s)s) AS is_live
      FROM lease JOIN node ON node.id = lease.node_id
),
-- By their transfers, which stay when the corrections themselves are gone; a rule holds these against each other.
corrected AS (
    SELECT CASE WHEN credit = {AccountKind.PAYABLE.value} THEN amount ELSE -amount END AS amount
      FROM transfer WHERE code = {TransferCode.COST_CORRECTION.value}
),
long AS (SELECT coalesce(sum(amount) FILTER (WHERE state = 'HELD'), 0) AS held, sum(charge) AS charge FROM long_hold)
SELECT coalesce((SELECT sum(amount) FROM topup), 0) - coalesce((SELECT sum(amount) FROM chargeback), 0),
       coalesce((SELECT sum(charge - refunded) FROM booked), 0) + coalesce((SELECT charge FROM long), 0),
       coalesce((SELECT sum(cogs) FROM booked), 0) + coalesce((SELECT sum(amount) FROM corrected), 0),
       (SELECT sum(house) FROM booked),
       coalesce((SELECT sum(available) FROM wallet), 0) + coalesce(sum(room - held) FILTER (WHERE is_live), 0),
       coalesce(sum(held) FILTER (WHERE is_live), 0) + (SELECT held FROM long),
       coalesce((SELECT sum(suspense) FROM wallet), 0) + coalesce(sum(room) FILTER (WHERE NOT is_live), 0)
  FROM rest
"""  # noqa: S608 - put together from texts of ours

VIOLATIONS_MAX = 100  # of each kind: enough to see what is wrong


class LedgerTotals(msgspec.Struct, frozen=True):
    """Sums over all organisations; `available` as in a balance, with the unheld parts of live leases."""

    credited_nanos: Nanos  # less chargebacks
    charged_nanos: Nanos  # less refunds
    cogs_nanos: Nanos
    house_nanos: Nanos  # worth of attempts that no lease covered any more
    available_nanos: Nanos
    held_nanos: Nanos
    suspense_nanos: Nanos


class LedgerCheck(msgspec.Struct, frozen=True):
    violations: tuple[str, ...]
    totals: LedgerTotals


async def check_ledger(pool: Pool) -> LedgerCheck:
    """Every rule over one view of the books; lines of what breaks them. `pool` is the app's, here and below."""
    async with pool.system(is_view=True, is_patient=True) as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        violations = await _broken(connection, THOROUGH)
        totals = await (await connection.execute(TOTALS, {"orphaned_after_s": ORPHANED_AFTER_S})).fetchone()
    assert totals is not None
    return LedgerCheck(tuple(violations), LedgerTotals(*(int(amount or 0) for amount in totals)))


async def check_quickly(pool: Pool) -> tuple[str, ...]:
    """The rules that cost little: what breaks them."""
    async with pool.system(is_view=True) as connection:
        return tuple(await _broken(connection, QUICK))


async def _broken(connection: AsyncConnection, rules: Sequence[Rule]) -> list[str]:
    lines = []
    for rule in rules:
        rows = await (await connection.execute(rule.statement)).fetchmany(VIOLATIONS_MAX)
        for subject, *numbers in rows:
            if rule.kind:
                lines.append(f"{text(rule.kind, subject.bytes)}: {rule.sentence.format(*numbers)}")
            else:
                lines.append(rule.sentence.format(subject, *numbers))
    return lines
