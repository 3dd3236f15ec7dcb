"""Rows of asynchronous executions go twelve months after their acceptance, as the data map declares. What was paid for
them stays in the books, which name nothing of them but the id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from waypost.kit.ids import lowest_at
from waypost.privacy.data_map import DAYS_PER_YEAR
from waypost.storage.pool import Pool

FORGET = "execution.forget"  # the job
LIFE = timedelta(days=DAYS_PER_YEAR)
BATCH = 1_000  # rows of one transaction

# An id tells when its execution was accepted, so the primary key leads to the old ones.
FORGET_OLD = """
DELETE FROM asynchronous_execution
 WHERE id IN (SELECT id FROM asynchronous_execution
               WHERE id < %(accepted_before)s AND ended_at IS NOT NULL ORDER BY id LIMIT %(batch)s)
"""


async def forget_executions(pool: Pool, now: datetime) -> int:
    """How many have gone. `pool` is the settling role's."""
    lowest = UUID(bytes=lowest_at(int((now - LIFE).timestamp() * 1000)))
    gone = 0
    while True:
        async with pool.connection() as connection, connection.transaction():
            parameters = {"accepted_before": lowest, "batch": BATCH}
            dropped = (await connection.execute(FORGET_OLD, parameters)).rowcount
        gone += dropped
        if dropped < BATCH:
            return gone
