"""Files of organisations: rows about them, never their content or name.

PENDING: an upload is awaited, for an hour · HELD: an output, not shown before its execution has succeeded · READY.

At every moment each object in the store is either a file's or on the list of objects to be erased (`object_erasure`):
it is listed before its first byte is written, for later than writing may take, and taken off by the transaction that
makes it a file's; the transaction that deletes a file lists it again. So whatever crashes, nothing is left behind and
nothing is lost. With the row goes the wrapped key, and with it every copy of the file, in backups of the store too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.storage.jobs import defer
from waypost.storage.pool import Pool

SWEEP_FILES = "sweep_files"  # the job that looks after all of them
ERASE_OBJECTS = "erase_objects"  # the one that follows a deletion
QUEUE = "files"
UPLOAD_LIFE = timedelta(hours=1)  # of what is awaited, and of the URL to send it to
WRITING_MAX = timedelta(hours=2)  # no object takes longer to write
HELD_LIFE = timedelta(days=2)  # of an output whose execution never ends
PENDING_MAX = 1000  # uploads that an organisation may have us await: each is a row that anybody with a key makes

_COLUMNS = """
file.id, file.org_id, state, purpose, region, file.ttl_days, created_at, expires_at, api_key_id, execution_id,
output_index, object_id, data_key, key_version, content_type, size_bytes, sha256, width, height, duration_ms
"""

BEGIN = """
INSERT INTO file (id, org_id, state, purpose, region, ttl_days, created_at, expires_at, api_key_id)
SELECT %(id)s, %(org_id)s, 'PENDING', %(purpose)s, %(region)s,
       coalesce(%(ttl_days)s, (SELECT ttl_days FROM file_storage WHERE org_id = %(org_id)s), %(ttl_days_default)s),
       %(now)s, %(expires_at)s, %(api_key_id)s
 WHERE (SELECT count(*) FROM file WHERE org_id = %(org_id)s AND state = 'PENDING') < %(pending_max)s
"""

HAS_ROOM = """
SELECT coalesce((SELECT bytes < coalesce(bytes_max, %(bytes_max)s) FROM file_storage WHERE org_id = %(org_id)s), true)
"""

EXPECT_OBJECT = "INSERT INTO object_erasure (object_id, due_at) VALUES (%(object_id)s, %(due_at)s)"
KEEP_OBJECT = "DELETE FROM object_erasure WHERE object_id = %(object_id)s"
ERASE_OBJECT = """
INSERT INTO object_erasure (object_id, due_at) VALUES (%(object_id)s, %(now)s)
ON CONFLICT (object_id) DO UPDATE SET due_at = excluded.due_at
"""

FILL = f"""
UPDATE file
   SET state = 'READY', expires_at = %(now)s + make_interval(days => ttl_days), object_id = %(object_id)s,
       data_key = %(data_key)s, key_version = %(key_version)s, content_type = %(content_type)s,
       size_bytes = %(size_bytes)s, sha256 = %(sha256)s, width = %(width)s, height = %(height)s,
       duration_ms = %(duration_ms)s
 WHERE id = %(id)s AND state = 'PENDING' AND expires_at > %(now)s
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together from the names above

# The first file of an organisation makes the row.
TAKE_ROOM = """
INSERT INTO file_storage (org_id, bytes)
SELECT %(org_id)s, %(size_bytes)s
 WHERE NOT %(is_bounded)s OR %(size_bytes)s <= coalesce(
       (SELECT bytes_max FROM file_storage WHERE org_id = %(org_id)s), %(bytes_max)s)
ON CONFLICT (org_id) DO UPDATE SET bytes = file_storage.bytes + excluded.bytes
 WHERE NOT %(is_bounded)s OR file_storage.bytes + excluded.bytes <= coalesce(file_storage.bytes_max, %(bytes_max)s)
"""
GIVE_ROOM = "UPDATE file_storage SET bytes = bytes - %(size_bytes)s WHERE org_id = %(org_id)s"

NOTE = """
INSERT INTO file_audit (org_id, file_id, action, api_key_id, source_ip, created_at)
VALUES (%(org_id)s, %(file_id)s, %(action)s, %(api_key_id)s, %(source_ip)s, %(now)s)
"""

