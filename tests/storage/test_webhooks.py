"""Announcements are part of the step that they tell of; deliveries are taken once, recorded, and forgotten in time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.storage.asynchronous import ended, received, running
from tests.storage.books import IDS, Books, open_books
from waypost.executions.lifecycle import State
from waypost.kit.ids import text
from waypost.kit.values import replace
from waypost.storage.asynchronous_executions import Ending, Executions
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.webhook_deliveries import (
    FAILURES_MAX,
    Ended,
    Taken,
    count_deliveries,
    expire,
    forget,
    record,
    renew,
    take_due,
    take_test,
)
from waypost.storage.webhook_endpoints import (
    Change,
    Endpoint,
    TooManyEndpoints,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    find_endpoint,
    organisation_secret,
    rotate_organisation_secret,
    rotate_secret,
)
from waypost.storage.webhook_history import Inactive, Wanted, find_delivery, list_deliveries, redeliver, replay
from waypost.storage.webhooks import Announcer
from waypost.webhooks.event import EventType
from waypost.webhooks.schedule import Attempt, Dead, Delivered, Reason, Retry
from waypost.webhooks.sealed import Sealed
from waypost.wire.canonical import Usage

SEALED = Sealed(b"k" * 32)
URL = "https://hooks.example.com/a"
DAY_S = 86_400.0
OK = Attempt(status=200, took_s=0.01)
FAILED = Attempt(status=500, took_s=0.01)


class Desk:
    """Executions that are announced, and what becomes of it."""

    def __init__(self, books: Books, settling: Pool) -> None:
        self.books = books
        self.pool = books.app
        self.executions = Executions(settling, IDS, Announcer(IDS, SEALED))
        self.org_id = b""

    async def endpoint(self, *events: str, url: str = URL, org_id: bytes | None = None, most: int = 20) -> Endpoint:
        wanted = Change(url=url, events=events)
        owner = org_id or self.org_id
        return await create_endpoint(self.pool, owner, IDS.new(), wanted, secret=b"sealed", endpoints_max=most)

    async def started(self, **changes: object) -> AsynchronousExecution:
        made, _ = await self.executions.create(received(self.org_id, **changes))
        after = await self.executions.step(made, running(made))
        assert after is not None
        return after

    async def completed(self, **changes: object) -> AsynchronousExecution:
        before = await self.started(**changes)
        after = replace(ended(before, State.SUCCEEDED), output_files=(OutputFile(IDS.new(), "image/png", 9, 64, 32),))
        ending = Ending(charge_nanos=5_000_000, usage=Usage(input_tokens=3, output_tokens=4, images=1))
        found = await self.executions.step(before, after, ending=ending)
        assert found is not None
        return found

    async def take(self, *, most: int = 100, **changes: object) -> list[Taken]:
        choice: dict[str, object] = {"free": {}, "busy": [], "only": None, "window": 500} | changes
        return await take_due(self.pool, most=most, **choice)  # type: ignore[arg-type]  # as the caller names them

    async def tell(self, *taken: Taken, attempt: Attempt = OK, step: object = None) -> dict[bytes, str]:
        now = datetime.now(UTC)
        what = step or (Delivered() if attempt.is_success else Retry(now + timedelta(hours=1)))
        return await record(
            self.pool,
            [Ended(delivery=each, attempt=attempt, step=what, began_at=now, ended_at=now) for each in taken],  # type: ignore[arg-type]
        )

    async def states(self) -> list[tuple[str, str | None]]:
        rows = await list_deliveries(self.pool, self.org_id, Wanted(), limit=500, before=None)
        return [(row.state, row.reason) for row in reversed(rows)]

    async def forget_leases(self) -> None:
        """As if the taker were gone."""
        async with self.pool.system() as connection:
            await connection.execute("UPDATE webhook_delivery SET due_at = now() WHERE state = 'PENDING'")


@asynccontextmanager
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_books(database) as books:
        settling = Pool(database, Role.SETTLE, size=2)
        found = Desk(books, settling)
        found.org_id = await books.org(credit_nanos=1_000_000_000)
        try:
            yield found
        finally:
            await settling.close()


async def test_a_step_is_announced_to_who_wants_to_know_and_to_the_url_of_the_request(database: str) -> None:
    async with desk(database) as here:
        every = await here.endpoint()
        ends = await here.endpoint("execution.completed", "execution.failed")
        await here.endpoint(org_id=await here.books.org())

        done = await here.completed(webhook_url="https://own.example.com/b")

        own = SEALED.lane(here.org_id, "https://own.example.com/another")
        taken = await here.take(free={every.id: 4, ends.id: 4, own: 4})
        told = {(each.endpoint_id, each.url and SEALED.url(here.org_id, each.url), each.event.type) for each in taken}
        assert (every.id, URL, EventType.STARTED) in told
        assert (every.id, URL, EventType.COMPLETED) in told
        assert (ends.id, URL, EventType.COMPLETED) in told
        assert (ends.id, URL, EventType.STARTED) not in told
        assert (None, "https://own.example.com/b", EventType.STARTED) in told
        last = next(each.event for each in taken if each.event.type is EventType.COMPLETED)
        assert (last.execution_id, last.sequence, last.org_id) == (done.id, 2, here.org_id)
        assert last.facts is not None
        assert (last.facts.status, last.facts.cost_nanos, last.facts.usage) == (
            "COMPLETED",
            5_000_000,
            {
                "input_tokens": 3,
                "cache_read_tokens": 0,
                "cache_write_tokens": 0,
                "output_tokens": 4,
                "reasoning_tokens": 0,
                "is_estimated": False,
                "images": 1,
            },
        )
        (file,) = last.facts.files
        assert (file.file_id, file.width) == (text("file", done.output_files[0].id), 64)
        assert {each.event.id for each in taken if each.event.sequence == 2} == {last.id}, "one event, each receiver"


async def test_a_step_that_is_undone_is_announced_to_nobody(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint()
        made, _ = await here.executions.create(received(here.org_id))
        with contextlib.suppress(ZeroDivisionError):
            async with here.executions.pool.connection() as connection, connection.transaction():
                await here.executions.step_on(connection, made, running(made))
                raise ZeroDivisionError
        assert await here.states() == []


async def test_a_step_wakes_who_listens_only_when_somebody_is_to_be_told(database: str) -> None:
    async with desk(database) as here:
        with psycopg.connect(database, autocommit=True) as listener:
            listener.execute("LISTEN waypost_webhook")
            await here.started()
            assert list(listener.notifies(timeout=0.2)) == []
            await here.endpoint()
            await here.started()
            assert len(list(listener.notifies(timeout=5, stop_after=1))) == 1


async def test_who_keeps_the_books_announces_and_sees_no_secret(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as raw:
        raw.execute("SET ROLE waypost_settle")
        for query in (
            "SELECT secret FROM webhook_endpoint",
            "SELECT facts FROM webhook_delivery",
            "TABLE webhook_secret",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                raw.execute(query)


async def test_a_delivery_is_taken_once_and_again_when_its_taker_is_gone(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint("execution.started")
        await here.started()
        (first,) = await here.take()
        assert await here.take() == []
        await renew(here.pool, [first.id])
        assert await here.take() == []

        await here.forget_leases()

        (again,) = await here.take()
        assert (again.id, again.event) == (first.id, first.event)
        await here.tell(again)
        await here.forget_leases()
        assert await here.take() == []


async def test_each_lane_has_its_places_and_none_waits_behind_another(database: str) -> None:
    async with desk(database) as here:
        many, few = await here.endpoint("execution.started"), await here.endpoint("execution.completed")
        for _ in range(6):
            await here.started()
        await here.completed()

        lanes = [each.lane for each in await here.take()]
        assert sorted(lanes) == sorted([many.id, few.id]), "one place for a lane that nobody knows"
        assert [each.lane for each in await here.take(free={many.id: 3})] == [many.id] * 3
        assert await here.take(busy=[many.id]) == []
        assert await here.take(only=[few.id]) == []
        assert len(await here.take(most=2, free={many.id: 4})) == 2


async def test_what_failed_is_due_later_and_what_arrived_is_not_due_any_more(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint("execution.started")
        await here.started()
        (taken,) = await here.take()
        soon = datetime.now(UTC) + timedelta(seconds=0.05)
        await here.tell(taken, attempt=FAILED, step=Retry(soon))

        found = await find_delivery(here.pool, here.org_id, taken.id)
        assert found is not None
        assert (found.state, found.attempts, found.last_status, found.last_error) == ("PENDING", 1, 500, "http_500")
        while not (again := await here.take()):
            pass
        assert (again[0].retries, again[0].is_first) == (1, False)
        await here.tell(again[0])
        found = await find_delivery(here.pool, here.org_id, taken.id)
        assert found is not None
        assert (found.state, found.attempts, found.last_status, found.last_error) == ("DELIVERED", 2, 200, None)


async def test_ten_failures_in_a_row_across_deliveries_deactivate_the_endpoint(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint("execution.started")
        for _ in range(FAILURES_MAX + 3):
            await here.started()
        for at in range(FAILURES_MAX):
            (taken,) = await here.take()
            stopped = await here.tell(taken, attempt=FAILED)
            assert stopped == ({} if at < FAILURES_MAX - 1 else {endpoint.id: "FAILING"})

        assert set(await here.states()) == {("DEAD", "endpoint_inactive")}
        await here.started()
        assert (await here.states())[-1] == ("DEAD", "endpoint_inactive"), "kept for the day on which it is well again"
        found = await find_endpoint(here.pool, here.org_id, endpoint.id)
        assert found is not None
        assert (found.state, found.failures, found.last_failure) == ("FAILING", FAILURES_MAX, "http_500")
        assert found.dead_letters == FAILURES_MAX + 4

        with pytest.raises(Inactive):
            await replay(here.pool, here.org_id, endpoint.id, since=None, expires_s=DAY_S)
        changed = await change_endpoint(here.pool, here.org_id, endpoint.id, Change(state="ACTIVE"))
        assert (changed.state, changed.failures) == ("ACTIVE", 0)
        assert await replay(here.pool, here.org_id, endpoint.id, since=None, expires_s=DAY_S) == FAILURES_MAX + 4
        assert len(await here.take(free={endpoint.id: 100})) == FAILURES_MAX + 4


async def test_a_success_between_failures_begins_the_count_anew(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint("execution.started")
        for _ in range(2 * FAILURES_MAX):
            await here.started()
        taken = await here.take(free={endpoint.id: 100})
        now = datetime.now(UTC)
        told = [
            Ended(
                delivery=each,
                attempt=OK if at == FAILURES_MAX - 1 else FAILED,
                step=Delivered() if at == FAILURES_MAX - 1 else Retry(now + timedelta(hours=1)),
                began_at=now,
                ended_at=now,
            )
            for at, each in enumerate(taken[: 2 * FAILURES_MAX - 1])
        ]
        assert await record(here.pool, told) == {}
        found = await find_endpoint(here.pool, here.org_id, endpoint.id)
        assert found is not None
        assert (found.state, found.failures) == ("ACTIVE", FAILURES_MAX - 1)
        assert await here.tell(taken[-1], attempt=FAILED) == {endpoint.id: "FAILING"}


async def test_an_endpoint_that_says_it_is_gone_gets_nothing_more(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint("execution.started")
        await here.started()
        await here.started()
        (taken,) = await here.take()
        assert await here.tell(taken, attempt=Attempt(status=410), step=Dead(Reason.GONE)) == {endpoint.id: "GONE"}
        assert await here.states() == [("DEAD", "gone")] * 2
        await here.started()
        assert len(await here.states()) == 2


async def test_a_paused_endpoint_and_a_deleted_one_get_nothing_and_their_history_stays(database: str) -> None:
    async with desk(database) as here:
        paused, deleted = await here.endpoint("execution.started"), await here.endpoint("execution.started")
        await here.started()
        (under_way, _) = await here.take()
        await change_endpoint(here.pool, here.org_id, paused.id, Change(state="PAUSED"))
        await delete_endpoint(here.pool, here.org_id, deleted.id)
        assert sorted(await here.states()) == [("DEAD", "endpoint_deleted"), ("DEAD", "endpoint_inactive")]
        await here.started()
        assert len(await here.states()) == 2

        await here.tell(under_way)
        assert ("DELIVERED", None) in await here.states(), "what arrived all the same has arrived"
        with pytest.raises(LookupError):
            await delete_endpoint(here.pool, here.org_id, deleted.id)


async def test_a_delivery_is_sent_again_with_the_same_event_and_a_whole_schedule(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint("execution.started")
        await here.started(webhook_url="https://own.example.com/")
        taken = await here.take()
        await here.tell(*taken, attempt=FAILED, step=Dead(Reason.EXHAUSTED))
        for each in taken:
            found = await redeliver(here.pool, here.org_id, each.id, expires_s=DAY_S)
            assert (found.state, found.event_id, found.attempts) == ("PENDING", each.event.id, 1)
            assert (await redeliver(here.pool, here.org_id, each.id, expires_s=DAY_S)).state == "PENDING"
        assert {(each.event.id, each.retries) for each in await here.take()} == {(taken[0].event.id, 0)}
        with pytest.raises(LookupError):
            await redeliver(here.pool, here.org_id, IDS.new(), expires_s=DAY_S)
        other = await here.books.org()
        with pytest.raises(LookupError):
            await redeliver(here.pool, other, taken[0].id, expires_s=DAY_S)


async def test_a_test_is_nobodys_failure_and_nobody_else_takes_it(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint("execution.failed")
        taken = await take_test(here.pool, here.org_id, endpoint.id, delivery_id=IDS.new(), event_id=IDS.new())
        assert (taken.url, taken.event.type, taken.event.facts) == (URL, EventType.TEST, None)
        assert await here.take() == []
        await here.tell(taken, attempt=FAILED, step=Dead(Reason.EXHAUSTED))
        found = await find_endpoint(here.pool, here.org_id, endpoint.id)
        assert found is not None
        assert found.failures == 0
        assert await replay(here.pool, here.org_id, endpoint.id, since=None, expires_s=DAY_S) == 0
        with pytest.raises(LookupError):
            await take_test(here.pool, here.org_id, IDS.new(), delivery_id=IDS.new(), event_id=IDS.new())


async def test_what_is_too_late_becomes_a_dead_letter_and_dead_letters_are_forgotten(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint("execution.started")
        await here.started()
        assert (await count_deliveries(here.pool)).pending == 1
        async with here.pool.system() as connection:
            await connection.execute("UPDATE webhook_delivery SET expires_at = now() - interval '1 s'")
        assert await expire(here.pool) == 1
        assert await here.states() == [("DEAD", "expired")]
        assert (await count_deliveries(here.pool)).dead == 1
        assert await forget(here.pool) == 0
        async with here.pool.system() as connection:
            await connection.execute("UPDATE webhook_delivery SET ended_at = now() - interval '30 days 1 s'")
        assert await forget(here.pool) == 1
        assert await here.states() == []


async def test_an_organisation_has_so_many_endpoints_and_no_more(database: str) -> None:
    async with desk(database) as here:
        await here.endpoint(most=2)
        await here.endpoint(most=2)
        with pytest.raises(TooManyEndpoints):
            await here.endpoint(most=2)
        await here.endpoint(most=2, org_id=await here.books.org())


async def test_for_a_day_after_a_rotation_the_old_secret_signs_too(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint("execution.started")
        until = await rotate_secret(here.pool, here.org_id, endpoint.id, secret=b"newer")
        assert until is not None
        await here.started(webhook_url=URL)
        by_endpoint = {each.endpoint_id: (each.secret, each.previous_secret) for each in await here.take()}
        assert by_endpoint == {endpoint.id: (b"newer", b"sealed"), None: (None, None)}

        assert await organisation_secret(here.pool, here.org_id, fresh=b"own") == (b"own", None)
        assert await organisation_secret(here.pool, here.org_id, fresh=b"other") == (b"own", None)
        await rotate_organisation_secret(here.pool, here.org_id, secret=b"second", overlap_s=0)
        await rotate_organisation_secret(here.pool, here.org_id, secret=b"third")
        await here.forget_leases()
        by_endpoint = {each.endpoint_id: (each.secret, each.previous_secret) for each in await here.take()}
        assert by_endpoint[None] == (b"third", b"second")
        async with here.pool.system() as connection:
            for table in ("webhook_secret", "webhook_endpoint"):
                await connection.execute(f"UPDATE {table} SET previous_until = now()")
        await here.forget_leases()
        assert {each.previous_secret for each in await here.take()} == {None}
        with pytest.raises(LookupError):
            await rotate_secret(here.pool, await here.books.org(), endpoint.id, secret=b"x")


async def test_deliveries_are_listed_by_what_is_wanted_the_newest_first(database: str) -> None:
    async with desk(database) as here:
        endpoint = await here.endpoint()
        done = await here.completed(webhook_url=URL)
        other = await here.started()

        async def listed(**wanted: object) -> list[str]:
            rows = await list_deliveries(
                here.pool,
                here.org_id,
                Wanted(**wanted),  # type: ignore[arg-type]  # as the caller names them
                limit=10,
                before=None,
            )
            return [row.event for row in rows]

        assert len(await listed()) == 5
        assert await listed(endpoint_id=endpoint.id, execution_id=done.id) == [
            "execution.completed",
            "execution.started",
        ]
        assert await listed(execution_id=other.id) == ["execution.started"]
        assert len(await listed(event="execution.completed")) == 2
        assert await listed(state="DEAD") == []
        rows = await list_deliveries(here.pool, here.org_id, Wanted(), limit=2, before=None)
        rest = await list_deliveries(here.pool, here.org_id, Wanted(), limit=10, before=rows[-1].id)
        assert len({UUID(bytes=row.id) for row in (*rows, *rest)}) == 5
        assert await list_deliveries(here.pool, await here.books.org(), Wanted(), limit=9, before=None) == []
