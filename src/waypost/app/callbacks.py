"""Callbacks of providers, put together from the settings: addresses, secrets, and public keys fetched when needed."""

from __future__ import annotations

import os
from collections.abc import Callable

from waypost.app.secrets import CredentialReader, Secrets
from waypost.control.callbacks import Callbacks, KeySets
from waypost.executions.callback_address import CallbackAddresses
from waypost.kit.clock import Clock
from waypost.policy.snapshot import View
from waypost.storage.pool import Pool
from waypost.telemetry.metrics import Page
from waypost.upstream.guarded_session import Bounds, CallFailed, GuardedSession

_BOUNDS = Bounds(connect_s=5.0, idle_s=10.0, total_s=10.0, answer_bytes=64 * 1024)


def make_addresses(secrets: Secrets, public_url: Callable[[], str | None]) -> CallbackAddresses:
    return CallbackAddresses(secrets.signing_key, public_url)


def make_callbacks(
    addresses: CallbackAddresses,
    session: GuardedSession,
    pool: Pool,
    view: Callable[[], View],
    *,
    clock: Clock,
    page: Page | None = None,
) -> Callbacks:
    """`pool` is the app's; `session` is called for public keys."""

    async def fetch(url: str) -> bytes:
        try:
            answer = await session.send("GET", url, bounds=_BOUNDS)
        except CallFailed:
            raise OSError from None
        if answer.status != 200:
            raise OSError
        return answer.body

    return Callbacks(
        pool=pool,
        view=view,
        addresses=addresses,
        read_secret=CredentialReader(os.environ),
        key_sets=KeySets(fetch, clock),
        clock=clock,
        page=page,
    )
