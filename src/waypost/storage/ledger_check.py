"""The books checked against themselves: every nano that came in is in a wallet, in a lease, or was charged."""

from __future__ import annotations

import msgspec

from waypost.kit.ids import text
from waypost.kit.money import Nanos
from waypost.storage.ledger import ORPHANED_AFTER_S
from waypost.storage.pool import Pool

WALLETS = """
SELECT wallet.org_id, coalesce(credited, 0), coalesce(refunded, 0), available, coalesce(rest, 0), coalesce(charged, 0)
  FROM wallet
  LEFT JOIN (SELECT org_id, sum(amount) AS credited FROM topup GROUP BY org_id) AS topup USING (org_id)
  LEFT JOIN (SELECT org_id, sum(amount) AS refunded FROM refund GROUP BY org_id) AS refund USING (org_id)
  LEFT JOIN (SELECT org_id, sum(granted - settled - released) AS rest FROM lease GROUP BY org_id) AS lease
      USING (org_id)
  LEFT JOIN (SELECT org_id, sum(charge) AS charged FROM settlement GROUP BY org_id) AS settlement USING (org_id)
 WHERE coalesce(credited, 0) + coalesce(refunded, 0) <> available + coalesce(rest, 0) + coalesce(charged, 0)
"""

LEASES = """
SELECT coalesce(lease.id, booked.lease_id), coalesce(lease.settled, 0), coalesce(booked.charge, 0)
  FROM lease
  FULL JOIN (SELECT lease_id, org_id, sum(charge) AS charge FROM settlement GROUP BY lease_id, org_id) AS booked
       ON booked.lease_id = lease.id AND booked.org_id = lease.org_id
 WHERE coalesce(lease.settled, 0) <> coalesce(booked.charge, 0)
"""

REFUNDS = """
SELECT attempt_id, coalesce(settlement.refunded, 0), coalesce(given.amount, 0)
  FROM (SELECT attempt_id, refunded FROM settlement WHERE refunded > 0) AS settlement
  FULL JOIN (SELECT attempt_id, sum(amount) AS amount FROM refund GROUP BY attempt_id) AS given USING (attempt_id)
 WHERE coalesce(settlement.refunded, 0) <> coalesce(given.amount, 0)
"""

EXECUTIONS = """
SELECT execution.id, execution.charge, coalesce(booked.charge, 0)
  FROM execution
  LEFT JOIN (SELECT execution_id, sum(charge) AS charge FROM settlement GROUP BY execution_id) AS booked
       ON booked.execution_id = execution.id
 WHERE execution.charge <> coalesce(booked.charge, 0)
"""

TOTALS = """
WITH rest AS (
    SELECT granted - settled - released AS room,
           least(held_reported, granted - settled - released) AS held,
           node.epoch = node_epoch AND heartbeat_at > now() - make_interval(secs => %(orphaned_after_s)s) AS is_live
      FROM lease JOIN node ON node.id = lease.node_id
)
SELECT (SELECT sum(amount) FROM topup),
       (SELECT sum(charge - refunded) FROM settlement),
       (SELECT sum(cogs) FROM settlement),
       (SELECT sum(house) FROM settlement),
       coalesce((SELECT sum(available) FROM wallet), 0) + coalesce(sum(room - held) FILTER (WHERE is_live), 0),
       sum(held) FILTER (WHERE is_live),
       sum(room) FILTER (WHERE NOT is_live)
  FROM rest
"""

_RULES = (
    (WALLETS, "org", "credited {} + refunded {} is not available {} + in leases {} + charged {}"),
    (LEASES, "lease", "settled {}, but its attempts were charged {}"),
    (REFUNDS, "attempt", "refunded {}, but its refunds are {}"),
    (EXECUTIONS, "exec", "charge {}, but its attempts were charged {}"),
)
VIOLATIONS_MAX = 100  # of each kind: enough to see what is wrong


class LedgerTotals(msgspec.Struct, frozen=True):
    """Sums over all organisations; `available` as in a balance, with the unheld parts of live leases."""

    credited_nanos: Nanos
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
    """Every rule over one view of the books; lines of what breaks them. `pool` is the app's."""
    violations = []
    async with pool.system(is_view=True, is_patient=True) as connection:
        await connection.execute("SET LOCAL statement_timeout = 0")
        for statement, kind, sentence in _RULES:
            rows = await (await connection.execute(statement)).fetchmany(VIOLATIONS_MAX)
            violations += [f"{text(kind, row[0].bytes)}: {sentence.format(*row[1:])}" for row in rows]
        totals = await (await connection.execute(TOTALS, {"orphaned_after_s": ORPHANED_AFTER_S})).fetchone()
    assert totals is not None
    return LedgerCheck(tuple(violations), LedgerTotals(*(int(amount or 0) for amount in totals)))
