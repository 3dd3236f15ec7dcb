"""What becomes of files in time: those that expire are deleted, objects that nobody keeps are erased, the audit trail
ends after 90 days, and old wrappings give way to the newest key's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from waypost.storage.files import GIVE_ROOM
from waypost.storage.pool import Pool

AUDIT_LIFE = timedelta(days=90)
BATCH = 500  # rows of one transaction: none holds a lock for long

# A row that somebody else works on is left to the next sweep.
EXPIRE = """
WITH due AS MATERIALIZED (
    SELECT id FROM file WHERE expires_at <= %(now)s ORDER BY expires_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM file USING due WHERE file.id = due.id
    RETURNING file.id, file.org_id, state, object_id, size_bytes
),
doomed AS (
    INSERT INTO object_erasure (object_id, due_at) SELECT object_id, %(now)s FROM gone WHERE object_id IS NOT NULL
    ON CONFLICT (object_id) DO UPDATE SET due_at = excluded.due_at
),
freed AS (
    UPDATE file_storage SET bytes = bytes - size
      FROM (SELECT org_id, sum(size_bytes)::bigint AS size FROM gone WHERE object_id IS NOT NULL GROUP BY org_id) AS s
     WHERE file_storage.org_id = s.org_id
),
noted AS (
    INSERT INTO file_audit (org_id, file_id, action, created_at)
    SELECT org_id, id, 'EXPIRE', %(now)s FROM gone WHERE state = 'READY'
)
SELECT count(*) FROM gone
"""

DUE = "SELECT object_id FROM object_erasure WHERE due_at <= %(now)s ORDER BY due_at LIMIT %(batch)s"
ERASED = "DELETE FROM object_erasure WHERE object_id = ANY(%(object_ids)s) AND due_at <= %(now)s"
BACKLOG = "SELECT count(*) FROM object_erasure WHERE due_at <= %(now)s"

FORGET_AUDIT = "DELETE FROM file_audit WHERE created_at < %(before)s"

OLD_WRAPPINGS = """
SELECT id, data_key, key_version FROM file WHERE key_version < %(version)s ORDER BY key_version LIMIT %(batch)s
"""
REWRAP = """
UPDATE file SET data_key = %(data_key)s, key_version = %(key_version)s
 WHERE id = %(id)s AND key_version = %(old_version)s
"""

STORED = "SELECT coalesce(sum(bytes), 0)::bigint FROM file_storage"

SET_LIMITS = """
INSERT INTO file_storage (org_id, ttl_days, bytes_max) VALUES (%(org_id)s, %(ttl_days)s, %(bytes_max)s)
ON CONFLICT (org_id) DO UPDATE
   SET ttl_days = coalesce(excluded.ttl_days, file_storage.ttl_days),
       bytes_max = coalesce(excluded.bytes_max, file_storage.bytes_max)
"""
LIMITS = "SELECT bytes, bytes_max, ttl_days FROM file_storage WHERE org_id = %(org_id)s"

AUDIT = """
SELECT file_id, action, api_key_id, source_ip, created_at FROM file_audit
 WHERE org_id = %(org_id)s ORDER BY id DESC LIMIT %(limit)s
"""

# What is held belongs to an execution that goes on, and is paid for with it.
ERASE_ALL = """
WITH gone AS (DELETE FROM file WHERE org_id = %(org_id)s AND state <> 'HELD' RETURNING object_id, size_bytes),
doomed AS (
    INSERT INTO object_erasure (object_id, due_at) SELECT object_id, %(now)s FROM gone WHERE object_id IS NOT NULL
    ON CONFLICT (object_id) DO UPDATE SET due_at = excluded.due_at
),
trail AS (DELETE FROM file_audit WHERE org_id = %(org_id)s)
SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM gone
"""


class Wrapping(msgspec.Struct, frozen=True):
    """A file's key, as it is wrapped."""

    file_id: bytes
    data_key: bytes
    key_version: int


class AuditEntry(msgspec.Struct, frozen=True):
    file_id: bytes
    action: str  # UPLOAD, DELETE or EXPIRE
    api_key_id: bytes | None
    source_ip: str | None
    created_at: datetime


