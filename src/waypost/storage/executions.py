"""Executions as their organisation sees them: metadata, never content, and never a provider."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from waypost.kit.money import Nanos
from waypost.ledger.record import Outcome
from waypost.storage.pool import Pool

_COLUMNS = """
id, api_key_id, accepted_at, closed_at, charge,
input_tokens + coalesce(audio_input_tokens, 0) + coalesce(image_input_tokens, 0),
cache_read_tokens, cache_write_5m_tokens + cache_write_1h_tokens,
output_tokens + coalesce(audio_output_tokens, 0), reasoning_tokens,
coalesce(images, 0), coalesce(duration_ms, 0), coalesce(characters, 0), is_estimated, outcome, model, error_code
"""

# A key that may not see others' executions names itself.
FIND = f"""
SELECT {_COLUMNS} FROM execution
 WHERE org_id = %(org_id)s AND id = %(id)s AND api_key_id = coalesce(%(api_key_id)s::uuid, api_key_id)
"""  # noqa: S608 - put together from the names above

LIST = f"""
SELECT {_COLUMNS} FROM execution
 WHERE org_id = %(org_id)s AND id < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND api_key_id = coalesce(%(api_key_id)s::uuid, api_key_id)
 ORDER BY id DESC
 LIMIT %(limit)s
"""  # noqa: S608


class ExecutionRow(msgspec.Struct, frozen=True):
    """An execution that ended."""

    id: bytes
    api_key_id: bytes
    accepted_at: datetime
    closed_at: datetime
    charge_nanos: Nanos
    input_tokens: int  # uncached, of all media
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int  # reasoning included
    reasoning_tokens: int
    images: int
    duration_ms: int
    characters: int
    is_estimated: bool
    outcome: Outcome
    model: str
    error_code: str


async def find_execution(
    pool: Pool, org_id: bytes, execution_id: bytes, *, api_key_id: bytes | None = None
) -> ExecutionRow | None:
    """One of an organisation, or of one of its keys. `pool` is the app's, here and below."""
    parameters = _parameters(org_id, api_key_id) | {"id": UUID(bytes=execution_id)}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND, parameters)).fetchone()
    return None if row is None else _row(row)


async def list_executions(
    pool: Pool, org_id: bytes, *, limit: int, before: bytes | None, api_key_id: bytes | None = None
) -> list[ExecutionRow]:
    """The newest first, older than `before`."""
    parameters = _parameters(org_id, api_key_id)
    parameters |= {"limit": limit, "before": None if before is None else UUID(bytes=before)}
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, parameters)).fetchall()
    return [_row(row) for row in rows]


def _parameters(org_id: bytes, api_key_id: bytes | None) -> dict[str, object]:
    return {"org_id": UUID(bytes=org_id), "api_key_id": None if api_key_id is None else UUID(bytes=api_key_id)}


def _row(row: TupleRow) -> ExecutionRow:
    values = (row[0].bytes, row[1].bytes, *row[2:14], Outcome(row[14]), *row[15:])
    return ExecutionRow(*values)
