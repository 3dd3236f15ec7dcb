"""How the queue of jobs is, and the executions that have not ended: for metrics and for whoever looks after it."""

from __future__ import annotations

import msgspec

from waypost.storage.pool import Pool

# Jobs that are done are deleted, so what is here waits or runs.
STATE = """
SELECT count(*) FILTER (WHERE status = 'todo'), count(*) FILTER (WHERE status = 'doing'),
       coalesce(extract(epoch FROM now() - min(greatest(queued.at, scheduled_at)) FILTER (WHERE status = 'todo')),
                0)::int
  FROM procrastinate_jobs
  LEFT JOIN LATERAL (SELECT min(at) AS at FROM procrastinate_events AS event
                      WHERE event.job_id = procrastinate_jobs.id AND event.type = 'deferred') AS queued ON true
 WHERE status IN ('todo', 'doing') AND coalesce(scheduled_at, now()) <= now()
"""

OPEN = "SELECT state, count(*) FROM asynchronous_execution WHERE ended_at IS NULL GROUP BY state"


class QueueState(msgspec.Struct, frozen=True):
    waiting: int = 0  # jobs whose moment has come
    running: int = 0
    oldest_s: int = 0  # for how long the first of them has waited
    open_executions: dict[str, int] = {}  # by state


async def queue_state(pool: Pool) -> QueueState:
    """`pool` is the app's."""
    async with pool.system(is_view=True) as connection:
        row = await (await connection.execute(STATE)).fetchone()
        by_state = await (await connection.execute(OPEN)).fetchall()
    assert row is not None
    return QueueState(row[0], row[1], row[2], dict(by_state))
