"""The rules of the books, each a query for what breaks it: an id or a name first, then the numbers of its sentence.

The quick ones read what grows with organisations, open leases and what is not sealed yet; the others read everything.
"""

from __future__ import annotations

import msgspec

from waypost.ledger.account import AccountKind as Kind
from waypost.storage.general_ledger import BROKEN_SEALS

_CREDIT_NORMAL = ", ".join(str(kind.value) for kind in Kind if not kind.is_debit_normal)
_OF_ORG = ", ".join(str(kind.value) for kind in Kind if kind.is_of_org)
_EXPENSES = (
    Kind.COGS_PROVIDER,
    Kind.COGS_FAILED_ATTEMPT,
    Kind.HOUSE_CRASH,
    Kind.HOUSE_OVERRUN,
    Kind.HOUSE_LATE,
)
_COSTS = ", ".join(str(kind.value) for kind in _EXPENSES)


class Rule(msgspec.Struct, frozen=True):
    kind: str  # of the first column's id; "" for a name
    sentence: str
    statement: str


_ZERO_SUM = """
SELECT 'general ledger', debits, credits
  FROM (SELECT coalesce(sum(debits), 0) AS debits, coalesce(sum(credits), 0) AS credits FROM account) AS summed
 WHERE debits <> credits
"""

# Both sides of every transfer, signed so that each account's balance is positive.
_SIDES = f"""
SELECT kind, CASE WHEN kind IN ({_OF_ORG}) THEN org_id END AS org_id,
       CASE WHEN (kind IN ({_CREDIT_NORMAL})) = is_credit THEN amount ELSE -amount END AS amount, ref
  FROM (SELECT debit AS kind, org_id, amount, ref, false AS is_credit, batch FROM transfer
         UNION ALL
        SELECT credit, org_id, amount, ref, true, batch FROM transfer) AS side
"""  # noqa: S608 - put together from numbers of ours, here and below

_SEALED = f"""
SELECT kind, CASE WHEN kind IN ({_OF_ORG}) THEN org_id END,
       CASE WHEN kind IN ({_CREDIT_NORMAL}) THEN credits - debits ELSE debits - credits END
  FROM account
"""  # noqa: S608

# What the sub-ledgers say that each organisation's accounts hold.
_OF_SUB_LEDGERS = f"""
SELECT {Kind.WALLET} AS kind, org_id, available AS amount FROM wallet
 UNION ALL SELECT {Kind.SUSPENSE}, org_id, suspense FROM wallet
 UNION ALL SELECT {Kind.RECEIVABLE}, org_id, receivable FROM wallet
 UNION ALL SELECT {Kind.LEASE}, org_id, granted - settled - released - suspended FROM lease WHERE state <> 'CLOSED'
 UNION ALL SELECT {Kind.HOLD}, org_id, amount FROM long_hold WHERE state = 'HELD'
"""  # noqa: S608

_BALANCES = f"""
SELECT org_id, kind, coalesce(posted, 0), coalesce(held, 0)
  FROM (SELECT kind, org_id, sum(amount) AS posted
          FROM ({_SEALED} UNION ALL SELECT kind, org_id, amount FROM ({_SIDES} WHERE batch IS NULL) AS fresh)
               AS account (kind, org_id, amount)
         GROUP BY kind, org_id) AS general
  FULL JOIN (SELECT kind, org_id, sum(amount) AS held FROM ({_OF_SUB_LEDGERS}) AS own GROUP BY kind, org_id) AS own
       USING (kind, org_id)
 WHERE kind IN ({Kind.WALLET}, {Kind.SUSPENSE}, {Kind.RECEIVABLE}, {Kind.LEASE}, {Kind.HOLD})
   AND coalesce(posted, 0) <> coalesce(held, 0)
"""  # noqa: S608

