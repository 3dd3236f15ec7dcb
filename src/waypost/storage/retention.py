"""Rows of executions and of their attempts go before they are a year old, a month at a time.

A month goes when its first day is a year ago, so nothing of it outlives its year. What was used on each of its days and
what each lease was charged stay as sums that name no model, no provider and no request: usage and the books add up to
the nano as before. The month's partitions are dropped, which costs the same however many rows they have.
"""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from psycopg import AsyncConnection, sql

from waypost.privacy.data_map import DAYS_PER_YEAR
from waypost.storage.partitions import PARTITIONED, Month, has_table, partition_name
from waypost.storage.pool import Pool
from waypost.storage.usage import KEEP_DAYS

LIFE = timedelta(days=DAYS_PER_YEAR)
BATCH = 1_000  # rows of one transaction
# Dropping a partition locks its whole table: for so long bookings may wait behind us while we wait for others.
LOCK_WAIT = "500ms"
_LOCK = 0x7265_7461  # any number, the same everywhere

# Their rows in `execution` go with the month. These go before it, so that none seems to have ended without one.
FORGET_ASYNCHRONOUS = """
DELETE FROM asynchronous_execution
 WHERE id IN (SELECT id FROM asynchronous_execution
               WHERE id < %(below)s AND ended_at IS NOT NULL ORDER BY id LIMIT %(batch)s)
"""

OLD_PARTITIONS = """
SELECT relname::text
  FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
 WHERE inhparent = ANY (%(tables)s::regclass[]) AND right(relname, 8) ~ '^_[0-9]{4}_[0-9]{2}$'
   AND right(relname, 7) < %(first_kept)s
"""

# Only what was charged has to be told apart by lease: `ledger_rules` compares each with it.
KEEP_SUMS = """
INSERT INTO settled_sum AS kept (org_id, lease_id, charge, refunded, house, cogs)
SELECT org_id, CASE WHEN charge > 0 THEN lease_id ELSE '00000000-0000-0000-0000-000000000000' END AS lease,
       sum(charge), sum(refunded), sum(house), sum(cogs)
  FROM {rows}
 WHERE attempt_id < %(below)s
 GROUP BY org_id, lease
    ON CONFLICT (org_id, lease_id) DO UPDATE
   SET charge = kept.charge + excluded.charge, refunded = kept.refunded + excluded.refunded,
       house = kept.house + excluded.house, cogs = kept.cogs + excluded.cogs
"""

# Executions first: what was refunded of them is found through their attempts.
_KEEP = {"execution": KEEP_DAYS, "settlement": KEEP_SUMS}


# One machine whose clock is wrong is not to make everybody's rows old.
TODAY = "SELECT least(%(today)s::date, (now() AT TIME ZONE 'UTC')::date)"


def kept_from(today: date) -> Month:
    """The first month whose rows are kept."""
    day = today - LIFE
    return Month(day.year, day.month).plus(1)


async def forget_old(pool: Pool, today: date) -> list[str]:
    """Let go of everything before `kept_from`; the partitions that were dropped. `pool` is the owner's, and `today` is
    believed as far as the database's clock agrees.

    Several processes may do so at once. Raises LedgerUnavailable, also when another one or whoever uses a table takes
    longer than bookings may wait; then it is to be tried again."""
    gone: list[str] = []
    async with pool.system() as connection:
        row = await (await connection.execute(TODAY, {"today": today})).fetchone()
        assert row is not None
        first = kept_from(row[0])
        parameters = {"tables": list(PARTITIONED), "first_kept": partition_name("", first)[1:]}
        rows = await (await connection.execute(OLD_PARTITIONS, parameters)).fetchall()
    await _forget_asynchronous(pool, first.lowest_id)
    old = {name for (name,) in rows}
    for suffix in sorted({name[-8:] for name in old}):
        partitions = {table: f"{table}{suffix}" for table in _KEEP if f"{table}{suffix}" in old}
        if await _let_go(pool, partitions, below=first.lowest_id, is_whole=True):
            gone += partitions.values()
    # What came when its month had no partition.
    await _let_go(pool, {table: f"{table}_default" for table in _KEEP}, below=first.lowest_id, is_whole=False)
    return gone


async def _forget_asynchronous(pool: Pool, below: UUID) -> None:
    while True:
        async with pool.system() as connection:
            dropped = await connection.execute(FORGET_ASYNCHRONOUS, {"below": below, "batch": BATCH})
        if dropped.rowcount < BATCH:
            return


async def _let_go(pool: Pool, partitions: dict[str, str], *, below: UUID, is_whole: bool) -> bool:
    """Keep the sums of a month's partitions and drop them, or of what is old in others; whether there was anything."""
    async with pool.system(is_patient=True) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute("SET LOCAL statement_timeout = 0")
        there = {table: sql.Identifier(name) for table, name in partitions.items() if await has_table(connection, name)}
        if not there or (not is_whole and not await _have_old(connection, there, below)):
            return False  # another process may have been here
        # A refund or a late row between the sums and the end of their rows would be lost.
        tables = sql.SQL(", ").join(there.values())
        await connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(tables))
        for table, partition in there.items():
            await connection.execute(sql.SQL(_KEEP[table]).format(rows=partition), {"below": below})
        await connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_WAIT)))
        if is_whole:
            await connection.execute(sql.SQL("DROP TABLE {}").format(tables))
        else:
            for table, partition in there.items():
                deletion = _old("DELETE FROM {} WHERE {} < %(below)s", table, partition)
                await connection.execute(deletion, {"below": below})
        return True


async def _have_old(connection: AsyncConnection, there: dict[str, sql.Identifier], below: UUID) -> bool:
    for table, partition in there.items():
        statement = _old("SELECT EXISTS (SELECT FROM {} WHERE {} < %(below)s)", table, partition)
        if await (await connection.execute(statement, {"below": below})).fetchone() == (True,):
            return True
    return False


def _old(statement: str, table: str, partition: sql.Identifier) -> sql.Composed:
    return sql.SQL(statement).format(partition, sql.Identifier(PARTITIONED[table]))
