"""A defect of ours, at whatever point, still ends an attempt in the books and its caller's wait."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from tests.e2e.stack import ask, connect, deployment, model, provider
from tests.e2e.test_heartbeat import KeptBooks, Relaying, relaying
from waypost.dispatch.attempt import Attempt
from waypost.dispatch.counting import Counting
from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.streams import Streams
from waypost.ledger.record import ClosedAttempt, Open, Outcome, Progress
from waypost.metering.tokens import TokenCounter
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
from waypost.providers.anthropic import Anthropic
from waypost.providers.openai import OpenAIChat
from waypost.simulator import Simulator


class Broken:
    """A provider kind with a defect in one of its methods."""

    def __init__(self, method: str) -> None:
        self._kind = OpenAIChat()
        self._method = method

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def call(self, *args: Any, **options: Any) -> tuple[bytes, bytes]:
        if self._method == "call":
            raise RuntimeError
        return self._kind.call(*args, **options)

    def stream(self, **options: Any) -> Any:
        if self._method == "stream":
            raise RuntimeError
        reader = self._kind.stream(**options)
        return NoUsage(reader) if self._method == "usage" else reader


class NoUsage:
    """A stream's reader with a defect where it is asked what the provider counted."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    @property
    def usage(self) -> None:
        raise RuntimeError