_SUSPENSE = """
SELECT wallet.org_id, suspense, coalesce(suspended, 0)
  FROM wallet
  LEFT JOIN (SELECT org_id, sum(suspended) AS suspended FROM lease WHERE state <> 'CLOSED' GROUP BY org_id) AS lease
       USING (org_id)
 WHERE suspense <> coalesce(suspended, 0)
"""

_LEASE_BOUNDS = """
SELECT id, granted, settled, released, suspended
  FROM lease
 WHERE state <> 'CLOSED'
   AND NOT (least(granted, settled, released, suspended, held_reported) >= 0
            AND settled + released + suspended <= granted)
"""

_CLOSED_LEASES = (
    "SELECT id, granted, settled, released FROM lease WHERE state = 'CLOSED' AND settled + released <> granted"
)

# What attempts were charged and cost: their rows, and the sums that are left of those that are gone.
SETTLED = """
SELECT org_id, lease_id, charge, refunded, house, cogs FROM settlement
 UNION ALL SELECT org_id, lease_id, charge, refunded, house, cogs FROM settled_sum
"""

_WALLETS = f"""
SELECT wallet.org_id, coalesce(credited, 0), coalesce(taken_back, 0), receivable, coalesce(refunded, 0), available,
       suspense, coalesce(rest, 0), coalesce(held, 0), coalesce(charged, 0) + coalesce(charged_holds, 0)
  FROM wallet
  LEFT JOIN (SELECT org_id, sum(amount) AS credited FROM topup GROUP BY org_id) AS topup USING (org_id)
  LEFT JOIN (SELECT org_id, sum(amount) AS taken_back FROM chargeback GROUP BY org_id) AS chargeback USING (org_id)
  LEFT JOIN (SELECT org_id, sum(amount) AS refunded FROM refund GROUP BY org_id) AS refund USING (org_id)
  LEFT JOIN (SELECT org_id, sum(granted - settled - released - suspended) AS rest FROM lease GROUP BY org_id) AS lease
      USING (org_id)
  LEFT JOIN (SELECT org_id, sum(amount) FILTER (WHERE state = 'HELD') AS held, sum(charge) AS charged_holds
               FROM long_hold GROUP BY org_id) AS hold USING (org_id)
  LEFT JOIN (SELECT org_id, sum(charge) AS charged FROM ({SETTLED}) AS booked GROUP BY org_id) AS settlement
       USING (org_id)
 WHERE coalesce(credited, 0) - coalesce(taken_back, 0) + receivable + coalesce(refunded, 0)
    <> available + suspense + coalesce(rest, 0) + coalesce(held, 0) + coalesce(charged, 0) + coalesce(charged_holds, 0)
"""  # noqa: S608

_LEASES = f"""
SELECT coalesce(lease.id, booked.lease_id), coalesce(lease.settled, 0), coalesce(booked.charge, 0)
  FROM lease
  FULL JOIN (SELECT lease_id, org_id, sum(charge) AS charge FROM ({SETTLED}) AS attempt GROUP BY lease_id, org_id)
       AS booked ON booked.lease_id = lease.id AND booked.org_id = lease.org_id
 WHERE coalesce(lease.settled, 0) <> coalesce(booked.charge, 0)
"""  # noqa: S608

_POSTED_LEASES = f"""
SELECT coalesce(lease.id, ref), coalesce(granted - settled - released - suspended, 0), coalesce(posted, 0)
  FROM lease
  FULL JOIN (SELECT ref, sum(amount) AS posted FROM ({_SIDES}) AS side WHERE kind = {Kind.LEASE} GROUP BY ref) AS side
       ON ref = lease.id
 WHERE coalesce(granted - settled - released - suspended, 0) <> coalesce(posted, 0)
"""  # noqa: S608

