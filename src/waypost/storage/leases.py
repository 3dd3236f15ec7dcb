"""Leases in PostgreSQL: granted, extended, recalled, given back. Every decision is one statement.

Locks are taken in one order: the wallet, then the budget windows by owner and period, then the lease. What a locked row
says is its newest state, so a decision is made from that and holds until the statement ends.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.kit.money import Nanos
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.record import BudgetUsedUp, InsufficientFunds, LedgerPromoted, NodeSuperseded
from waypost.storage.general_ledger import posting
from waypost.storage.pool import Pool
from waypost.storage.unpresented import IS_UNPRESENTED, is_unpresented

RECALL_CHANNEL = "waypost_recall"

LOCK_WALLET = "SELECT * FROM wallet WHERE org_id = {} FOR NO KEY UPDATE"

WINDOW_STARTS = "CASE period WHEN 'lifetime' THEN 'epoch'::timestamptz ELSE date_trunc(period, now(), 'UTC') END"
WINDOW_ENDS = "CASE period WHEN 'lifetime' THEN NULL ELSE starts_at + ('1 ' || period)::interval END"

OPEN_WINDOWS = f"""
INSERT INTO budget_window (owner_id, period, starts_at, org_id)
SELECT owner_id, period, {WINDOW_STARTS}, org_id FROM budget WHERE owner_id = ANY (%(owners)s) ORDER BY owner_id, period
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - put together from the texts above

# The windows of now, and what is left of each. `locked` comes first in the join, so the wallet is locked before them.
CURRENT_WINDOWS = f"""
SELECT owner_id, period, starts_at, owner_kind, budget.amount - taken AS room, {WINDOW_ENDS} AS ends_at,
       budget_window.org_id
  FROM locked JOIN budget USING (org_id) JOIN budget_window USING (owner_id, period)
 WHERE owner_id = ANY (%(owners)s) AND starts_at = {WINDOW_STARTS}
 ORDER BY owner_id, period
   FOR NO KEY UPDATE OF budget_window
"""  # noqa: S608

# The windows that a lease was cut for.
DRAWN_WINDOWS = f"""
SELECT owner_id, period, starts_at, owner_kind, budget.amount - taken AS room, {WINDOW_ENDS} AS ends_at
  FROM locked JOIN budget_draw USING (org_id) JOIN budget_window USING (owner_id, period, starts_at)
  JOIN budget USING (owner_id, period)
 WHERE draw_id = %(draw_id)s
 ORDER BY owner_id, period
   FOR NO KEY UPDATE OF budget_window
"""  # noqa: S608

_TAKE = """
UPDATE budget_window
   SET taken = greatest(0, budget_window.taken + ({amount}))
  FROM chain, {source}
 WHERE (budget_window.owner_id, budget_window.period, budget_window.starts_at)
     = (chain.owner_id, chain.period, chain.starts_at)
"""

_TIGHTEST = "(SELECT {} FROM chain ORDER BY room, owner_id, period LIMIT 1)"
TIGHTEST_OF_CHAIN = ", ".join(_TIGHTEST.format(name) for name in ("room", "owner_kind", "period", "ends_at"))


def take_from_windows(amount: str, source: str) -> str:
    """The update that adds to what the windows of `chain` gave; a negative amount comes back."""
    return _TAKE.format(amount=amount, source=source)


