"""Asynchronous executions in the database: a step and all that goes with it happen once, together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg import AsyncConnection

from tests.storage.asynchronous import HOLD_NANOS, NOW, ended, received, running
from tests.storage.books import IDS, Books, attempt, open_books
from waypost.executions.lifecycle import Mode, State
from waypost.kit.ids import sibling
from waypost.kit.values import replace
from waypost.ledger.record import InsufficientFunds
from waypost.storage.asynchronous_executions import (
    CANCEL_AT_PROVIDER,
    START,
    Claim,
    Ending,
    Executions,
    Job,
    JobBill,
    KeyUsedOtherwise,
)
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.executions import Filters, find_execution, list_executions
from waypost.storage.job_queue import QueueState, queue_state
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.wire.canonical import Usage

CREDIT = 1_000_000_000


class Desk:
    """The executions of one database, with what was announced of them."""

    def __init__(self, books: Books, pool: Pool) -> None:
        self.books = books
        self.announced: list[tuple[bytes, str, int]] = []
        self.executions = Executions(pool, IDS, self._announce)

    async def _announce(
        self, connection: AsyncConnection, execution: AsynchronousExecution, event: str, ending: Ending | None
    ) -> None:
        assert (ending is not None) == execution.state.has_ended
        self.announced.append((execution.id, event, execution.sequence))

    async def jobs(self) -> list[tuple[str, str]]:
        async with self.books.app.system() as connection:
            rows = await connection.execute("SELECT task_name, args->>'execution' FROM procrastinate_jobs ORDER BY id")
            return [(row[0], row[1]) for row in await rows.fetchall()]

    async def created(self, org_id: bytes, **changes: object) -> AsynchronousExecution:
        made, is_new = await self.executions.create(received(org_id, **changes))
        assert is_new
        return made


@asynccontextmanager
async def open_desk(conninfo: str) -> AsyncIterator[Desk]:
    pool = Pool(conninfo, Role.SETTLE, size=8)
    async with open_books(conninfo) as books:
        try:
            yield Desk(books, pool)
        finally:
            await pool.close()


async def test_creating_one_holds_its_money_and_queues_its_job(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        asked = received(org_id, webhook_url="https://example.org/hook")
        made, is_new = await desk.executions.create(asked)

        assert is_new
        assert made == asked
        assert await desk.executions.find(made.id) == made
        assert await desk.jobs() == [(START, made.id.hex())]
        totals = await desk.books.totals()
        assert (totals.available_nanos, totals.held_nanos) == (CREDIT - HOLD_NANOS, HOLD_NANOS)


async def test_without_the_money_nothing_is_stored(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(HOLD_NANOS - 1)
        claim = Claim(b"k" * 32, b"f" * 32)
        with pytest.raises(InsufficientFunds) as short:
            await desk.executions.create(received(org_id), claim=claim)

        assert short.value.available_nanos == HOLD_NANOS - 1
        assert await desk.jobs() == []
        for table in ("asynchronous_execution", "long_hold", "idempotency_key"):
            assert await desk.books.one(f"SELECT count(*) FROM {table}") == (0,)
        assert (await desk.books.totals()).held_nanos == 0


async def test_one_idempotency_key_makes_one_execution_however_many_ask_at_once(database: str) -> None:
    async with open_desk(database) as desk:
        org_id, other_id = await desk.books.org(CREDIT), await desk.books.org(CREDIT)
        claim = Claim(b"k" * 32, b"f" * 32)
        made = await asyncio.gather(*(desk.executions.create(received(org_id), claim=claim) for _ in range(6)))
        assert sum(is_new for _, is_new in made) == 1
        assert len({execution.id for execution, _ in made}) == 1
        assert len(await desk.jobs()) == 1

        with pytest.raises(KeyUsedOtherwise):
            await desk.executions.create(received(org_id), claim=replace(claim, fingerprint=b"g" * 32))
        _, is_new = await desk.executions.create(received(other_id), claim=claim)
        assert is_new
        assert (await desk.books.totals()).held_nanos == 2 * HOLD_NANOS


async def test_a_key_is_free_again_after_a_day(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        claim = Claim(b"k" * 32, b"f" * 32)
        first, _ = await desk.executions.create(received(org_id), claim=claim)
        with psycopg.connect(database) as raw:
            raw.execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
        second, is_new = await desk.executions.create(received(org_id), claim=replace(claim, fingerprint=b"g" * 32))
        assert is_new
        assert second.id != first.id


async def test_an_end_settles_the_hold_and_is_in_the_books_as_any_call(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        made = await desk.created(org_id)
        begun = await desk.executions.step(made, running(made))
        assert begun is not None
        usage = Usage(input_tokens=7, output_tokens=3, images=2)
        files = (OutputFile(IDS.new(), "image/png", 100, 64, 32),)
        finished = replace(ended(begun, State.SUCCEEDED), output_files=files)
        done = await desk.executions.step(begun, finished, ending=Ending(5_000_000, usage))

        assert done is not None
        assert await desk.executions.find(made.id) == done
        assert done.output_files == files
        totals = await desk.books.totals()
        assert (totals.charged_nanos, totals.held_nanos, totals.available_nanos) == (5_000_000, 0, CREDIT - 5_000_000)
        row = await find_execution(desk.books.app, org_id, made.id)
        assert row is not None
        assert row.ended is not None
        assert (row.status, row.ended.charge_nanos, row.ended.images) == ("COMPLETED", 5_000_000, 2)
        assert desk.announced == [(made.id, "execution.started", 1), (made.id, "execution.completed", 2)]


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELED, State.EXPIRED])
async def test_any_other_end_costs_nothing(database: str, state: State) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        made = await desk.created(org_id)
        done = await desk.executions.step(made, ended(made, state, "MODEL_OVERLOADED"), ending=Ending())
        assert done is not None
        totals = await desk.books.totals()
        assert (totals.charged_nanos, totals.held_nanos, totals.available_nanos) == (0, 0, CREDIT)


async def test_of_many_that_step_from_one_place_one_does_and_no_trace_is_left_of_the_others(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        made = await desk.created(org_id)
        ends = (State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED) * 3
        outcomes = await asyncio.gather(
            *(
                desk.executions.step(
                    made,
                    ended(made, state, "GENERATION_FAILED"),
                    ending=Ending(1_000 if state is State.SUCCEEDED else 0),
                    jobs=[Job(CANCEL_AT_PROVIDER)],
                )
                for state in ends
            )
        )
        assert sum(outcome is not None for outcome in outcomes) == 1
        assert len(desk.announced) == 1
        assert len(await desk.jobs()) == 2
        assert (await desk.books.totals()).held_nanos == 0


async def test_the_database_itself_refuses_to_change_an_end(database: str) -> None:
    async with open_desk(database) as desk:
        made = await desk.created(await desk.books.org(CREDIT))
        assert await desk.executions.step(made, ended(made, State.CANCELED), ending=Ending()) is not None
        with psycopg.connect(database) as raw, pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            raw.execute("UPDATE asynchronous_execution SET state = 'SUCCEEDED'")


async def test_a_step_whose_announcement_fails_has_not_happened(database: str) -> None:
    async def refuse(*_: object) -> None:
        raise ZeroDivisionError

    async with open_desk(database) as desk:
        made = await desk.created(await desk.books.org(CREDIT))
        broken = Executions(desk.executions.pool, IDS, refuse)
        with pytest.raises(ZeroDivisionError):
            await broken.step(made, ended(made, State.FAILED, "INTERNAL_ERROR"), ending=Ending())
        assert await desk.executions.find(made.id) == made
        assert (await desk.books.totals()).held_nanos == HOLD_NANOS


async def test_what_providers_bill_for_jobs_is_booked_with_the_end(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        made = await desk.created(org_id)
        begun = await desk.executions.step(
            made,
            replace(
                running(made),
                mode=Mode.POLL,
                provider="alpha",
                deployment="alpha/film",
                provider_job="j1",
                credential=b"c",
            ),
        )
        assert begun is not None
        assert (begun.provider_job, begun.credential) == ("j1", b"c")
        film = replace(begun, deployment="alpha/film")
        begun = await desk.executions.step(begun, film)
        assert begun is not None
        bills = (JobBill(sibling(made.id, 1), 300), JobBill(sibling(made.id, 2), 700))
        usage = Usage(duration_ms=5_000)
        done = await desk.executions.step(begun, ended(begun, State.SUCCEEDED), ending=Ending(2_000, usage, bills))
        assert done is not None
        totals = await desk.books.totals()
        assert (totals.charged_nanos, totals.cogs_nanos) == (2_000, 1_000)


async def test_a_result_that_is_lost_unread_is_paid_back_once(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        until = NOW + timedelta(hours=1)
        lost: list[bytes] = []
        read: list[bytes] = []
        for kept in (lost, read):
            made = await desk.created(org_id)
            finished = replace(ended(made, State.SUCCEEDED), result_until=until)
            assert await desk.executions.step(made, finished, ending=Ending(5_000)) is not None
            kept.append(made.id)
        await desk.executions.result_was_read(read[0])

        assert await desk.executions.result_is_lost(lost[0])
        assert not await desk.executions.result_is_lost(lost[0])
        assert not await desk.executions.result_is_lost(read[0])
        row = await find_execution(desk.books.app, org_id, lost[0])
        assert row is not None
        assert row.refunded_nanos == 5_000
        assert (await desk.books.totals()).available_nanos == CREDIT - 5_000


async def test_lists_hold_both_kinds_newest_first_and_filter_them(database: str) -> None:
    async with open_desk(database) as desk:
        org_id, other_id = await desk.books.org(CREDIT), await desk.books.org(CREDIT)
        lease_id = await desk.books.grant(org_id, 1_000_000)
        first = await desk.created(org_id)
        call = attempt(org_id, lease_id, 1_500)
        await desk.books.ledger.settle_batch([call])
        second = await desk.created(org_id, model="painter-1")
        waiting = replace(running(second), mode=Mode.CALLBACK)
        assert await desk.executions.step(second, waiting) is not None
        third = await desk.created(org_id)
        assert await desk.executions.step(third, ended(third, State.EXPIRED, "GENERATION_TIMEOUT"), ending=Ending())
        await desk.created(other_id)

        async def found(**filters: object) -> list[bytes]:
            rows = await list_executions(
                desk.books.app,
                org_id,
                limit=10,
                before=None,
                filters=Filters(**filters),  # type: ignore[arg-type]
            )
            return [row.id for row in rows]

        everything = [third.id, second.id, call.open.execution_id, first.id]
        assert await found() == everything
        assert await found(status="PENDING") == [first.id]
        assert await found(status="AWAITING_WEBHOOK") == [second.id]
        assert await found(status="COMPLETED") == [call.open.execution_id]
        assert await found(status="EXPIRED") == [third.id]
        assert await found(status="PROCESSING") == await found(status="CANCELLED") == []
        assert await found(model="painter-1") == [second.id]
        assert await found(api_key_id=first.api_key_id) == [first.id]
        assert await found(created_before_ms=0) == []
        pages: list[bytes] = []
        before = None
        while rows := await list_executions(desk.books.app, org_id, limit=3, before=before):
            pages += [row.id for row in rows]
            before = rows[-1].id
        assert pages == everything


async def test_what_is_overdue_is_found_until_it_has_ended(database: str) -> None:
    async with open_desk(database) as desk:
        org_id = await desk.books.org(CREDIT)
        late = await desk.created(org_id, expires_at=NOW)
        await desk.created(org_id)
        assert [each.id for each in await desk.executions.overdue(NOW, limit=10)] == [late.id]
        assert await desk.executions.step(late, ended(late, State.EXPIRED), ending=Ending()) is not None
        assert await desk.executions.overdue(NOW, limit=10) == []


async def test_the_queue_tells_what_waits_for_how_long_and_what_has_not_ended(database: str) -> None:
    async with open_desk(database) as desk:
        assert await queue_state(desk.books.app) == QueueState()
        org_id = await desk.books.org(CREDIT)
        made = await desk.created(org_id)
        begun = await desk.created(org_id)
        assert await desk.executions.step(begun, running(begun)) is not None
        later = NOW + timedelta(hours=1)
        assert await desk.executions.step(made, made, jobs=[Job(START, at=later)]) is not None
        with psycopg.connect(database) as raw:
            raw.execute("UPDATE procrastinate_events SET at = now() - interval '90 seconds'")
        found = await queue_state(desk.books.app)
        assert (found.waiting, found.running) == (2, 0)
        assert 90 <= found.oldest_s < 100
        assert found.open_executions == {"RECEIVED": 1, "RUNNING": 1}
