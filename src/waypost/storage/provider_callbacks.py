"""Callbacks of providers: which came, when, and whether they were signed. Never what they said.

A callback is recorded once, by what identifies it, and queues the job that looks into it in the same transaction: so
it may be answered as soon as it is recorded, and one that is repeated does nothing more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from waypost.storage.jobs import defer
from waypost.storage.pool import Pool

HEAR = "provider_job.hear"  # the job that looks into it
FORGET = "provider_callback.forget"
QUEUE = "executions"
LIFE = timedelta(days=90)
BATCH = 1_000  # rows of one transaction

RECORD = """
INSERT INTO provider_callback (provider, event_key, execution_id, attempt, received_at, size_bytes, signature)
VALUES (%(provider)s, %(event_key)s, %(execution_id)s, %(attempt)s, %(received_at)s, %(size_bytes)s, %(signature)s)
ON CONFLICT (provider, event_key) DO NOTHING
"""

FORGET_OLD = """
DELETE FROM provider_callback
 WHERE (provider, event_key) IN
       (SELECT provider, event_key FROM provider_callback WHERE received_at < %(before)s LIMIT %(batch)s)
"""


class ProviderCallback(msgspec.Struct, frozen=True):
    provider: str
    event_key: bytes  # a keyed hash of what identifies it
    execution_id: bytes
    attempt: int
    received_at: datetime
    size_bytes: int
    signature: str  # "valid", "invalid", "absent"


async def record_callback(pool: Pool, callback: ProviderCallback, *, job_id: str, is_believed: bool) -> bool:
    """Whether it is new: then it is looked into. `job_id` is the job that it names, "" for none; `is_believed` whether
    that is the provider's word. `pool` is the app's."""
    parameters = msgspec.structs.asdict(callback) | {"execution_id": UUID(bytes=callback.execution_id)}
    arguments: dict[str, str | int] = {"execution": callback.execution_id.hex(), "attempt": callback.attempt}
    arguments |= {"job": job_id, "is_believed": int(is_believed), "provider": callback.provider}
    async with pool.system() as connection:
        if not (await connection.execute(RECORD, parameters)).rowcount:
            return False
        await defer(connection, HEAR, arguments, queue=QUEUE)
    return True


async def forget_callbacks(pool: Pool, now: datetime) -> None:
    """Drop what is older than 90 days."""
    while True:
        async with pool.system() as connection:
            gone = await connection.execute(FORGET_OLD, {"before": now - LIFE, "batch": BATCH})
        if gone.rowcount < BATCH:
            return