HOLD = f"""
INSERT INTO file (id, org_id, state, purpose, region, ttl_days, created_at, expires_at, execution_id, output_index,
                  object_id, data_key, key_version, content_type, size_bytes, sha256, width, height,
                  duration_ms)
SELECT %(id)s, %(org_id)s, 'HELD', 'OUTPUT', %(region)s,
       coalesce((SELECT ttl_days FROM file_storage WHERE org_id = %(org_id)s), %(ttl_days_default)s), %(now)s,
       %(expires_at)s, %(execution_id)s, %(output_index)s, %(object_id)s, %(data_key)s, %(key_version)s,
       %(content_type)s, %(size_bytes)s, %(sha256)s, %(width)s, %(height)s, %(duration_ms)s
ON CONFLICT (execution_id, output_index) DO NOTHING
RETURNING {_COLUMNS}
"""  # noqa: S608

FIND_OUTPUT = f"""
SELECT {_COLUMNS} FROM file WHERE execution_id = %(execution_id)s AND output_index = %(output_index)s
"""  # noqa: S608

SHOW_OUTPUTS = """
UPDATE file SET state = 'READY', expires_at = now() + make_interval(days => ttl_days)
 WHERE execution_id = %(execution_id)s AND state = 'HELD'
"""
DROP_OUTPUTS = "UPDATE file SET expires_at = now() WHERE execution_id = %(execution_id)s AND state = 'HELD'"

FIND = f"SELECT {_COLUMNS} FROM file WHERE id = %(id)s AND state <> 'HELD' AND expires_at > %(now)s"  # noqa: S608

READY_SIZES = "SELECT id, size_bytes FROM file WHERE id = ANY(%(ids)s) AND state = 'READY' AND expires_at > %(now)s"

LIST = f"""
SELECT {_COLUMNS} FROM file
 WHERE org_id = %(org_id)s AND state <> 'HELD' AND expires_at > %(now)s
   AND id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND state = coalesce(%(state)s, state) AND purpose = coalesce(%(purpose)s, purpose)
   AND region = coalesce(%(region)s, region)
   AND execution_id IS NOT DISTINCT FROM coalesce(%(execution_id)s::uuid, execution_id)
 ORDER BY id DESC
 LIMIT %(limit)s
"""  # noqa: S608

DELETE = f"DELETE FROM file WHERE id = %(id)s AND state <> 'HELD' RETURNING {_COLUMNS}"  # noqa: S608


class FileState(Enum):
    PENDING = "PENDING"
    HELD = "HELD"
    READY = "READY"


class UploadEnded(Exception):
    """The upload is over: its file is there, was deleted, or did not come in time."""


class StorageFull(Exception):
    """The organisation's files take all the room that they may."""


class TooManyUploads(Exception):
    """The organisation has us await as many uploads as it may."""


class FileRow(msgspec.Struct, frozen=True):
    """`data_key` is wrapped, by the file key of `key_version`. What stands after it is None while PENDING."""

    id: bytes
    org_id: bytes
    state: FileState
    purpose: str
    region: str
    ttl_days: int
    created_at: datetime
    expires_at: datetime
    api_key_id: bytes | None
    execution_id: bytes | None
    output_index: int | None
    object_id: bytes | None
    data_key: bytes | None
    key_version: int | None
    content_type: str | None
    size_bytes: int | None
    sha256: bytes | None
    width: int | None
    height: int | None
    duration_ms: int | None


class Content(msgspec.Struct, frozen=True):
    """What was written into the store, and what it is."""

    object_id: bytes
    data_key: bytes
    key_version: int
    content_type: str
    size_bytes: int
    sha256: bytes
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None


