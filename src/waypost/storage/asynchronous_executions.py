"""Asynchronous executions: begun, taken a step further, ended. Each is one transaction, with everything that goes with
it: money, the queued job, the announcement.

A step is a compare-and-swap on the row's version, so of two that step from the same place one loses, and a job that
runs twice has one effect. `connection`s and the pool are the settling role's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.executions.lifecycle import State, event_of, may_follow, outcome_of
from waypost.kit.errors import ErrorCode
from waypost.kit.ids import Ids
from waypost.kit.money import Nanos
from waypost.kit.values import as_dict, replace
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.record import InsufficientFunds, Outcome
from waypost.storage.asynchronous_rows import (
    CHANGING,
    COLUMNS,
    FIXED,
    AsynchronousExecution,
    execution_of,
    parameters_of,
)
from waypost.storage.files import drop_outputs_on, show_outputs_on
from waypost.storage.general_ledger import posting
from waypost.storage.jobs import defer
from waypost.storage.leases import recall
from waypost.storage.long_holds import RECALL_LOOK_MS, RECALL_LOOKS, create_hold_on, end_hold_on, refund_hold_on
from waypost.storage.pool import Pool
from waypost.wire.canonical import Usage

CHANNEL = "waypost_execution"  # where every step is announced: the id's 32 hexadecimal digits, and the new version
QUEUE = "executions"
START = "execution.start"  # the job that does the work, from the beginning or from where it was interrupted
CANCEL_AT_PROVIDER = "execution.cancel_at_provider"  # asked for by a caller, or because time is up
ENDPOINT = "/v1/executions"  # of idempotency keys
KEPT_HOURS = 24  # an idempotency key
FETCHING_S = 600  # that an output which is there may still be fetched for, when time is up

# fmt: off
_RARE = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "images", "duration_ms", "characters")
_UNITS = (
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "reasoning_tokens", *_RARE,
)
# fmt: on


def _values(names: Sequence[str]) -> str:
    return ", ".join(f"nullif(%({name})s::bigint, 0)" if name in _RARE else f"%({name})s" for name in names)


# The key is ours, or a row that is younger than a day has it.
CLAIM = f"""
WITH claimed AS (
    INSERT INTO idempotency_key AS kept
           (org_id, endpoint, key_digest, fingerprint, execution_id, node_id, node_epoch)
    VALUES (%(org_id)s, '{ENDPOINT}', %(key_digest)s, %(fingerprint)s, %(id)s, '{UUID(int=0)}', 0)
        ON CONFLICT (org_id, endpoint, key_digest) DO UPDATE
       SET fingerprint = excluded.fingerprint, execution_id = excluded.execution_id, created_at = now()
     WHERE kept.created_at < now() - interval '{KEPT_HOURS} hours'
    RETURNING execution_id
)
SELECT EXISTS (SELECT FROM claimed)
"""  # noqa: S608 - put together from texts of ours, here and below

CLAIMED = f"""
SELECT fingerprint, execution_id FROM idempotency_key
 WHERE org_id = %(org_id)s AND endpoint = '{ENDPOINT}' AND key_digest = %(key_digest)s
   AND created_at >= now() - interval '{KEPT_HOURS} hours'
"""  # noqa: S608

INSERT = f"""
INSERT INTO asynchronous_execution ({", ".join(FIXED)}) VALUES ({_values(FIXED)})
"""  # noqa: S608

FIND = f"SELECT {', '.join(COLUMNS)} FROM asynchronous_execution WHERE id = %(id)s"  # noqa: S608

STEP = f"""
UPDATE asynchronous_execution
   SET ({", ".join(CHANGING)}, version) = ({_values(CHANGING)}, version + 1)
 WHERE id = %(id)s AND version = %(version)s
RETURNING version, pg_notify('{CHANNEL}', %(id_digits)s || ' ' || version)
"""  # noqa: S608

ENDED = f"""
INSERT INTO execution (id, org_id, api_key_id, accepted_at, closed_at, charge, price_version, {", ".join(_UNITS)},
                       first_content_ms, attempts, outcome, status, is_stream, is_estimated, model, error_code)
VALUES (%(id)s, %(org_id)s, %(api_key_id)s, %(accepted_at)s, %(ended_at)s, %(charge)s, %(price_version)s,
        {_values(_UNITS)}, 0, %(attempt)s, %(outcome)s, %(status)s, false, %(is_estimated)s, %(model)s, %(error_code)s)
