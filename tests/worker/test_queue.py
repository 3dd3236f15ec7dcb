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


async def test_a_job_whose_worker_is_gone_is_taken_over(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "STALLED_AFTER_S", 0.5)
    monkeypatch.setattr(queue_module, "HEARTBEAT_S", 0.2)
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
    # The first one is not told: when it wakes up and finds itself struck off, it ends.
    with contextlib.suppress(procrastinate.exceptions.ConnectorException):
        async with working(Queue(database, {"work": never_ends})):
            async with asyncio.timeout(20):
                await begun.wait()
            with psycopg.connect(database, autocommit=True) as raw:
                raw.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
            async with working(Queue(database, {"work": ends})), asyncio.timeout(20):
                await is_done.wait()
    await pool.close()
    assert is_done.is_set()


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
