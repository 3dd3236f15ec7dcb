"""Work for later, put into the queue by the transaction that makes it necessary: both happen or neither does.

A job has a name and ids as arguments, never content. It runs at least once, so what it does must bear repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

# (queue, task, priority, lock, queueing lock, arguments, not before) of procrastinate's own function.
DEFER = """
SELECT procrastinate_defer_jobs_v1(ARRAY[
    ROW(%(queue)s, %(task)s, 0, %(lock)s, NULL, %(arguments)s, %(at)s)::procrastinate_job_to_defer_v1
])
"""


async def defer(
    connection: AsyncConnection,
    task: str,
    arguments: Mapping[str, str | int],
    *,
    queue: str,
    lock: str | None = None,
    at: datetime | None = None,
) -> None:
    """Queue a job in the connection's transaction. Jobs of one `lock` run one after the other; `at` is the earliest
    moment."""
    parameters = {"queue": queue, "task": task, "lock": lock, "arguments": Jsonb(dict(arguments)), "at": at}
    await connection.execute(DEFER, parameters)