"""  # noqa: S608

# The provider's bill for a job of its own; what it answered at once has rows of the gateway that asked.
BILLED = f"""
WITH booked AS (
    INSERT INTO settlement (attempt_id, execution_id, org_id, lease_id, charge, house, cogs, price_version,
                            {", ".join(_UNITS)}, outcome, is_estimated, model, provider, deployment)
    VALUES (%(attempt_id)s, %(id)s, %(org_id)s, %(id)s, 0, 0, %(cogs)s, %(price_version)s, {_values(_UNITS)},
            %(outcome)s, %(is_estimated)s, %(model)s, %(provider)s, %(deployment)s)
        ON CONFLICT DO NOTHING
    RETURNING cogs
)
{
    posting(
        TransferCode.COST,
        "%(cost_kind)s::smallint",
        AccountKind.PAYABLE,
        transfer_id="%(transfer_id)s",
        org_id="NULL::uuid",
        amount="cogs",
        source="booked",
    )
}
"""  # noqa: S608

# The same where nobody waits to hear whether it did: it fails where it does not find what it steps from.
STEP_OR_FAIL = f"WITH stepped AS ({STEP}) SELECT 1 / (SELECT count(*) FROM stepped)"  # noqa: S608

OVERDUE = f"""
SELECT {", ".join(COLUMNS)} FROM asynchronous_execution
 WHERE ended_at IS NULL AND expires_at <= %(now)s
   AND (state <> 'REHOSTING' OR expires_at <= %(now)s - interval '{FETCHING_S} seconds')
 ORDER BY expires_at LIMIT %(limit)s
"""  # noqa: S608

# Not of one that is lost, or was deleted: a price that went back did so for an answer that nobody got.
READ = """
UPDATE asynchronous_execution SET result_read_at = coalesce(result_read_at, now())
 WHERE id = %(id)s AND result_until > now()
"""

LOST = """
UPDATE asynchronous_execution SET result_until = now()
 WHERE id = %(id)s AND state = 'SUCCEEDED' AND result_until > now()
RETURNING result_read_at IS NULL
"""

FORGOTTEN = "UPDATE asynchronous_execution SET result_until = now() WHERE id = %(id)s AND result_until > now()"


class Claim(msgspec.Struct, frozen=True):
    """An idempotency key that the caller gave: HMACs of it and of the request's body."""

    key_digest: bytes
    fingerprint: bytes


class JobBill(msgspec.Struct, frozen=True):
    """What a provider bills for a job of its own."""

    attempt_id: bytes  # sibling(execution id, n); of a job that is none of the execution's, derived from its name
    cogs_nanos: Nanos


