"""One attempt of a webhook: a POST to its receiver, of whose answer only the status counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from waypost.upstream.guarded_session import Bounds, CallFailed, GuardedSession, Incoming
from waypost.webhooks.schedule import Attempt

ANSWER_BYTES_MAX = 4096  # read so that a receiver may finish writing, and looked at by nobody
ANSWER_S = 2.0  # for it, after the status is there
BOUNDS = Bounds(connect_s=5.0, idle_s=30.0, total_s=30.0, answer_bytes=ANSWER_BYTES_MAX)


async def send(session: GuardedSession, url: str, headers: Mapping[str, str], body: bytes, bounds: Bounds) -> Attempt:
    """How it went. Never raises for what a receiver does."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with session.open("POST", url, bounds=bounds, headers=headers, body=body) as incoming:
            took_s = loop.time() - began
            await _let_finish(incoming)
    except CallFailed as failed:
        return Attempt(failure=failed.failure.value, took_s=loop.time() - began)
    return Attempt(status=incoming.status, retry_after=incoming.headers.get("retry-after"), took_s=took_s)


async def _let_finish(incoming: Incoming) -> None:
    with contextlib.suppress(CallFailed, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            async for _ in incoming.parts():
                pass