_HOUSE = f"""
SELECT name, posted, booked
  FROM (SELECT 'revenue' AS name, {Kind.REVENUE} AS kind,
               (SELECT coalesce(sum(charge - refunded), 0) FROM ({SETTLED}) AS attempt)
             + (SELECT coalesce(sum(charge - refunded), 0) FROM long_hold) AS booked
         UNION ALL SELECT 'cash', {Kind.CASH},
               (SELECT coalesce(sum(amount) FILTER (WHERE NOT is_promo), 0) FROM topup)
             - (SELECT coalesce(sum(amount), 0) FROM chargeback)
         UNION ALL SELECT 'promo', {Kind.PROMO}, (SELECT coalesce(sum(amount) FILTER (WHERE is_promo), 0) FROM topup)
       ) AS own
  LEFT JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS posted FROM ({_SIDES}) AS side WHERE side.kind = own.kind)
       AS general ON true
 WHERE posted <> booked
"""  # noqa: S608

_COST = f"""
SELECT 'cost of goods', posted, booked
  FROM (SELECT coalesce(sum(amount), 0) AS posted FROM transfer WHERE code = 4 AND debit IN ({_COSTS})) AS general,
       (SELECT coalesce(sum(cogs), 0) AS booked FROM ({SETTLED}) AS attempt) AS own
 WHERE posted <> booked
"""  # noqa: S608

# Of what is still kept: the transfers stay when settlements and their corrections are gone.
_CORRECTIONS = """
SELECT 'correction of ' || subject, raised - lowered, coalesce(posted, 0), coalesce(cogs, raised)
  FROM cost_correction
  LEFT JOIN (SELECT ref, kind, sum(amount)::bigint AS posted
               FROM (SELECT ref, debit AS kind, amount FROM transfer WHERE code = 14
                      UNION ALL SELECT ref, credit, -amount FROM transfer WHERE code = 14) AS side
              GROUP BY ref, kind) AS general ON ref = subject AND general.kind = cost_correction.kind
  LEFT JOIN settlement ON attempt_id = subject
 WHERE raised - lowered <> coalesce(posted, 0) OR lowered > coalesce(cogs, lowered)
"""

_ACCOUNTS = f"""
SELECT 'account ' || kind, sealed, posted
  FROM (SELECT kind, sum(amount) AS sealed FROM ({_SEALED}) AS account (kind, org_id, amount) GROUP BY kind) AS account
  FULL JOIN (SELECT kind, sum(amount) AS posted FROM ({_SIDES} WHERE batch IS NOT NULL) AS side GROUP BY kind) AS side
       USING (kind)
 WHERE coalesce(sealed, 0) <> coalesce(posted, 0)
"""  # noqa: S608

_SEALS = f"SELECT 'seal ' || batch FROM ({BROKEN_SEALS}) AS broken"  # noqa: S608

_REFUNDS = """
SELECT attempt_id, charged.refunded, coalesce(given.amount, 0)
  FROM (SELECT attempt_id, refunded FROM settlement UNION ALL SELECT id, refunded FROM long_hold) AS charged
  LEFT JOIN (SELECT attempt_id, sum(amount) AS amount FROM refund GROUP BY attempt_id) AS given USING (attempt_id)
 WHERE charged.refunded <> coalesce(given.amount, 0)
"""

_REFUNDED = f"""
SELECT org_id, coalesce(marked, 0), coalesce(given, 0)
  FROM (SELECT org_id, sum(refunded) AS marked
          FROM (SELECT org_id, refunded FROM ({SETTLED}) AS attempt UNION ALL SELECT org_id, refunded FROM long_hold)
               AS charged
         GROUP BY org_id) AS charged
  FULL JOIN (SELECT org_id, sum(amount) AS given FROM refund GROUP BY org_id) AS given USING (org_id)
 WHERE coalesce(marked, 0) <> coalesce(given, 0)
"""  # noqa: S608

_EXECUTIONS = """
SELECT execution.id, execution.charge, coalesce(booked.charge, 0) + coalesce(long_hold.charge, 0)
  FROM execution
  LEFT JOIN (SELECT org_id, execution_id, sum(charge) AS charge FROM settlement GROUP BY org_id, execution_id) AS booked
       ON booked.execution_id = execution.id AND booked.org_id = execution.org_id
  LEFT JOIN long_hold ON long_hold.id = execution.id AND long_hold.org_id = execution.org_id
 WHERE execution.charge <> coalesce(booked.charge, 0) + coalesce(long_hold.charge, 0)
"""