class Ending(msgspec.Struct, frozen=True):
    """What an end means in money and units."""

    charge_nanos: Nanos = 0  # at most the hold; nothing unless it SUCCEEDED
    usage: Usage = Usage()
    bills: tuple[JobBill, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """To be queued with a step; its only argument is `execution`, the id's 32 hexadecimal digits."""

    task: str
    at: datetime | None = None
    queue: str = QUEUE


class KeyUsedOtherwise(Exception):
    """The idempotency key belongs to another request."""


Announce = Callable[[AsyncConnection, AsynchronousExecution, str, Ending | None], Awaitable[None]]
"""Writes what becomes of an event (`execution.…`) in the step's own transaction; the row is as it is after the step."""


async def announce_to_nobody(
    connection: AsyncConnection, execution: AsynchronousExecution, event: str, ending: Ending | None
) -> None:
    """For a deployment without webhooks."""


class Executions:
    """`pool` is the settling role's."""

    def __init__(self, pool: Pool, ids: Ids, announce: Announce = announce_to_nobody) -> None:
        self.pool = pool
        self._ids = ids
        self._announce = announce

    async def create(
        self, execution: AsynchronousExecution, *, owners: Sequence[bytes] = (), claim: Claim | None = None
    ) -> tuple[AsynchronousExecution, bool]:
        """The execution, held for and queued, and whether it is new: one that was made before under the same claim is
        not. `owners` are those whose budgets it counts against.

        Raises InsufficientFunds, when others had time to give back what is free; KeyUsedOtherwise; LookupError for an
        unknown organisation; LedgerPromoted. Then nothing is stored."""
        looks = 0
        while True:
            try:
                return await self._create(execution, owners, claim)
            except InsufficientFunds as short:
                lost = short
            org_id, hold_id = UUID(bytes=execution.org_id), UUID(bytes=execution.id)
            recallable = await recall(self.pool, org_id, hold_id)
            if looks == RECALL_LOOKS or execution.hold_nanos > lost.available_nanos + recallable:
                raise lost
            looks += 1
            await asyncio.sleep(RECALL_LOOK_MS / 1000)

    async def _create(
        self, execution: AsynchronousExecution, owners: Sequence[bytes], claim: Claim | None
    ) -> tuple[AsynchronousExecution, bool]:
        async with self.pool.connection() as connection:
            try:
                async with connection.pipeline():
                    await connection.execute("BEGIN")
                    if claim is not None:
                        earlier = await _claimed_before(connection, execution, claim)
                        if earlier is not None:
                            return earlier, False
                    await create_hold_on(
                        connection,
                        UUID(bytes=self._ids.new()),
                        hold_id=execution.id,
                        org_id=execution.org_id,
                        amount_nanos=execution.hold_nanos,
                        owners=owners,
                    )
                    await connection.execute(INSERT, parameters_of(execution))
                    await defer(connection, START, {"execution": execution.id.hex()}, queue=QUEUE)
                    await connection.execute("COMMIT")
            finally:
                await connection.rollback()  # of what was not committed
        return execution, True

    async def made_under(self, claim: Claim, *, org_id: bytes) -> AsynchronousExecution | None:
        """What was made under that claim, None if nothing was, or not for long. Raises KeyUsedOtherwise."""
        parameters = {"org_id": UUID(bytes=org_id), "key_digest": claim.key_digest}
        async with self.pool.connection() as connection:
            row = await (await connection.execute(CLAIMED, parameters)).fetchone()
            return None if row is None else await _claimed_by(connection, row, claim)

    async def find(self, execution_id: bytes) -> AsynchronousExecution | None:
        async with self.pool.connection() as connection:
            row = await (await connection.execute(FIND, {"id": UUID(bytes=execution_id)})).fetchone()
        return None if row is None else execution_of(row)

    async def overdue(self, now: datetime, *, limit: int) -> list[AsynchronousExecution]:
        """Those whose time is up and that have not ended, the longest first. One whose output is there has more."""
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(OVERDUE, {"now": now, "limit": limit})).fetchall()
        return [execution_of(row) for row in rows]

    async def step(
        self,
        before: AsynchronousExecution,
        after: AsynchronousExecution,
        *,
        ending: Ending | None = None,
        jobs: Sequence[Job] = (),
    ) -> AsynchronousExecution | None:
        """`step_on` in a transaction of its own. Raises LedgerUnavailable when its outcome is unknown: look again."""
        if before.state.has_ended:
            return None
        # All statements are sent at once: waiting for each takes several times as long as the database needs.
        async with self.pool.connection() as connection:
            try:
                async with connection.pipeline():
                    await connection.execute("BEGIN")
                    stepped = _checked(before, after, ending)
                    parameters = parameters_of(stepped) | {"version": before.version, "id_digits": after.id.hex()}
                    await connection.execute(STEP_OR_FAIL, parameters)
                    stepped = replace(stepped, version=before.version + 1)
                    await self._complete(connection, before, stepped, ending, jobs)
                    await connection.execute("COMMIT")
            except psycopg.errors.DivisionByZero:  # somebody else took a step
                return None
            finally:
                await connection.rollback()
        return stepped

    async def step_on(
        self,
        connection: AsyncConnection,
        before: AsynchronousExecution,
        after: AsynchronousExecution,
        *,
        ending: Ending | None = None,
        jobs: Sequence[Job] = (),
    ) -> AsynchronousExecution | None:
        """Take an execution from one row to the next, with all that goes with it; None, with nothing done, when it is
        not where `before` says any more, or had ended there: nothing follows an end. `after` is `before` with its
        changes; `ending` belongs to a step to a terminal state and to no other."""
        if before.state.has_ended:
            return None
        stepped = _checked(before, after, ending)
        parameters = parameters_of(stepped) | {"version": before.version, "id_digits": after.id.hex()}
        row = await (await connection.execute(STEP, parameters)).fetchone()
        if row is None:
            return None
        stepped = replace(stepped, version=row[0])
        await self._complete(connection, before, stepped, ending, jobs)
        return stepped

    async def _complete(
        self,
        connection: AsyncConnection,
        before: AsynchronousExecution,
        after: AsynchronousExecution,
        ending: Ending | None,
        jobs: Sequence[Job],
    ) -> None:
        """All that goes with a step."""
        if ending is not None:
            await self._settle(connection, after, ending)
        for job in jobs:
            await defer(connection, job.task, {"execution": after.id.hex()}, queue=job.queue, at=job.at)
        event = event_of(before.state, after.state)
        if event is not None:
            await self._announce(connection, after, event, ending)

    async def _settle(self, connection: AsyncConnection, ended: AsynchronousExecution, ending: Ending) -> None:
        transfer_ids = UUID(bytes=self._ids.new()), UUID(bytes=self._ids.new())
        await end_hold_on(connection, transfer_ids, hold_id=ended.id, charge_nanos=ending.charge_nanos)
        usage = as_dict(ending.usage)
        parameters = parameters_of(ended) | usage | {"charge": ending.charge_nanos, "status": _http_status(ended)}
        parameters["outcome"] = outcome_of(ended.state).value
        await connection.execute(ENDED, parameters)
        if ended.output_files:
            await show_outputs_on(connection, ended.id)
        elif ended.state is not State.SUCCEEDED and ended.started_at is not None:
            await drop_outputs_on(connection, ended.id)
        kind = AccountKind.COGS_PROVIDER if ended.state is State.SUCCEEDED else AccountKind.COGS_FAILED_ATTEMPT
        for bill in ending.bills:
            parameters["attempt_id"] = UUID(bytes=bill.attempt_id)
            parameters |= {"cogs": bill.cogs_nanos, "cost_kind": kind.value, "transfer_id": UUID(bytes=self._ids.new())}
            await connection.execute(BILLED, parameters)

    async def book_orphan(self, ended: AsynchronousExecution, bill: JobBill, usage: Usage) -> None:
        """A job at a provider that its execution ended without: the house pays it, once. `ended` names the deployment
        that had it."""
        parameters = parameters_of(ended) | as_dict(usage) | {"outcome": Outcome.CUT_OFF.value}
        parameters |= {"attempt_id": UUID(bytes=bill.attempt_id), "cogs": bill.cogs_nanos}
        parameters |= {"cost_kind": AccountKind.HOUSE_LATE.value, "transfer_id": UUID(bytes=self._ids.new())}
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute(BILLED, parameters)

    async def result_was_read(self, execution_id: bytes) -> bool:
        """Its caller gets it, and from now on a loss is no reason to give money back. False: it may not be told any
        more, as it was deleted or its price has gone back."""
        async with self.pool.connection() as connection:
            return (await connection.execute(READ, {"id": UUID(bytes=execution_id)})).rowcount == 1

    async def result_is_lost(self, execution_id: bytes) -> bool:
        """The vault does not have what it should: nobody looks there again, and what was charged goes back, unless the
        result was read before. Whether it went back."""
        async with self.pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(LOST, {"id": UUID(bytes=execution_id)})).fetchone()
            if row != (True,):
                return False
            transfer_id = UUID(bytes=self._ids.new())
            return await refund_hold_on(connection, transfer_id, hold_id=execution_id, refund_key="result lost")

    async def result_was_deleted(self, execution_id: bytes) -> None:
        """By its caller."""
        async with self.pool.connection() as connection:
            await connection.execute(FORGOTTEN, {"id": UUID(bytes=execution_id)})


