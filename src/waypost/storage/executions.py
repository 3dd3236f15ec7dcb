"""Executions as their organisation sees them, those that are waited for and those that are not: metadata, never
content, and never a provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow

from waypost.executions.lifecycle import STATUSES, Mode, State, public_status
from waypost.kit.ids import lowest_at
from waypost.kit.money import Nanos
from waypost.ledger.record import Outcome
from waypost.storage.asynchronous_rows import COLUMNS, AsynchronousExecution, execution_of
from waypost.storage.pool import Pool

_ENDED = """
ended.id, ended.api_key_id, ended.model, ended.accepted_at, ended.closed_at, ended.charge,
ended.input_tokens + coalesce(ended.audio_input_tokens, 0) + coalesce(ended.image_input_tokens, 0),
ended.cache_read_tokens, ended.cache_write_5m_tokens + ended.cache_write_1h_tokens,
ended.output_tokens + coalesce(ended.audio_output_tokens, 0), ended.reasoning_tokens,
coalesce(ended.images, 0), coalesce(ended.duration_ms, 0), coalesce(ended.characters, 0), ended.is_estimated,
ended.outcome, ended.error_code
"""
_ENDED_COUNT = 17
_OWN = ", ".join(f"own.{name}" for name in COLUMNS)
_COLUMNS = f"{_ENDED}, {_OWN}, own.result_read_at, coalesce(held.refunded, 0)"
# A row of either kind by its id; an asynchronous one that has ended has both.
_JOINED = """
LEFT JOIN execution AS ended ON ended.id = one.id AND ended.org_id = %(org_id)s
LEFT JOIN asynchronous_execution AS own ON own.id = one.id AND own.org_id = %(org_id)s
LEFT JOIN long_hold AS held ON held.id = own.id
"""

# A key that may not see others' executions names itself.
FIND = f"""
SELECT {_COLUMNS}
  FROM (SELECT %(id)s::uuid AS id) AS one {_JOINED}
 WHERE coalesce(own.api_key_id, ended.api_key_id) = coalesce(%(api_key_id)s, own.api_key_id, ended.api_key_id)
"""  # noqa: S608 - put together from the names above, here and below

_WANTED = """
       org_id = %(org_id)s AND id < %(below)s AND id >= %(lowest)s
   AND api_key_id = coalesce(%(api_key_id)s::uuid, api_key_id) AND model = coalesce(%(model)s::text, model)
"""

LIST = f"""
SELECT {_COLUMNS}
  FROM ((SELECT id FROM execution
          WHERE {_WANTED}
            AND outcome = ANY (coalesce(%(outcomes)s::smallint[], ARRAY[outcome]))
            AND NOT EXISTS (SELECT FROM asynchronous_execution AS other WHERE other.id = execution.id)
          ORDER BY id DESC LIMIT %(limit)s)
         UNION ALL
        (SELECT id FROM asynchronous_execution
          WHERE {_WANTED} AND (%(states)s::text[] IS NULL OR state || '/' || coalesce(mode, '') = ANY (%(states)s))
          ORDER BY id DESC LIMIT %(limit)s)) AS one {_JOINED}
 ORDER BY one.id DESC
 LIMIT %(limit)s
"""  # noqa: S608

_HIGHEST = UUID(int=2**128 - 1)
_OUTCOMES = {
    State.SUCCEEDED.public: [Outcome.COMPLETED],
    State.CANCELED.public: [Outcome.DISCONNECTED],  # by whoever called
    State.FAILED.public: [Outcome.FAILED, Outcome.REJECTED, Outcome.CUT_OFF, Outcome.CRASHED],
}


class Ended(msgspec.Struct, frozen=True):
    """What the books say of an execution that has ended."""

    id: bytes
    api_key_id: bytes
    model: str
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
    error_code: str


class ExecutionRow(msgspec.Struct, frozen=True):
    """An execution: `ended` unless it is under way, `asynchronous` when it is one that was not waited for."""

    ended: Ended | None
    asynchronous: AsynchronousExecution | None
    was_read: bool = False  # its text result, by its caller
    refunded_nanos: Nanos = 0

    @property
    def id(self) -> bytes:
        known = self.asynchronous or self.ended
        assert known is not None
        return known.id

    @property
    def status(self) -> str:
        """One of `executions.lifecycle.STATUSES`."""
        if self.asynchronous is not None:
            return public_status(self.asynchronous.state, self.asynchronous.mode)
        assert self.ended is not None
        return next(status for status, outcomes in _OUTCOMES.items() if self.ended.outcome in outcomes)


class Filters(msgspec.Struct, frozen=True):
    """What a list holds; all of an organisation's by default. Times are Unix milliseconds."""

    api_key_id: bytes | None = None
    status: str | None = None
    model: str | None = None
    created_from_ms: int | None = None
    created_before_ms: int | None = None


async def find_execution(
    pool: Pool, org_id: bytes, execution_id: bytes, *, api_key_id: bytes | None = None
) -> ExecutionRow | None:
    """One of an organisation, or of one of its keys. `pool` is the app's, here and below."""
    parameters = {"org_id": UUID(bytes=org_id), "id": UUID(bytes=execution_id), "api_key_id": _uuid(api_key_id)}
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND, parameters)).fetchone()
    return None if row is None else _row(row)


async def list_executions(
    pool: Pool, org_id: bytes, *, limit: int, before: bytes | None, filters: Filters | None = None
) -> list[ExecutionRow]:
    """The newest first, older than `before`."""
    wanted = filters or Filters()
    below = [each for each in (_uuid(before), _lowest(wanted.created_before_ms)) if each is not None]
    parameters = {
        "org_id": UUID(bytes=org_id),
        "api_key_id": _uuid(wanted.api_key_id),
        "model": wanted.model,
        "limit": limit,
        "below": min(below, default=_HIGHEST),
        "lowest": _lowest(wanted.created_from_ms) or UUID(int=0),
        "outcomes": None if wanted.status is None else [each.value for each in _OUTCOMES.get(wanted.status, ())],
        "states": None if wanted.status is None else _states(wanted.status),
    }
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, parameters)).fetchall()
    return [_row(row) for row in rows]


def _states(status: str) -> Sequence[str]:
    assert status in STATUSES
    modes: tuple[Mode | None, ...] = (None, *Mode)
    return [
        f"{state.name}/{'' if mode is None else mode.value}"
        for state in State
        for mode in modes
        if public_status(state, mode) == status
    ]


def _lowest(ms: int | None) -> UUID | None:
    return None if ms is None else UUID(bytes=lowest_at(ms))


def _uuid(raw: bytes | None) -> UUID | None:
    return None if raw is None else UUID(bytes=raw)


def _row(row: TupleRow) -> ExecutionRow:
    ended, own = row[:_ENDED_COUNT], row[_ENDED_COUNT : _ENDED_COUNT + len(COLUMNS)]
    read_at, refunded = row[_ENDED_COUNT + len(COLUMNS) :]
    return ExecutionRow(
        ended=None if ended[0] is None else _ended(ended),
        asynchronous=None if own[0] is None else execution_of(own),
        was_read=read_at is not None,
        refunded_nanos=refunded,
    )


def _ended(row: TupleRow) -> Ended:
    values = (row[0].bytes, row[1].bytes, *row[2:15], Outcome(row[15]), row[16])
    return Ended(*values)