_ENDED_HOLDS = """
SELECT asynchronous_execution.id, asynchronous_execution.state, long_hold.state, long_hold.charge, execution.charge
  FROM asynchronous_execution
  LEFT JOIN long_hold USING (id)
  LEFT JOIN execution USING (id)
 WHERE CASE WHEN asynchronous_execution.ended_at IS NULL
            THEN long_hold.state IS DISTINCT FROM 'HELD' OR execution.id IS NOT NULL
            ELSE long_hold.state IS NOT DISTINCT FROM 'HELD' OR execution.charge IS DISTINCT FROM long_hold.charge
                 OR (asynchronous_execution.state <> 'SUCCEEDED' AND long_hold.charge > 0) END
"""

_TENANTS = """
SELECT execution.id
  FROM execution JOIN api_key ON api_key.id = execution.api_key_id
 WHERE execution.org_id <> api_key.org_id
"""

_BUDGETS = """
SELECT owner_id, taken, coalesce(drawn, 0)
  FROM budget_window
  LEFT JOIN (SELECT owner_id, period, starts_at, sum(coalesce(granted - released, kept)) AS drawn
               FROM budget_draw
               LEFT JOIN lease ON lease.id = draw_id
               LEFT JOIN (SELECT id, CASE state WHEN 'HELD' THEN amount ELSE charge END AS kept FROM long_hold) AS hold
                    ON hold.id = draw_id
              GROUP BY owner_id, period, starts_at) AS draw USING (owner_id, period, starts_at)
 WHERE taken <> coalesce(drawn, 0)
"""

_TYPES = """
SELECT relname || '.' || attname
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
   AND atttypid IN ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype, 'money'::regtype)
"""

QUICK = (
    Rule("", "{}: debits {} are not credits {}", _ZERO_SUM),
    Rule("org", "account {} says {}, the books {}", _BALANCES),
    Rule("org", "suspense {}, but its leases have {} there", _SUSPENSE),
    Rule("lease", "granted {}, settled {}, released {}, suspended {}", _LEASE_BOUNDS),
)
THOROUGH = (
    *QUICK,
    Rule("lease", "closed with granted {}, settled {}, released {}", _CLOSED_LEASES),
    Rule(
        "org",
        "credited {} − taken back {} + owed {} + refunded {} is not available {} + suspense {} + in leases {} "
        "+ held {} + charged {}",
        _WALLETS,
    ),
    Rule("lease", "settled {}, but its attempts were charged {}", _LEASES),
    Rule("lease", "has {}, but its transfers come to {}", _POSTED_LEASES),
    Rule("", "{}: transfers come to {}, the books to {}", _HOUSE),
    Rule("", "{}: transfers come to {}, settlements to {}", _COST),
    Rule("", "{}: {}, but its transfers come to {}, and its attempt cost {}", _CORRECTIONS),
    Rule("", "{}: sealed {}, but its sealed transfers come to {}", _ACCOUNTS),
    Rule("", "{}: its transfers are not what was sealed", _SEALS),
    Rule("attempt", "refunded {}, but its refunds are {}", _REFUNDS),
    Rule("org", "refunded {} in all, but its refunds are {}", _REFUNDED),
    Rule("exec", "charge {}, but its attempts and its hold were charged {}", _EXECUTIONS),
    Rule("exec", "is {}, its hold {} with charge {}, and its row says {}", _ENDED_HOLDS),
    Rule("exec", "its key belongs to another organisation", _TENANTS),
    Rule("budget", "{} taken in a window, but its leases and holds took {}", _BUDGETS),
    Rule("", "{}: money is a whole number of nano-dollars", _TYPES),
)
