"""Webhooks of a control process, put together from the settings, and again from those of the file when it changes."""

from __future__ import annotations

import random  # noqa: TID251  jitter; no secret hangs on it

from waypost.app.front import make_egress
from waypost.app.live_settings import EgressSettings, LiveSettings
from waypost.app.secrets import Secrets
from waypost.control.services import WebhookServices
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.storage.announcements import Announcements
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.storage.webhook_urls import seal_plain_urls
from waypost.storage.webhooks import CHANNEL, Announcer
from waypost.telemetry.metrics import Page
from waypost.transport.tls import client_context
from waypost.upstream.guard import Allowed
from waypost.upstream.guarded_session import GuardedSession
from waypost.webhooks.schedule import Attempt, Schedule
from waypost.webhooks.sealed import Sealed
from waypost.worker.webhooks import TooManyTests, WebhookSettings, WebhookWorker

_CONNECTIONS = 3  # rounds, renewals and sweeps
_TESTS_AGAIN_S = 5


class Webhooks:
    """`announcer` tells of steps, `session` calls URLs of strangers, `services` are the control plane's part."""

    def __init__(
        self, live: LiveSettings, conninfo: str, secrets: Secrets, *, clock: Clock, ids: Ids, page: Page
    ) -> None:
        """Raises SettingUnusable when the authorities cannot be read."""
        self._live = live
        self._pool = Pool(conninfo, Role.APP, size=_CONNECTIONS)
        sealed = Sealed(secrets.envelope_key)
        self.announcer = Announcer(ids, sealed, expires_s=live.webhooks.expires_s)
        self.session = make_session(live.egress)
        self.worker = WebhookWorker(
            self._pool,
            Announcements(conninfo, Role.APP, CHANNEL),
            self.session,
            sealed,
            clock=clock,
            ids=ids,
            chance=random.random,
            page=page,
            settings=_settings(live),
        )
        self.services = WebhookServices(
            sealed=sealed,
            allowed=lambda: self.session.allowed,
            endpoints_max=lambda: self._live.webhooks.endpoints_max,
            expires_s=lambda: self._live.webhooks.expires_s,
            test=self._test,
        )

    def adopt(self, live: LiveSettings) -> None:
        """Other settings from now on. Raises SettingUnusable: then nothing has changed."""
        self.session.use(Allowed.of(live.egress.allow), make_egress(live.egress).ssl_context or client_context())
        self.announcer.expires_s = live.webhooks.expires_s
        self.worker.settings = _settings(live)
        self._live = live

    async def seal_plain_urls(self, books: Pool) -> None:
        """Those of rows that were written before URLs were sealed. Raises LedgerUnavailable."""
        await seal_plain_urls(self._pool, books, self.services.sealed.seal_url)

    async def close(self) -> None:
        """When the worker has ended."""
        await self.session.close()
        await self._pool.close()

    async def _test(self, org_id: bytes, endpoint_id: bytes) -> tuple[bytes, Attempt]:
        try:
            return await self.worker.test(org_id, endpoint_id)
        except TooManyTests:
            raise Refusal(ErrorCode.RATE_LIMITED, retry_after_s=_TESTS_AGAIN_S) from None


def make_session(egress: EgressSettings) -> GuardedSession:
    """Raises SettingUnusable when the authorities cannot be read."""
    return GuardedSession(Allowed.of(egress.allow), make_egress(egress).ssl_context or client_context())


def _settings(live: LiveSettings) -> WebhookSettings:
    schedule = Schedule(retry_s=live.webhooks.retry_s, expires_s=live.webhooks.expires_s)
    return WebhookSettings(schedule=schedule, kept_days=live.webhooks.kept_days)
