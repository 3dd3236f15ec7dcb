"""A defect of ours, at whatever point, still ends an attempt in the books and its caller's wait."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.test_heartbeat import relaying
from waypost.dispatch.fleet import LiveRoute
from waypost.ledger.record import Outcome
from waypost.providers.openai import OpenAIChat
from waypost.simulator import Simulator


class Broken(OpenAIChat):
    """A provider kind with a defect in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    def call(self, *args: Any, **options: Any) -> tuple[bytes, bytes]:
        if self._method == "call":
            raise RuntimeError
        return super().call(*args, **options)

    def stream(self, **options: Any) -> Any:
        if self._method == "stream":
            raise RuntimeError
        return super().stream(**options)


@pytest.mark.parametrize("method", ["call", "stream"])
async def test_a_defect_in_reading_or_writing_is_booked_and_answered(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        original = LiveRoute.__init__

        def broken(self: LiveRoute, route: Any, kind: Any, *rest: Any) -> None:
            original(self, route, Broken(method), *rest)

        monkeypatch.setattr(LiveRoute, "__init__", broken)
        gateway.fleet.adopt(gateway.view)
        answer = await gateway.ask()
        assert answer.status >= 500
        assert gateway.dispatcher.running == 0
        assert len(gateway.open_streams) == 0
        closes = [attempt.close for attempt in gateway.books.closed_attempts]
        assert [close.outcome for close in closes] == [Outcome.FAILED] * len(closes)
        assert [close.is_final for close in closes] == [False] * (len(closes) - 1) + [True]