# A repeat finds `earlier`. Two at once: the second waits for the wallet's row and then breaks the lease's key.
GRANT = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
chain AS MATERIALIZED ({CURRENT_WINDOWS}),
fits AS MATERIALIZED (
    SELECT org_id
      FROM locked
     WHERE available >= %(amount)s
       AND NOT is_suspended
       AND EXISTS (SELECT FROM node WHERE id = %(node_id)s AND epoch = %(node_epoch)s)
       AND NOT {IS_UNPRESENTED}
       AND NOT EXISTS (SELECT FROM lease WHERE id = %(lease_id)s)
       AND NOT EXISTS (SELECT FROM chain WHERE room < %(amount)s)
),
paid AS (
    UPDATE wallet SET available = wallet.available - %(amount)s FROM fits WHERE wallet.org_id = fits.org_id
),
granted AS (
    INSERT INTO lease (id, org_id, node_id, node_epoch, granted)
    SELECT %(lease_id)s, org_id, %(node_id)s, %(node_epoch)s, %(amount)s FROM fits
    RETURNING granted
),
taken AS ({take_from_windows("%(amount)s", "fits")}),
drawn AS (
    INSERT INTO budget_draw (draw_id, owner_id, period, starts_at, org_id)
    SELECT %(lease_id)s, owner_id, period, starts_at, chain.org_id FROM chain, fits
),
posted AS ({
    posting(
        TransferCode.GRANT,
        AccountKind.WALLET,
        AccountKind.LEASE,
        transfer_id="%(transfer_id)s",
        ref="%(lease_id)s",
        amount="%(amount)s",
        source="fits",
    )
})
SELECT (SELECT granted FROM granted),
       (SELECT granted FROM lease WHERE id = %(lease_id)s AND org_id = %(org_id)s) AS earlier,
       (SELECT CASE WHEN is_suspended THEN 0 ELSE available END FROM locked),
       (SELECT coalesce(max(epoch), 0) FROM node WHERE id = %(node_id)s),
       {IS_UNPRESENTED},
       {TIGHTEST_OF_CHAIN}
"""  # noqa: S608

# A lease whose window has ended is raised no more: what comes now belongs to the next one.
EXTEND = f"""
WITH locked AS MATERIALIZED (
    {LOCK_WALLET.format("(SELECT org_id FROM lease WHERE id = %(draw_id)s)")}
),
chain AS MATERIALIZED ({DRAWN_WINDOWS}),
known AS MATERIALIZED (
    SELECT lease.id, lease.org_id, lease.granted, node.epoch = lease.node_epoch AS is_current,
           lease.state = 'ACTIVE' AND NOT EXISTS (SELECT FROM chain WHERE ends_at <= now()) AS is_open
      FROM lease, locked, node
     WHERE lease.id = %(draw_id)s AND node.id = lease.node_id
       FOR NO KEY UPDATE OF lease
),
fits AS MATERIALIZED (
    SELECT known.id, known.org_id
      FROM known, locked
     WHERE known.granted = %(from)s
       AND is_open AND is_current
       AND available >= %(to)s - %(from)s
       AND NOT is_suspended
       AND NOT {IS_UNPRESENTED}
       AND NOT EXISTS (SELECT FROM chain WHERE room < %(to)s - %(from)s)
),
raised AS (UPDATE lease SET granted = %(to)s FROM fits WHERE lease.id = fits.id),
paid AS (
    UPDATE wallet SET available = wallet.available - (%(to)s - %(from)s) FROM fits WHERE wallet.org_id = fits.org_id
),
taken AS ({take_from_windows("%(to)s - %(from)s", "fits")}),
posted AS ({
    posting(
        TransferCode.GRANT,
        AccountKind.WALLET,
        AccountKind.LEASE,
        transfer_id="%(transfer_id)s",
        ref="id",
        amount="%(to)s - %(from)s",
        source="fits",
    )
})
SELECT EXISTS (SELECT FROM fits), known.granted, is_open, CASE WHEN is_suspended THEN 0 ELSE available END,
       is_current, {IS_UNPRESENTED}, known.org_id, {TIGHTEST_OF_CHAIN}
  FROM known, locked