class Actor(msgspec.Struct, frozen=True):
    """Who uploads or deletes."""

    api_key_id: bytes | None
    source_ip: str | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a list is to hold; None: any."""

    state: FileState | None = None
    purpose: str | None = None
    region: str | None = None
    execution_id: bytes | None = None


async def begin_upload(
    pool: Pool,
    *,
    file_id: bytes,
    org_id: bytes,
    api_key_id: bytes,
    purpose: str,
    region: str,
    ttl_days: int | None,
    ttl_days_default: int,
    bytes_max: int,
    now: datetime,
) -> datetime:
    """Await a file; until when. Raises StorageFull or TooManyUploads. `pool` is the app's, here and below."""
    parameters: dict[str, object] = {
        "id": UUID(bytes=file_id),
        "org_id": UUID(bytes=org_id),
        "api_key_id": UUID(bytes=api_key_id),
        "purpose": purpose,
        "region": region,
        "ttl_days": ttl_days,
        "ttl_days_default": ttl_days_default,
        "bytes_max": bytes_max,
        "pending_max": PENDING_MAX,
        "now": now,
        "expires_at": now + UPLOAD_LIFE,
    }
    async with pool.tenant(org_id) as connection:
        if await (await connection.execute(HAS_ROOM, parameters)).fetchone() != (True,):
            raise StorageFull
        if not (await connection.execute(BEGIN, parameters)).rowcount:
            raise TooManyUploads
    return now + UPLOAD_LIFE


async def expect_object(pool: Pool, object_id: bytes, now: datetime) -> None:
    """Before an object is written: should nobody keep it, it will be erased."""
    async with pool.connection() as connection:
        parameters = {"object_id": UUID(bytes=object_id), "due_at": now + WRITING_MAX}
        await connection.execute(EXPECT_OBJECT, parameters)


async def drop_object(pool: Pool, object_id: bytes, now: datetime) -> None:
    """Nobody keeps it: it is due for erasure now."""
    async with pool.connection() as connection:
        await connection.execute(ERASE_OBJECT, {"object_id": UUID(bytes=object_id), "now": now})


async def complete_upload(
    pool: Pool, row: FileRow, content: Content, *, source_ip: str | None, bytes_max: int, now: datetime
) -> FileRow:
    """The bytes are there: the file is ready, once. Raises UploadEnded, StorageFull."""
    parameters = _content_parameters(content) | {
        "id": UUID(bytes=row.id),
        "org_id": UUID(bytes=row.org_id),
        "bytes_max": bytes_max,
        "is_bounded": True,
        "now": now,
    }
    async with pool.tenant(row.org_id) as connection:
        if not (await connection.execute(KEEP_OBJECT, parameters)).rowcount:
            raise UploadEnded  # it took so long that the object was erased
        filled = await (await connection.execute(FILL, parameters)).fetchone()
        if filled is None:
            raise UploadEnded
        if not (await connection.execute(TAKE_ROOM, parameters)).rowcount:
            raise StorageFull
        await _note(connection, row, "UPLOAD", Actor(row.api_key_id, source_ip), now)
    return _row(filled)


async def hold_output(
    pool: Pool,
    content: Content,
    *,
    file_id: bytes,
    org_id: bytes,
    execution_id: bytes,
    output_index: int,
    region: str,
    ttl_days_default: int,
    now: datetime,
) -> FileRow:
    """Keep an output until its execution has ended. When there was one of that index already, that one, and the object
    stays listed. An output is paid for, so no bound on storage refuses it."""
    parameters = _content_parameters(content) | {
        "id": UUID(bytes=file_id),
        "org_id": UUID(bytes=org_id),
        "execution_id": UUID(bytes=execution_id),
        "output_index": output_index,
        "region": region,
        "ttl_days_default": ttl_days_default,
        "expires_at": now + HELD_LIFE,
        "bytes_max": 0,
        "is_bounded": False,
        "now": now,
    }
    async with pool.tenant(org_id) as connection:
        held = await (await connection.execute(HOLD, parameters)).fetchone()
        if held is None:
            held = await (await connection.execute(FIND_OUTPUT, parameters)).fetchone()
            assert held is not None
            return _row(held)
        if not (await connection.execute(KEEP_OBJECT, parameters)).rowcount:
            raise UploadEnded
        await connection.execute(TAKE_ROOM, parameters)
    return _row(held)


async def find_output(pool: Pool, org_id: bytes, execution_id: bytes, output_index: int) -> FileRow | None:
    """Held, or shown already."""
    parameters = {"execution_id": UUID(bytes=execution_id), "output_index": output_index}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND_OUTPUT, parameters)).fetchone()
    return None if row is None else _row(row)


