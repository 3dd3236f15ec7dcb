"""Runs jobs from the database's queue (procrastinate): several at a time, soon after their transaction has ended, and
again after the process that had begun them is gone. A job that cannot do its work yet is put back for later, so that
it takes no place while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import procrastinate

from waypost.storage.roles import Role
from waypost.telemetry.events import report_bug
from waypost.worker.shares import Turns

CONCURRENCY = 256  # jobs at a time; they wait for others far more than they compute
FETCHERS = 2  # each takes one job after the other from the database: one alone falls behind what is accepted
POLL_S = 1.0  # when an announcement was lost
STALLED_AFTER_S = 15.0  # a worker that was not heard of for so long is gone, and its jobs are anybody's
HEARTBEAT_S = 5.0
RETRIES_MAX = 10  # of a job that ends in an error of ours; each a little later than the one before
_POOL = FETCHERS + 4  # connections of the queue itself: each fetcher listens at one
STOP_S = 10.0  # for running jobs, at the end

Handler = Callable[..., Awaitable[float | None]]
"""Called with the job's arguments. An error makes it run again, later and not for ever. Seconds put the job back: it
runs again when they are over, as often as it says so."""


class Queue:
    """`run` works off the jobs of every handler given, by name. `periodic` says of some when they run by themselves,
    each without arguments and in one process only: as cron does, in UTC. `at_once` says of some how many may run at
    one time; what is beyond is put back."""

    def __init__(
        self,
        conninfo: str,
        handlers: Mapping[str, Handler],
        *,
        periodic: Mapping[str, str] | None = None,
        at_once: Mapping[str, int] | None = None,
    ) -> None:
        connector = procrastinate.PsycopgConnector(
            conninfo=conninfo, min_size=1, max_size=_POOL, kwargs={"options": f"-c role={Role.APP.value}"}
        )
        self._app = procrastinate.App(connector=connector)
        for name, handler in handlers.items():
            retry = procrastinate.RetryStrategy(max_attempts=RETRIES_MAX, exponential_wait=2)
            most = (at_once or {}).get(name, CONCURRENCY)
            self._app.task(name=name, retry=retry, pass_context=True)(
                self._put_back(_bounded(_reported(handler), most))
            )
        for name, cron in (periodic or {}).items():
            # A name of its own: the queue tells each the moment that it was due at, which handlers have no use for.
            task = self._app.task(name=f"{name}_periodically", retry=False)(_untimed(_reported(handlers[name])))
            self._app.periodic(cron=cron)(task)

    def _put_back(self, handler: Handler) -> Callable[..., Awaitable[None]]:
        async def run(context: procrastinate.JobContext, **arguments: object) -> None:
            again_s = await handler(**arguments)
            if again_s is None:
                return
            # A job of its own: the tries of this one count its errors, which waiting is not.
            job = context.job
            wait = {"seconds": again_s}
            later = self._app.configure_task(job.task_name, queue=job.queue, lock=job.lock, schedule_in=wait)
            await later.defer_async(**job.task_kwargs)

        return run

    async def run(self) -> None:
        """Until cancelled; running jobs get some time to end. While the database is away, jobs wait."""
        task = asyncio.current_task()
        assert task is not None
        # The queue takes being cancelled as a reason to end, and may end in an error then.
        while True:
            with contextlib.suppress(procrastinate.exceptions.ConnectorException):
                await self._work()
            if task.cancelling():
                return
            await asyncio.sleep(POLL_S)

    async def _work(self) -> None:
        async with self._app.open_async():
            rescuing = asyncio.ensure_future(self._rescue())
            try:
                async with asyncio.TaskGroup() as fetchers:
                    for _ in range(FETCHERS):
                        fetchers.create_task(self._fetch())
            except* procrastinate.exceptions.ConnectorException:
                pass  # the database is away
            finally:
                rescuing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await rescuing

    async def _fetch(self) -> None:
        await self._app.run_worker_async(
            concurrency=CONCURRENCY // FETCHERS,
            fetch_job_polling_interval=POLL_S,
            update_heartbeat_interval=HEARTBEAT_S,
            stalled_worker_timeout=STALLED_AFTER_S,
            shutdown_graceful_timeout=STOP_S,
            delete_jobs="always",
            install_signal_handlers=False,
        )

    async def _rescue(self) -> None:
        """Give the jobs of workers that are gone to whoever is there."""
        manager = self._app.job_manager
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                stalled = await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER_S)
                for job in stalled:
                    await manager.retry_job(job)
            except procrastinate.exceptions.ConnectorException:
                continue  # the database is away; the worker waits for it too


def _bounded(handler: Handler, most: int) -> Handler:
    running, turns = 0, Turns()

    async def run(**arguments: object) -> float | None:
        nonlocal running
        if running >= most:
            return turns.again_s(asyncio.get_running_loop().time())
        running += 1
        try:
            return await handler(**arguments)
        finally:
            running -= 1

    return run


def _reported(handler: Handler) -> Handler:
    async def run(**arguments: object) -> float | None:
        try:
            return await handler(**arguments)
        except Exception as error:
            report_bug(error)
            raise

    return run


def _untimed(handler: Handler) -> Callable[..., Awaitable[None]]:
    async def run(timestamp: int) -> None:  # noqa: ARG001  named by the queue
        await handler()

    return run