def _checked(
    before: AsynchronousExecution, after: AsynchronousExecution, ending: Ending | None
) -> AsynchronousExecution:
    """`after` with its number among what is announced, if it is a step that may be taken."""
    assert may_follow(before.state, after.state, is_new_attempt=after.attempt > before.attempt), (before, after)
    assert (ending is not None) == after.state.has_ended == (after.ended_at is not None)
    assert ending is None or after.state is State.SUCCEEDED or ending.charge_nanos == 0
    is_told = event_of(before.state, after.state) is not None
    return replace(after, sequence=before.sequence + is_told)


def _http_status(ended: AsynchronousExecution) -> int:
    """That a call which is waited for would have had; 0 = none."""
    if ended.state is State.SUCCEEDED:
        return 200
    return ErrorCode[ended.error_code].status if ended.error_code else 0


async def _claimed_before(
    connection: AsyncConnection, execution: AsynchronousExecution, claim: Claim
) -> AsynchronousExecution | None:
    """Who has the key, if it is not this one's now. Raises KeyUsedOtherwise."""
    parameters = parameters_of(execution) | msgspec.structs.asdict(claim)
    # A rival that has ended meanwhile is waited for by the insert, and seen by the statement after it.
    if await (await connection.execute(CLAIM, parameters)).fetchone() == (True,):
        return None
    row = await (await connection.execute(CLAIMED, parameters)).fetchone()
    assert row is not None, "a key that was just refused is younger than a day"
    return await _claimed_by(connection, row, claim)


async def _claimed_by(connection: AsyncConnection, row: TupleRow, claim: Claim) -> AsynchronousExecution:
    """Of a row of `CLAIMED`. Raises KeyUsedOtherwise."""
    if bytes(row[0]) != claim.fingerprint:
        raise KeyUsedOtherwise
    found = await (await connection.execute(FIND, {"id": row[1]})).fetchone()
    assert found is not None, "the key and its execution are written together"
    return execution_of(found)
