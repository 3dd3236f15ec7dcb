"""Jobs run because their transaction was committed, and again when the worker that had begun them is gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import procrastinate
import psycopg
import pytest

from waypost.storage.jobs import defer
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.worker import queue as queue_module
from waypost.worker.queue import Queue


@contextlib.asynccontextmanager
async def working(queue: Queue) -> AsyncIterator[None]:
    task = asyncio.ensure_future(queue.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_job_runs_when_its_transaction_is_committed_and_never_when_it_is_not(database: str) -> None:
    done: list[str] = []
    is_done = asyncio.Event()

    async def note(what: str) -> None:
        done.append(what)
        is_done.set()

    pool = Pool(database, Role.APP, size=2)
    async with working(Queue(database, {"note": note})):
        with contextlib.suppress(ZeroDivisionError):
            async with pool.system() as connection:
                await defer(connection, "note", {"what": "never"}, queue="tests")
                raise ZeroDivisionError
        async with pool.system() as connection:
            await defer(connection, "note", {"what": "once"}, queue="tests")
        async with asyncio.timeout(20):
            await is_done.wait()
    await pool.close()

    assert done == ["once"]


async def test_a_job_that_fails_is_run_again_and_leaves_nothing_behind_when_it_is_done(database: str) -> None:
    tries: list[int] = []
    is_done = asyncio.Event()

    async def fail_first(number: int) -> None:
        tries.append(number)
        if len(tries) == 1:
            raise ValueError
        is_done.set()

    pool = Pool(database, Role.APP, size=2)
    async with working(Queue(database, {"fail_first": fail_first})):
        async with pool.system() as connection:
            await defer(connection, "fail_first", {"number": 7}, queue="tests")
        async with asyncio.timeout(30):
            await is_done.wait()
    await pool.close()

    assert tries == [7, 7]
    with psycopg.connect(database) as raw:
        left = raw.execute("SELECT count(*) FROM procrastinate_jobs").fetchone()
    assert left == (0,)


async def test_a_job_that_an_earlier_version_left_and_nobody_knows_is_dropped(database: str) -> None:
    async def left() -> int:
        async with pool.system() as connection:
            row = await (await connection.execute("SELECT count(*) FROM procrastinate_jobs")).fetchone()
        assert row is not None
        return int(row[0])

    known = asyncio.Event()

    async def note() -> None:
        known.set()

    pool = Pool(database, Role.APP, size=2)
    async with pool.system() as connection:
        await defer(connection, "execution.forget", {}, queue="tests")
        await defer(connection, "execution.forget_periodically", {"timestamp": 1}, queue="tests")
        await defer(connection, "note", {}, queue="tests")
    async with working(Queue(database, {"note": note})), asyncio.timeout(30):
        await known.wait()
        for _ in range(200):
            if not await left():
                break
            await asyncio.sleep(0.05)
        assert await left() == 0
    await pool.close()


async def test_a_job_whose_worker_is_gone_is_taken_over(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "STALLED_AFTER_S", 0.5)
    monkeypatch.setattr(queue_module, "STOP_S", 0.1)
    begun = asyncio.Event()
    is_done = asyncio.Event()

    async def never_ends() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def ends() -> None:
        is_done.set()

    pool = Pool(database, Role.APP, size=2)
    async with pool.system() as connection:
        await defer(connection, "work", {}, queue="tests")
    # The first one is not told, and says nothing more: else it would be missed only if the second one were quicker.
    with contextlib.suppress(procrastinate.exceptions.ConnectorException):
        async with working(Queue(database, {"work": never_ends})):
            async with asyncio.timeout(20):
                await begun.wait()
            with psycopg.connect(database, autocommit=True) as raw:
                raw.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
            monkeypatch.setattr(queue_module, "HEARTBEAT_S", 0.2)
            async with working(Queue(database, {"work": ends})), asyncio.timeout(20):
                await is_done.wait()
    await pool.close()
    assert is_done.is_set()


async def test_a_job_that_says_so_is_put_back_as_often_as_it_says_and_holds_no_place_meanwhile(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "CONCURRENCY", queue_module.FETCHERS)
    monkeypatch.setattr(queue_module, "POLL_S", 0.05)
    ran: list[int] = []
    is_done = asyncio.Event()

    async def wait(number: int) -> float | None:
        ran.append(number)
        if ran.count(number) <= 2 * queue_module.RETRIES_MAX:  # more often than errors are forgiven
            return 0.01 if number else 3600.0
        is_done.set()
        return None

    pool = Pool(database, Role.APP, size=2)
    async with working(Queue(database, {"wait": wait})):
        async with pool.system() as connection:
            for number in (0, 0, 1):
                await defer(connection, "wait", {"number": number}, queue="tests")
        async with asyncio.timeout(30):
            await is_done.wait()
    await pool.close()

    with psycopg.connect(database) as raw:
        left = raw.execute("SELECT queue_name, args, attempts FROM procrastinate_jobs WHERE status = 'todo'").fetchall()
    assert left == [("tests", {"number": 0}, 0)] * 2
    assert ran.count(1) == 2 * queue_module.RETRIES_MAX + 1


async def test_no_more_jobs_of_a_kind_run_at_once_than_may_and_others_go_on(database: str) -> None:
    slow, is_done, let = 0, asyncio.Event(), asyncio.Event()
    most = 0
    ended, are_done = 0, asyncio.Event()

    async def be_slow() -> None:
        nonlocal slow, most, ended
        slow += 1
        most = max(most, slow)
        await let.wait()
        slow -= 1
        ended += 1
        if ended == 5:
            are_done.set()

    async def be_quick() -> None:
        is_done.set()

    pool = Pool(database, Role.APP, size=2)
    queue = Queue(database, {"slow": be_slow, "quick": be_quick}, at_once={"slow": 2})
    async with working(queue), asyncio.timeout(30):
        async with pool.system() as connection:
            for _ in range(5):
                await defer(connection, "slow", {}, queue="tests")
            await defer(connection, "quick", {}, queue="tests")
        await is_done.wait()
        assert slow <= 2
        let.set()
        await are_done.wait()
    await pool.close()
    assert most == 2


async def test_a_periodic_job_runs_by_itself(database: str) -> None:
    is_done = asyncio.Event()

    async def note() -> None:
        is_done.set()

    async with working(Queue(database, {"note": note}, periodic={"note": "* * * * * *"})), asyncio.timeout(30):
        await is_done.wait()


async def test_a_queue_waits_for_a_database_that_is_away() -> None:
    queue = Queue("host=127.0.0.1 port=9 dbname=none connect_timeout=1", {})
    running = asyncio.ensure_future(queue.run())

    done, _ = await asyncio.wait((running,), timeout=2.5)

    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert not done