"""  # noqa: S608

# Others' leases that have something left; their nodes, as far as they live, give back what is free of them. Who was
# asked already is not asked again: it gives back as soon as it has something, or says so with its next heartbeat.
RECALL = """
WITH others AS MATERIALIZED (
    SELECT id, is_recalled, granted - settled - released AS room
      FROM lease
     WHERE org_id = %(org_id)s AND id <> %(lease_id)s
       AND state = 'ACTIVE' AND granted > settled + released
       AND EXISTS (SELECT FROM node
                    WHERE node.id = node_id AND epoch = node_epoch AND heartbeat_at > now() - interval '15 s')
),
asked AS (
    UPDATE lease SET is_recalled = true FROM others WHERE lease.id = others.id AND NOT others.is_recalled
    RETURNING lease.id
)
SELECT coalesce(sum(room), 0)::bigint, CASE WHEN EXISTS (SELECT FROM asked) THEN pg_notify(%(channel)s, '') IS NULL END
  FROM others
"""

# `released` is a total, so a repeat adds nothing. It is never more than is left: what was settled stays settled. What
# of it is in suspense comes from there. A rest that is not returned stays, for attempts that come late.
RELEASE = f"""
WITH locked AS MATERIALIZED (
    {LOCK_WALLET.format("(SELECT org_id FROM lease WHERE id = %(draw_id)s)")}
),
chain AS MATERIALIZED ({DRAWN_WINDOWS}),
known AS MATERIALIZED (
    SELECT lease.*, lease.granted - settled - released - suspended AS room,
           greatest(0, least(coalesce(%(released)s, granted), granted - settled) - released) AS more
      FROM lease, locked
     WHERE id = %(draw_id)s AND state <> 'CLOSED'
       AND (%(node_epoch_below)s::int IS NULL OR node_epoch < %(node_epoch_below)s)
       AND (%(orphaned_for_s)s::float8 IS NULL
            OR state = 'ORPHANED' AND orphaned_at < now() - make_interval(secs => %(orphaned_for_s)s))
       FOR NO KEY UPDATE OF lease
),
back AS MATERIALIZED (
    SELECT id, org_id, more, greatest(0, more - room) AS from_suspense, least(more, room) AS from_lease,
           settled + released + more = granted AS is_all
      FROM known
),
closed AS (
    UPDATE lease
       SET released = released + more,
           suspended = suspended - from_suspense,
           held_reported = CASE WHEN %(is_last)s THEN 0 ELSE held_reported END,
           is_recalled = false,
           state = CASE WHEN NOT %(is_last)s THEN state
                        WHEN is_all THEN 'CLOSED'
                        WHEN state = 'ORPHANED' THEN state
                        ELSE 'DRAINING' END
      FROM back
     WHERE lease.id = back.id
),
paid AS (
    UPDATE wallet
       SET available = available + more, suspense = suspense - from_suspense
      FROM back
     WHERE wallet.org_id = back.org_id
),
taken AS ({take_from_windows("-more", "back")}),
posted AS ({
    posting(
        TransferCode.RELEASE,
        AccountKind.LEASE,
        AccountKind.WALLET,
        transfer_id="%(transfer_id)s",
        ref="id",
        amount="from_lease",
        source="back",
    )
}),
returned AS ({
    posting(
        TransferCode.RETURN,
        AccountKind.SUSPENSE,
        AccountKind.WALLET,
        transfer_id="%(return_id)s",
        ref="id",
        amount="from_suspense",
        source="back",
    )
})
SELECT more FROM back
"""  # noqa: S608


# For who waited behind a call with the same id: the statement's own view is older than its outcome.
EARLIER_GRANT = "SELECT granted FROM lease WHERE id = %(lease_id)s AND org_id = %(org_id)s"


async def grant_lease(pool: Pool, parameters: dict[str, object], amount_nanos: Nanos) -> Nanos:
    """`gateway.ports.Ledger.grant`. `parameters` are the statement's."""
    try:
        row = await _grant(pool, parameters)
    except psycopg.errors.UniqueViolation:
        row = await _grant(pool, parameters)
    granted, earlier, available, epoch, was_promoted, *tightest = row
    result: Nanos | None = granted if granted is not None else earlier
    if result is not None:
        return result
    # A node that is younger than the promoted server's last commit is not known there until it presents itself.
    if was_promoted or epoch < parameters["node_epoch"]:
        raise LedgerPromoted
    if available is None:
        raise LookupError("no wallet")
    async with pool.connection() as connection:
        known = await (await connection.execute(EARLIER_GRANT, parameters)).fetchone()
    if known is not None:
        return int(known[0])
    if epoch != parameters["node_epoch"]:
        raise NodeSuperseded
    recallable = await recall(pool, parameters["org_id"], parameters["lease_id"])
    raise refusal(available, amount_nanos, tightest, recallable)