class Limits(msgspec.Struct, frozen=True):
    """An organisation's own; None: as the settings say. `bytes` is what its files take now."""

    bytes: int = 0
    bytes_max: int | None = None
    ttl_days: int | None = None


async def expire_files(pool: Pool, now: datetime) -> int:
    """Delete what has expired, a batch of it; how many. `pool` is the app's, here and below."""
    async with pool.system() as connection:
        row = await (await connection.execute(EXPIRE, {"now": now, "batch": BATCH})).fetchone()
    assert row is not None
    return int(row[0])


async def objects_to_erase(pool: Pool, now: datetime) -> list[bytes]:
    """A batch of what nobody keeps any more."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(DUE, {"now": now, "batch": BATCH})).fetchall()
    return [row[0].bytes for row in rows]


async def objects_erased(pool: Pool, object_ids: Sequence[bytes], now: datetime) -> None:
    """They are gone from the store."""
    async with pool.connection() as connection:
        await connection.execute(ERASED, {"object_ids": [UUID(bytes=each) for each in object_ids], "now": now})


async def erasure_backlog(pool: Pool, now: datetime) -> int:
    """How many objects are to be erased and still there."""
    async with pool.connection() as connection:
        row = await (await connection.execute(BACKLOG, {"now": now})).fetchone()
    assert row is not None
    return int(row[0])


async def forget_audit(pool: Pool, now: datetime) -> None:
    """Drop entries of more than 90 days ago."""
    async with pool.system() as connection:
        await connection.execute(FORGET_AUDIT, {"before": now - AUDIT_LIFE})


async def old_wrappings(pool: Pool, version: int) -> list[Wrapping]:
    """A batch of what is wrapped by a key before that version."""
    async with pool.system() as connection:
        rows = await (await connection.execute(OLD_WRAPPINGS, {"version": version, "batch": BATCH})).fetchall()
    return [Wrapping(row[0].bytes, *row[1:]) for row in rows]


async def rewrap(pool: Pool, wrapping: Wrapping, *, old_version: int) -> None:
    """Replace a wrapping, unless somebody else has."""
    parameters = {
        "id": UUID(bytes=wrapping.file_id),
        "data_key": wrapping.data_key,
        "key_version": wrapping.key_version,
        "old_version": old_version,
    }
    async with pool.system() as connection:
        await connection.execute(REWRAP, parameters)


async def stored_bytes(pool: Pool) -> int:
    """Of all organisations."""
    async with pool.system() as connection:
        row = await (await connection.execute(STORED)).fetchone()
    assert row is not None
    return int(row[0])


async def set_limits(pool: Pool, org_id: bytes, *, ttl_days: int | None, bytes_max: int | None) -> Limits:
    """Change what is not None, and say what holds now. An unknown organisation is a ForeignKeyViolation."""
    parameters = {"org_id": UUID(bytes=org_id), "ttl_days": ttl_days, "bytes_max": bytes_max}
    async with pool.tenant(org_id) as connection:
        if ttl_days is not None or bytes_max is not None:
            await connection.execute(SET_LIMITS, parameters)
        row = await (await connection.execute(LIMITS, parameters)).fetchone()
    return Limits() if row is None else Limits(*row)


async def audit_of(pool: Pool, org_id: bytes, *, limit: int) -> list[AuditEntry]:
    """Who uploaded and deleted what, the newest first."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(AUDIT, {"org_id": UUID(bytes=org_id), "limit": limit})).fetchall()
    return [AuditEntry(row[0].bytes, row[1], None if row[2] is None else row[2].bytes, *row[3:]) for row in rows]


async def erase_files_of(pool: Pool, org_id: bytes, now: datetime) -> int:
    """Everything of an organisation: its files with their keys at once, which erases every copy of them, the objects by
    the next sweep, the audit trail. Its limits stay, and outputs of executions that have not ended. How many files
    there were."""
    parameters: dict[str, object] = {"org_id": UUID(bytes=org_id), "now": now}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(ERASE_ALL, parameters)).fetchone()
        assert row is not None
        # A statement of its own: it sees the room that was taken by an upload which the first one had to wait for.
        await connection.execute(GIVE_ROOM, parameters | {"size_bytes": row[1]})
    return int(row[0])
