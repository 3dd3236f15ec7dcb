"""The work of a control process, put together: the jobs of its queue, and what runs beside them.

Whoever has work to be done adds a handler to `handlers`, to `periodic` when it runs by itself, or to `beside` what runs
as long as the process.
"""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  an edge: it spreads retries
from collections.abc import Callable, Coroutine
from typing import Any

from waypost.app.background import Background
from waypost.app.provider_jobs import make_provider_jobs
from waypost.app.settings import Settings
from waypost.control.file_fetch import Outputs
from waypost.control.services import Services
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.asynchronous_executions import START
from waypost.storage.files import ERASE_OBJECTS, SWEEP_FILES
from waypost.storage.job_queue import QueueState, queue_state
from waypost.storage.provider_callbacks import FORGET
from waypost.telemetry.metrics import Page
from waypost.upstream.guarded_session import GuardedSession
from waypost.worker.execution_files import ExecutionFiles
from waypost.worker.executions import ExecutionWork
from waypost.worker.gateways import Gateways
from waypost.worker.job_steps import REHOST
from waypost.worker.kept_outputs import KeptOutputs
from waypost.worker.queue import Handler, Queue

_REHOSTS_MAX = 48  # at one time: a host of outputs may take half an hour for each
_LOOK_S = 5.0  # at the queue, for its metrics


class Work:
    """Of one process, made inside its running loop."""

    def __init__(
        self, settings: Settings, conninfo: str, services: Services, session: GuardedSession, page: Page
    ) -> None:
        """`session` calls what strangers have named."""
        self._conninfo = conninfo
        self._pool = services.pool
        self._state = QueueState()
        self.gateways = Gateways(settings.data_dir / "run")
        self.outputs = Outputs(services.files, session, services.ids, page)
        dice = random.Random().random  # noqa: S311  no secret
        ended = page.counter(
            "waypost_executions_ended", "Asynchronous executions that have ended", ("model", "outcome", "code")
        )
        self.jobs = make_provider_jobs(
            services,
            services.callbacks.addresses,
            self.gateways.errand,
            KeptOutputs(self.outputs),
            dice=dice,
            ended=ended,
        )
        self.executions = ExecutionWork(
            executions=services.executions,
            news=services.news,
            vault=services.vault,
            view=services.view,
            calls=self.gateways,
            files=ExecutionFiles(services.files, self.outputs),
            jobs=self.jobs,
            clock=services.clock,
            dice=dice,
            ended=ended,
            started_after=page.histogram(
                "waypost_execution_start_seconds", "From acceptance to the first step of the work"
            ),
        )
        self.handlers: dict[str, Handler] = {
            START: self.executions.start,
            SWEEP_FILES: services.files.sweep,
            ERASE_OBJECTS: services.files.erase_due,
            FORGET: services.callbacks.forget,
            **self.jobs.handlers(),
        }
        # At minutes that are nobody else's: hourly, and in the night.
        self.periodic = {SWEEP_FILES: "17 * * * *", FORGET: "43 3 * * *"}
        self.beside: list[Callable[[], Coroutine[Any, Any, None]]] = [self.executions.sweep, self._look]
        page.gauge("waypost_jobs_waiting", "Jobs whose moment has come", lambda: self._state.waiting)
        page.gauge("waypost_jobs_running", "Jobs that are being worked off", lambda: self._state.running)
        page.gauge("waypost_jobs_oldest_seconds", "How long the first of them waits", lambda: self._state.oldest_s)
        page.labelled_gauge(
            "waypost_executions_open",
            "Asynchronous executions that have not ended",
            ("state",),
            lambda: {(state.lower(),): count for state, count in self._state.open_executions.items()},
        )

    def start(self, background: Background) -> None:
        """Begin with all of it."""
        queue = Queue(self._conninfo, self.handlers, periodic=self.periodic, at_once={REHOST: _REHOSTS_MAX})
        background.start(queue.run())
        for work in self.beside:
            background.start(work())

    def leave(self) -> None:
        """Before its tasks end, which jobs under way get some time for."""
        self.executions.leave()

    async def close(self) -> None:
        """After its tasks have ended."""
        await self.gateways.close()

    async def _look(self) -> None:
        while True:
            try:
                self._state = await queue_state(self._pool)
            except LedgerUnavailable:
                self._state = QueueState()
            await asyncio.sleep(_LOOK_S)
