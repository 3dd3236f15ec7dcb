"""A defect of ours, at whatever point, still ends an attempt in the books and its caller's wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.stack import ask, connect, deployment, model
from tests.e2e.test_heartbeat import relaying
from waypost.dispatch.fleet import LiveRoute
from waypost.ledger.record import Outcome
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
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


async def test_a_caller_who_leaves_while_the_provider_is_refusing_pays_nothing() -> None:
    has_refused = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        has_refused.set()
        await reader.read()
        writer.close()

    provider = await asyncio.start_server(refuse, "127.0.0.1")
    port = provider.sockets[0].getsockname()[1]
    async with Simulator() as sim, relaying(sim) as gateway:
        document: dict[str, Any] = {
            "providers": [
                {
                    "id": "slow",
                    "kind": "openai",
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "api_keys": ["env:KEY"],
                    "cancel_stops_billing": "yes",
                }
            ],
            "models": [model("swift-1", deployment("slow"))],
        }
        gateway.view = build_view(read_catalogue(document), 2)
        gateway.fleet.adopt(gateway.view)
        _, writer = await connect(gateway.server.port, "POST", "/v1/chat/completions", ask("Hi", stream=True))
        await has_refused.wait()
        await asyncio.sleep(0.05)  # until the head of the refusal has been read; no event tells
        writer.transport.abort()
        async with asyncio.timeout(5):
            while not gateway.books.closed_attempts:  # noqa: ASYNC110  the transport tells the books, not us
                await asyncio.sleep(0.01)
        (attempt,) = gateway.books.closed_attempts
        assert attempt.close.outcome is Outcome.DISCONNECTED
        assert (attempt.close.charge_nanos, attempt.close.cogs_nanos) == (0, 0)
    provider.close()
    await provider.wait_closed()