def break_kinds(gateway: Relaying, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every provider of the gateway has the defect."""
    original = LiveRoute.__init__

    def broken(self: LiveRoute, route: Any, kind: Any, *rest: Any) -> None:
        original(self, route, Broken(method), *rest)

    monkeypatch.setattr(LiveRoute, "__init__", broken)
    gateway.fleet.adopt(gateway.view)


async def hang_up_in_the_middle(sim: Simulator, gateway: Relaying, body: dict[str, Any] | bytes) -> ClosedAttempt:
    """The one attempt of a caller who left after the first piece of a stream."""
    sim.arm("silence", phase="mid", count=0)
    reader, writer = await connect(gateway.server.port, "POST", "/v1/chat/completions", body)
    async with asyncio.timeout(20):
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        while not gateway.books.closed_attempts:  # noqa: ASYNC110  the transport tells the books, not us
            await asyncio.sleep(0.01)
    (attempt,) = gateway.books.closed_attempts
    return attempt


@pytest.mark.parametrize("method", ["call", "stream"])
async def test_a_defect_in_reading_or_writing_is_booked_and_answered(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        break_kinds(gateway, method, monkeypatch)
        answer = await gateway.ask()
        # A stream has begun where the provider's head came on its own.
        assert answer.status >= 500 or (answer.status == 200 and method == "stream")
        assert b'"error"' in answer.body
        assert gateway.dispatcher.running == 0
        assert len(gateway.open_streams) == 0
        closes = [attempt.close for attempt in gateway.books.closed_attempts]
        assert [close.outcome for close in closes] == [Outcome.FAILED] * len(closes)
        assert [close.is_final for close in closes] == [False] * (len(closes) - 1) + [True]


async def test_a_defect_in_making_the_bill_of_a_whole_stream_is_booked_at_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        break_kinds(gateway, "usage", monkeypatch)
        await gateway.ask()
        assert gateway.dispatcher.running == 0
        (attempt,) = gateway.books.closed_attempts
        assert attempt.close.outcome is Outcome.FAILED
        assert attempt.close.is_final
        assert attempt.close.usage.is_estimated
        assert attempt.close.charge_nanos > 0


async def test_a_defect_in_making_the_bill_of_a_caller_who_left_is_booked_at_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        break_kinds(gateway, "usage", monkeypatch)
        attempt = await hang_up_in_the_middle(sim, gateway, ask("Hi", stream=True))
        assert attempt.close.is_final
        assert attempt.close.charge_nanos > 0
        assert gateway.dispatcher.running == 0


async def test_a_defect_in_going_on_for_nobody_keeps_no_caller_from_hearing_that_his_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Attempt, "abandon", fail)
    async with Simulator() as sim, relaying(sim) as gateway:
        sim.arm("silence", phase="mid", count=0)
        ends_at_s = asyncio.get_running_loop().time() + 0.3
        monkeypatch.setattr(gateway, "plan", partial(gateway.plan, ends_at_s=ends_at_s))
        answer = await gateway.ask()
        assert b"GENERATION_TIMEOUT" in answer.body
        async with asyncio.timeout(20):
            while gateway.dispatcher.running:  # noqa: ASYNC110  its end tells the books, not us
                await asyncio.sleep(0.01)
        (attempt,) = gateway.books.closed_attempts
        assert attempt.close.is_final


@pytest.mark.parametrize("around", [("", ',"metadata":{"a":1e999}'), (',"a":1e999', "")])
async def test_a_caller_who_sends_what_cannot_be_read_and_leaves_is_charged(around: tuple[str, str]) -> None:
    body = b'{"model":"swift-1","stream":true,"messages":[{"role":"user","content":"Hi"%b}]%b}'
    body %= tuple(part.encode() for part in around)
    async with Simulator() as sim, relaying(sim) as gateway:
        gateway.dispatcher.counting.counter.load()
        attempt = await hang_up_in_the_middle(sim, gateway, body)
        assert attempt.close.outcome is Outcome.DISCONNECTED
        assert attempt.close.usage.input_tokens > 0
        assert attempt.close.charge_nanos > 0
        assert gateway.dispatcher.running == 0


async def test_a_count_that_cannot_be_had_is_none_at_once_and_later() -> None:
    counting = Counting()
    counting.counter.load()

    def fail(_: TokenCounter) -> int:
        raise RuntimeError

    for text_bytes in (0, 1_000_000):
        heard: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        counting.run(fail, heard.set_result, text_bytes=text_bytes)
        assert await heard is None


async def test_a_defect_in_one_stream_keeps_no_other_from_writing_its_progress() -> None:
    written = asyncio.Event()

    class Books(KeptBooks):
        def progress(self, record: Progress) -> None:
            assert record is sound.record
            written.set()

    class Unsound:
        def progress(self) -> Progress:
            raise RuntimeError

    class Sound:
        record = Progress(bytes(16), 1, 1, 1)

        def progress(self) -> Progress:
            return self.record

    sound = Sound()
    streams = Streams(Books(), every_s=0.01)
    streams.add(Unsound())
    streams.add(sound)
    async with asyncio.timeout(20):
        await written.wait()
    streams.close()


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
        async with asyncio.timeout(20):
            while not gateway.books.closed_attempts:  # noqa: ASYNC110  the transport tells the books, not us
                await asyncio.sleep(0.01)
        (attempt,) = gateway.books.closed_attempts
        assert attempt.close.outcome is Outcome.DISCONNECTED
        assert (attempt.close.charge_nanos, attempt.close.cogs_nanos) == (0, 0)
    provider.close()
    await provider.wait_closed()


class Unlosing(Anthropic):
    """A provider kind with a defect where it is asked what it cannot carry."""

    def losses(self, _: Any) -> tuple[str, ...]:
        raise RuntimeError


def adopt_two_kinds(sim: Simulator, gateway: Relaying, **first: Any) -> None:
    """`swift-1` on an openai provider with these fields, and then on an anthropic one."""
    document: dict[str, Any] = {
        "providers": [provider(sim, "openai", "alpha", **first), provider(sim, "other", "delta", kind="anthropic")],
        "models": [model("swift-1", deployment("openai"), deployment("other"))],
    }
    gateway.view = build_view(read_catalogue(document), 2)
    gateway.fleet.adopt(gateway.view)


def break_the_second_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    original = LiveRoute.__init__

    def broken(self: LiveRoute, route: Any, kind: Any, *rest: Any) -> None:
        original(self, route, Unlosing() if isinstance(kind, Anthropic) else kind, *rest)

    monkeypatch.setattr(LiveRoute, "__init__", broken)


async def test_what_only_one_kind_can_be_given_fails_over_to_no_other_kind() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        adopt_two_kinds(sim, gateway)
        sim.arm("status", status=503, style="alpha", count=0)
        answer = await gateway.ask(reasoning_effort="default")
        assert answer.status >= 500
        assert gateway.dispatcher.running == 0
        closes = [attempt.close for attempt in gateway.books.closed_attempts]
        assert closes[-1].is_final
        assert {attempt.open.provider for attempt in gateway.books.closed_attempts} == {"openai"}


async def test_a_defect_in_choosing_the_next_route_is_booked_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        break_the_second_kind(monkeypatch)
        adopt_two_kinds(sim, gateway)
        sim.arm("status", status=503, style="alpha", count=0)
        answer = await gateway.ask()
        assert answer.status == 500
        assert gateway.dispatcher.running == 0
        (attempt,) = gateway.books.closed_attempts
        assert attempt.close.is_final


@pytest.mark.parametrize("queue", [0, 5], ids=["at once", "after waiting for a place"])
async def test_a_defect_in_choosing_a_route_before_anything_was_sent_frees_the_hold(
    queue: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        break_the_second_kind(monkeypatch)
        adopt_two_kinds(sim, gateway, bulkhead={"in_flight": 1, "queue": queue, "wait_s": 0.01})
        gate = gateway.fleet.gates()["openai"]
        assert gate.places.take()  # somebody else's call
        answer = await gateway.ask()
        assert answer.status == 500
        assert gateway.dispatcher.running == 0
        assert len(gateway.books.unused_plans) == 1
        assert not gateway.books.closed_attempts
        gate.release()
        assert (gate.places.in_flight, gate.places.waiting) == (0, 0)


async def test_a_defect_in_opening_the_second_attempt_ends_the_first_for_good() -> None:
    class Books(KeptBooks):
        def opened(self, record: Open) -> None:
            if self.closed_attempts:
                raise RuntimeError
            super().opened(record)

    async with Simulator() as sim, relaying(sim) as gateway:
        gateway.dispatcher.books = gateway.books = Books()
        sim.arm("status", status=503, style="alpha", count=0)
        answer = await gateway.ask()
        assert answer.status == 500
        assert gateway.dispatcher.running == 0
        first, again = gateway.books.closed_attempts
        assert first.open is again.open
        assert (first.close.is_final, again.close.is_final) == (False, True)
        assert [gate.places.in_flight for gate in gateway.fleet.gates().values()] == [0, 0]


async def test_a_defect_between_the_record_and_the_request_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        monkeypatch.setattr(gateway.dispatcher.books, "when_safe", _fail)
        answer = await gateway.ask()
        assert answer.status == 500
        assert gateway.dispatcher.running == 0
        assert gateway.books.closed_attempts[-1].close.is_final
        assert {attempt.close.charge_nanos for attempt in gateway.books.closed_attempts} == {0}


def _fail(_: object) -> None:
    raise RuntimeError
