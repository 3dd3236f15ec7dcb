"""Requests that are no calls of models and count against the limits of their key all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from waypost.gateway.allowance import Allowances
from waypost.gateway.limits import LimitExceeded
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.telemetry.events import report_bug
from waypost.tenancy.api_key import ApiKey
from waypost.transport.exchange import Exchange

Refuse = Callable[[Exchange, Refusal, bytes, bytes], None]


class Counted:
    """Of one gateway. `refuse` answers an exchange that is not let through, `later` runs what has to wait."""

    def __init__(
        self,
        allowances: Allowances,
        clock: Clock,
        refuse: Refuse,
        later: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._allowances = allowances
        self._clock = clock
        self._refuse = refuse
        self._later = later
        self._loop = asyncio.get_running_loop()

    def answer(
        self,
        exchange: Exchange,
        request_id: bytes,
        api_key: ApiKey,
        answer: Callable[[bytes], None],
        *,
        tokens: int = 0,
    ) -> None:
        """Count it and so many tokens, and `answer` with the header lines that tell of the limits. Raises Refusal, or
        refuses later."""
        now_s, at_s = self._loop.time(), self._clock.unix_ns() / 1e9
        allowance = self._allowances.of(api_key, now_s)

        async def answer_later() -> None:
            try:
                taking = self._allowances.take_together(allowance, now_s=now_s, now_unix_s=at_s, tokens=tokens)
                answer((await taking)[0])
            except LimitExceeded as refusal:
                self._refuse(exchange, refusal, request_id, refusal.headers)
            except Refusal as refusal:
                self._refuse(exchange, refusal, request_id, b"")
            except Exception as bug:  # noqa: BLE001  the edge of a task: nobody above would answer the caller
                report_bug(bug)
                self._refuse(exchange, Refusal(ErrorCode.INTERNAL_ERROR), request_id, b"")

        if allowance.is_asked_of_server:
            self._later(answer_later())
        else:
            answer(allowance.take(now_s=now_s, now_unix_s=at_s, tokens=tokens))

    def look(self, api_key: ApiKey) -> bytes:
        """The header lines for a request that counts as nothing, as far as this process knows."""
        now_s, at_s = self._loop.time(), self._clock.unix_ns() / 1e9
        return self._allowances.of(api_key, now_s).take(now_s=now_s, now_unix_s=at_s, tokens=0, requests=0)