async def show_outputs_on(connection: AsyncConnection, execution_id: bytes) -> None:
    """The execution has succeeded: what was held for it is its organisation's. A part of the transaction that ends the
    execution, of the settling role or, in the system's scope, of the app's."""
    await connection.execute(SHOW_OUTPUTS, {"execution_id": UUID(bytes=execution_id)})


async def drop_outputs_on(connection: AsyncConnection, execution_id: bytes) -> None:
    """The same when it has not: the next sweep deletes what was held."""
    await connection.execute(DROP_OUTPUTS, {"execution_id": UUID(bytes=execution_id)})


async def find_file(pool: Pool, org_id: bytes | None, file_id: bytes, now: datetime) -> FileRow | None:
    """A file that its organisation may know of. `org_id` None: whoever's it is, for the bearer of a URL that we
    signed."""
    scope = pool.system() if org_id is None else pool.tenant(org_id)
    async with scope as connection:
        row = await (await connection.execute(FIND, {"id": UUID(bytes=file_id), "now": now})).fetchone()
    return None if row is None else _row(row)


async def ready_sizes(pool: Pool, org_id: bytes, file_ids: Collection[bytes], now: datetime) -> dict[bytes, int]:
    """The bytes of each of these that the organisation has, ready to be read."""
    parameters = {"ids": [UUID(bytes=each) for each in file_ids], "now": now}
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(READY_SIZES, parameters)).fetchall()
    return {row[0].bytes: int(row[1]) for row in rows}


async def list_files(
    pool: Pool, org_id: bytes, wanted: Wanted, *, limit: int, before: bytes | None, now: datetime
) -> list[FileRow]:
    """The newest first, older than `before`."""
    parameters = {
        "org_id": UUID(bytes=org_id),
        "state": None if wanted.state is None else wanted.state.value,
        "purpose": wanted.purpose,
        "region": wanted.region,
        "execution_id": None if wanted.execution_id is None else UUID(bytes=wanted.execution_id),
        "before": None if before is None else UUID(bytes=before),
        "limit": limit,
        "now": now,
    }
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, parameters)).fetchall()
    return [_row(row) for row in rows]


async def delete_file(pool: Pool, org_id: bytes, file_id: bytes, actor: Actor, now: datetime) -> bool:
    """At once for everybody, and a job erases the object; False when there is none."""
    async with pool.tenant(org_id) as connection:
        found = await (await connection.execute(DELETE, {"id": UUID(bytes=file_id)})).fetchone()
        if found is None:
            return False
        row = _row(found)
        if row.object_id is not None:
            parameters = {"object_id": UUID(bytes=row.object_id), "now": now}
            parameters |= {"org_id": UUID(bytes=org_id), "size_bytes": row.size_bytes}
            await connection.execute(ERASE_OBJECT, parameters)
            await connection.execute(GIVE_ROOM, parameters)
            await defer(connection, ERASE_OBJECTS, {}, queue=QUEUE, lock=ERASE_OBJECTS)
        await _note(connection, row, "DELETE", actor, now)
    return True


async def _note(connection: AsyncConnection, row: FileRow, action: str, actor: Actor, now: datetime) -> None:
    await connection.execute(
        NOTE,
        {
            "org_id": UUID(bytes=row.org_id),
            "file_id": UUID(bytes=row.id),
            "action": action,
            "api_key_id": None if actor.api_key_id is None else UUID(bytes=actor.api_key_id),
            "source_ip": actor.source_ip,
            "now": now,
        },
    )


def _content_parameters(content: Content) -> dict[str, object]:
    return msgspec.structs.asdict(content) | {"object_id": UUID(bytes=content.object_id)}


def _row(row: TupleRow) -> FileRow:
    ids: Sequence[UUID | None] = (row[0], row[1], *row[8:10], row[11])
    file_id, org_id, api_key_id, execution_id, object_id = (None if each is None else each.bytes for each in ids)
    assert file_id is not None
    assert org_id is not None
    middle = (FileState(row[2]), *row[3:8], api_key_id, execution_id, row[10], object_id, *row[12:])
    return FileRow(file_id, org_id, *middle)