async def _grant(pool: Pool, parameters: dict[str, object]) -> TupleRow:
    async with pool.connection() as connection:
        if not parameters["owners"]:
            return await _one(connection, GRANT, parameters)
        # In one transaction, so that both statements see the same moment and thus the same windows.
        async with connection.transaction():
            await connection.execute(OPEN_WINDOWS, parameters)
            return await _one(connection, GRANT, parameters)


async def extend_lease(pool: Pool, parameters: dict[str, object], *, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
    """`gateway.ports.Ledger.extend`."""
    async with pool.connection() as connection:
        row = await (await connection.execute(EXTEND, parameters)).fetchone()
        if row is None and await is_unpresented(connection):
            raise LedgerPromoted
    if row is None:
        raise LookupError("no lease")
    is_raised, total, is_open, available, is_current, was_promoted, org_id, *tightest = row
    if is_raised:
        return to_nanos
    if was_promoted:
        raise LedgerPromoted
    if not is_open:
        raise LookupError("the lease is closed")
    if total < from_nanos:
        raise LedgerPromoted  # and the others had finished before this node heard of it
    if total != from_nanos:
        result: Nanos = total
        return result
    if not is_current:
        raise NodeSuperseded
    recallable = await recall(pool, org_id, parameters["draw_id"])
    raise refusal(available, to_nanos - from_nanos, tightest, recallable)


async def recall(pool: Pool, org_id: object, lease_id: object) -> Nanos:
    """Ask every other lease of the organisation for what is free of it; what they may have at most."""
    parameters = {"org_id": org_id, "lease_id": lease_id, "channel": RECALL_CHANNEL}
    async with pool.connection() as connection:
        row = await _one(connection, RECALL, parameters)
    recallable: Nanos = row[0]
    return recallable


async def release_lease(
    pool: Pool,
    *,
    lease_id: UUID,
    transfer_ids: tuple[UUID, UUID],
    released: Nanos | None,
    is_last: bool,
    node_epoch_below: int | None = None,
    orphaned_for_s: float | None = None,
) -> bool:
    """Give back up to a total, None = all that is left; whether the lease was open. The last two are conditions."""
    parameters = {
        "draw_id": lease_id,
        "transfer_id": transfer_ids[0],
        "return_id": transfer_ids[1],
        "released": released,
        "is_last": is_last,
        "node_epoch_below": node_epoch_below,
        "orphaned_for_s": orphaned_for_s,
    }
    async with pool.connection() as connection:
        return (await connection.execute(RELEASE, parameters)).rowcount > 0


def refusal(available: Nanos, asked: Nanos, tightest: list[object], recallable: Nanos) -> InsufficientFunds:
    """Why it did not fit. A rival may have taken it meanwhile: then say less than was asked for."""
    room, owner_kind, period, ends_at = tightest
    budget = None
    if isinstance(room, int) and room < asked:
        renews_at_ms = int(ends_at.timestamp() * 1000) if isinstance(ends_at, datetime) else None
        budget = BudgetUsedUp(str(owner_kind), str(period), renews_at_ms)
        available = min(available, max(0, room))
    return InsufficientFunds(min(available, asked - 1), budget=budget, recallable_nanos=recallable)


async def _one(connection: AsyncConnection, statement: str, parameters: dict[str, object]) -> TupleRow:
    row = await (await connection.execute(statement, parameters)).fetchone()
    assert row is not None
    return row
