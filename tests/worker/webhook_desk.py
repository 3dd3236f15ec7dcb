"""An organisation with endpoints, executions that change, and a worker that tells of it."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.storage.asynchronous import ended, received
from tests.storage.asynchronous import running as run
from tests.storage.books import IDS, Books, open_books
from tests.worker.receivers import until
from waypost.executions.lifecycle import State
from waypost.kit.clock import SystemClock
from waypost.kit.values import replace
from waypost.storage.announcements import Announcements
from waypost.storage.asynchronous_executions import Ending, Executions
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.webhook_endpoints import Change, Endpoint, create_endpoint, find_endpoint
from waypost.storage.webhook_history import Delivery, Wanted, list_deliveries
from waypost.storage.webhooks import CHANNEL, Announcer
from waypost.telemetry.metrics import Page
from waypost.transport.tls import client_context
from waypost.upstream.guard import Allowed
from waypost.upstream.guarded_session import Bounds, GuardedSession
from waypost.webhooks.schedule import Schedule
from waypost.webhooks.sealed import Sealed
from waypost.webhooks.signature import secret_text
from waypost.wire.canonical import Usage
from waypost.worker.webhooks import WebhookSettings, WebhookWorker

QUICK = WebhookSettings(
    schedule=Schedule(retry_s=(0.05, 0.1, 0.2, 0.4, 0.8), expires_s=60),
    bounds=Bounds(connect_s=2, idle_s=2, total_s=2, answer_bytes=4096),
)


class Desk:
    def __init__(self, books: Books, settling: Pool, database: str) -> None:
        self.books = books
        self.database = database
        self.executions = Executions(settling, IDS, Announcer(IDS, Sealed(b"k" * 32)))
        self.sealed = Sealed(b"k" * 32)
        self.secrets: dict[bytes, str] = {}
        self.org_id = b""
        self.page = Page()
        self._sessions: list[GuardedSession] = []
        self._pools: list[Pool] = []

    def worker(self, settings: WebhookSettings = QUICK, *, allow: Sequence[str] = ("127.0.0.1",)) -> WebhookWorker:
        session = GuardedSession(Allowed.of(allow), client_context())
        pool = Pool(self.database, Role.APP, size=3)
        self._sessions.append(session)
        self._pools.append(pool)
        self.page = Page()
        return WebhookWorker(
            pool,
            Announcements(self.database, Role.APP, CHANNEL),
            session,
            self.sealed,
            clock=SystemClock(),
            ids=IDS,
            chance=random.Random(7).random,
            page=self.page,
            settings=settings,
        )

    async def endpoint(self, url: str, *events: str, headers: dict[str, str] | None = None) -> Endpoint:
        endpoint_id, secret = IDS.new(), secret_text(os.urandom(32))
        self.secrets[endpoint_id] = secret
        wanted = Change(
            url=self.sealed.seal_url(endpoint_id, url),
            events=events,
            headers=self.sealed.seal_headers(endpoint_id, headers or {}),
            header_names=list(headers or {}),
        )
        return await create_endpoint(
            self.books.app,
            self.org_id,
            endpoint_id,
            wanted,
            secret=self.sealed.seal_secret(endpoint_id, secret),
            endpoints_max=1000,
        )

    async def found(self, endpoint: Endpoint) -> Endpoint:
        found = await find_endpoint(self.books.app, self.org_id, endpoint.id)
        assert found is not None
        return found

    async def started(self, webhook_url: str | None = None) -> AsynchronousExecution:
        """Announces `execution.started`."""
        sealed = None if webhook_url is None else self.sealed.seal_url(self.org_id, webhook_url)
        made, _ = await self.executions.create(received(self.org_id, webhook_url=sealed, hold_nanos=1_000))
        after = await self.executions.step(made, run(made))
        assert after is not None
        return after

    async def completed(self, before: AsynchronousExecution) -> None:
        """Announces `execution.completed`."""
        after = replace(ended(before, State.SUCCEEDED))
        ending = Ending(charge_nanos=1_000, usage=Usage(input_tokens=3, output_tokens=4))
        assert await self.executions.step(before, after, ending=ending) is not None

    async def deliveries(self, state: str | None = None) -> list[Delivery]:
        wanted = Wanted(state=state)
        return await list_deliveries(self.books.app, self.org_id, wanted, limit=100_000, before=None)

    async def settled(self, *, within_s: float = 60.0) -> list[Delivery]:
        """All deliveries, when none is pending any more."""

        async def is_settled() -> bool:
            return not await self.deliveries("PENDING")

        try:
            await until(is_settled, within_s=within_s)
        except TimeoutError:
            raise AssertionError(f"still pending: {await self.deliveries('PENDING')}") from None
        return await self.deliveries()

    async def tried(self) -> list[Delivery]:
        """All deliveries, when there was an attempt of each."""

        async def are_tried() -> bool:
            return all(each.attempts for each in await self.deliveries())

        await until(are_tried)
        return await self.deliveries()

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()
        for pool in self._pools:
            await pool.close()


@asynccontextmanager
async def desk(database: str, *, is_sender: bool = False) -> AsyncIterator[Desk]:
    """With an organisation, unless it is for sending alone."""
    async with open_books(database) as books:
        settling = Pool(database, Role.SETTLE, size=4)
        found = Desk(books, settling, database)
        if not is_sender:
            found.org_id = await books.org(credit_nanos=1_000_000_000)
        try:
            yield found
        finally:
            await found.close()
            await settling.close()
