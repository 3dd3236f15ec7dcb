"""`waypost control`, put together from the settings: under a supervisor, or alone in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from waypost.app.background import Background
from waypost.app.callbacks import make_addresses, make_callbacks
from waypost.app.database import embedded_postgres
from waypost.app.file_wiring import build_files
from waypost.app.live_settings import LiveSettings
from waypost.app.reload import Reloading
from waypost.app.secrets import PepperReader, open_secrets
from waypost.app.settings import Settings
from waypost.app.vault import open_vault, refuse_unfit
from waypost.app.webhooks import Webhooks
from waypost.app.worker import Work
from waypost.control.application import build
from waypost.control.services import Services
from waypost.gateway.following import Following
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.snapshot import View
from waypost.storage.asynchronous_executions import Executions
from waypost.storage.directory import PostgresDirectory
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.supervisor.hardening import keep_memory_private, open_many_files
from waypost.supervisor.inheritance import die_with_supervisor
from waypost.telemetry.events import ProcessStarted, emit, quieten_third_parties, report_bug
from waypost.telemetry.metrics import Page
from waypost.tenancy.keyring import Keyring

NAME = "control"
_RETRY_S = 0.5  # between tries to reach the database at start
_CONNECTIONS = 4
_BOOKS_CONNECTIONS = 8


class _Nobody:
    """Calls no provider, so nothing has to be made live."""

    def adopt(self, view: View) -> None:
        pass

    def has_changed_credentials(self) -> bool:
        return False


def serve_control(settings: Settings, socket_path: Path) -> int:
    """Serve on a Unix socket until told to stop; the exit code."""
    keep_memory_private()
    open_many_files()
    quieten_third_parties()
    die_with_supervisor(os.environ)
    conninfo = settings.database_url or embedded_postgres(settings).conninfo()
    refuse_unfit(settings)
    process = ControlProcess(settings, conninfo)
    os.umask(0o177)  # whoever can write to the socket is believed about who the caller is
    _reserve(socket_path)
    config = uvicorn.Config(
        process.application,
        uds=str(socket_path),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,  # the gateway writes them
        proxy_headers=False,  # the gateway says who the caller is, and we read it ourselves
        timeout_graceful_shutdown=int(settings.live.drain_s),
    )
    uvicorn.Server(config).run()
    return 1 if process.has_failed else 0


def _reserve(socket_path: Path) -> None:
    """A socket that nobody listens at, in the place of that of a process that was killed: the server gives its own the
    permissions of the one that it finds, and lets everybody write to it where it finds none."""
    socket_path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as reserved:
        reserved.bind(str(socket_path))


class ControlProcess:
    """One control process: what it follows in the background, and the application in front of it."""

    def __init__(self, settings: Settings, conninfo: str) -> None:
        self.has_failed = False
        self._settings = settings
        self._conninfo = conninfo
        self._clock = SystemClock()
        self._page = Page()
        self._is_ready = False
        peppers = PepperReader(settings.secrets_dir)
        secrets = open_secrets(settings.secrets_dir)
        self._keyring = Keyring(secrets.peppers)
        self._directory = PostgresDirectory(conninfo)
        self._following = Following(self._directory, self._keyring, _Nobody(), self._clock, peppers)
        self._pool = Pool(conninfo, Role.APP, size=_CONNECTIONS)
        self._books = Pool(conninfo, Role.SETTLE, size=_BOOKS_CONNECTIONS)
        self._news = ExecutionNews(conninfo)
        self._vault = open_vault(settings)
        ids = Ids()
        self._live = settings.live
        files = build_files(
            settings,
            secrets,
            self._pool,
            clock=self._clock,
            ids=ids,
            page=self._page,
            public_url=lambda: self._live.public_url,
        )
        self._webhooks = Webhooks(settings.live, conninfo, secrets, clock=self._clock, ids=ids, page=self._page)
        addresses = make_addresses(secrets, lambda: self._live.public_url)
        callbacks = make_callbacks(
            addresses,
            self._webhooks.session,
            self._pool,
            lambda: self._following.view,
            clock=self._clock,
            page=self._page,
        )
        self._reloading = Reloading(settings, self._adopt, process=NAME, tells_why=False)
        self._services = Services(
            pool=self._pool,
            executions=Executions(self._books, ids, self._webhooks.announcer),
            news=self._news,
            vault=self._vault,
            keyring=self._keyring,
            ids_key=secrets.ids_key,
            view=lambda: self._following.view,
            clock=self._clock,
            ids=ids,
            api_keys_max=settings.live.api_keys_max,
            is_ready=lambda: self._is_ready,
            metrics=self._page.render,
            files=files,
            callbacks=callbacks,
            webhooks=self._webhooks.services,
        )
        self.application = build(self._services, self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        background = Background(self._fail)
        background.start(self._news.run())
        background.start(self._reloading.run())
        work = Work(self._settings, self._conninfo, self._services, self._webhooks.session, self._page)
        background.start(self._catch_up(background, work), may_end=True)
        try:
            yield
        finally:
            work.leave()
            await background.end()
            await self._webhooks.close()
            await work.close()
            await self._directory.close_connections()
            await self._pool.close()
            await self._books.close()
            await self._vault.close()

    async def _catch_up(self, background: Background, work: Work) -> None:
        while True:
            with contextlib.suppress(LedgerUnavailable):
                await self._following.catch_up()
                break
            await asyncio.sleep(_RETRY_S)
        background.start(self._following.run())
        background.start(self._webhooks.worker.run())
        work.start(background)
        background.start(self._seal_plain_urls(), may_end=True)
        self._is_ready = True
        emit(ProcessStarted(process=NAME, pid=os.getpid(), port=0))

    async def _seal_plain_urls(self) -> None:
        """Beside everything else, which reads both forms: there may be many."""
        while True:
            try:
                await self._webhooks.seal_plain_urls(self._books)
            except LedgerUnavailable:
                await asyncio.sleep(_RETRY_S)
            except Exception as bug:  # noqa: BLE001  the edge of a task: what is served does not depend on it
                report_bug(bug)
                return
            else:
                return

    def _adopt(self, live: LiveSettings) -> None:
        """What can change of the settings while we serve. Raises SettingUnusable: then nothing has changed."""
        self._webhooks.adopt(live)
        self._services.api_keys_max = live.api_keys_max
        self._live = live

    def _fail(self) -> None:
        """A task has died that keys are followed by: end, and let the next start sort it out."""
        self.has_failed = True
        self._is_ready = False
        signal.raise_signal(signal.SIGTERM)
