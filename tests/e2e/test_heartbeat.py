"""Heartbeats of a quiet stream. They come every 15 s, so here the caller's side and dispatch run in this process, with
a shorter interval, between a real caller and a real provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.e2e.stack import Answer, ask, deployment, exchange, model, provider
from tests.wire.samples import AROUND, ENVELOPE
from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.fleet import Fleet
from waypost.dispatch.ports import Hold, Plan
from waypost.gateway.admission import admit
from waypost.gateway.offering import Offerings
from waypost.gateway.relay import OpenStreams, StreamRelay
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.ledger.record import ClosedAttempt, Open, Outcome, Progress
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
from waypost.simulator import Simulator
from waypost.telemetry.metrics import Counter
from waypost.transport.exchange import Exchange
from waypost.transport.http1_server import Http1Server
from waypost.wire.formats import FORMATS
from waypost.wire.identity import AnswerIdentity

HEARTBEAT_S = 0.05
BEAT = b": waypost\n\n"
IMPATIENT = {"first_byte_s": 0.5, "idle_s": 0.5}


class Secrets:
    """Credentials that stay what they are."""

    def __call__(self, reference: str) -> str:
        return f"key of {reference}"

    def has_changed(self) -> bool:
        return False


class PaidHold:
    """A hold of enough money."""

    lease_id = bytes(16)
    amount_nanos = 10**12


class KeptBooks:
    """What would be in journal and ledger."""

    def __init__(self) -> None:
        self.closed_attempts: list[ClosedAttempt] = []
        self.unused_plans: list[Plan] = []

    def opened(self, record: Open) -> None:
        assert record.attempt_id not in {each.open.attempt_id for each in self.closed_attempts}

    def unused(self, plan: Plan) -> None:
        self.unused_plans.append(plan)

    def when_safe(self, then: Callable[[], None]) -> None:
        then()

    def progress(self, record: Progress) -> None:
        assert record.charge_nanos >= 0

    def extend(self, attempt_id: bytes, plan: Plan, extra_nanos: int) -> bool:
        raise AssertionError("no answer here is so long")

    def ask_to_extend(self, attempt_id: bytes, plan: Plan, extra_nanos: int, then: Callable[[bool], None]) -> None:
        raise AssertionError("no answer here is so long")

    def closed(self, attempt: ClosedAttempt, hold: Hold) -> None:
        assert hold.amount_nanos
        self.closed_attempts.append(attempt)


class Relaying:
    """A caller's port whose every request becomes a streamed execution."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.books = KeptBooks()
        self.fleet = Fleet(Secrets(), lambda: 0.5)
        self.view = build_view(read_catalogue(document), 1)
        self.fleet.adopt(self.view)
        self.open_streams = OpenStreams(asyncio.get_running_loop(), HEARTBEAT_S)
        self.ids = Ids()
        self.dispatcher = Dispatcher(
            books=self.books,
            clock=SystemClock(),
            dice=lambda: 0.0,
            attempts_counted=Counter("attempts", "", ("provider", "deployment", "outcome")),
            fields_dropped=Counter("dropped", ""),
        )
        self.server = Http1Server(self.handle, lambda code: (b"", b""))

    def plan(self, body: bytes, **changes: Any) -> Plan:
        """`changes` name fields of the plan."""
        request = FORMATS["openai_chat"].read(body, AROUND)
        offering = Offerings(lambda: self.view, self.fleet, self.dispatcher.dice).find(request.model)
        assert offering is not None
        admission = admit(request, offering, 0.0, 0)
        plan = Plan(
            execution_id=self.ids.new(),
            org_id=bytes(16),
            api_key_id=bytes(16),
            accepted_at_ms=1,
            admission=admission,
            hold=PaidHold(),
        )
        return replace(plan, **changes)

    def handle(self, exchange: Exchange) -> None:
        plan = self.plan(exchange.body.unwrap())
        identity = AnswerIdentity(
            completion_id="chatcmpl-1",
            created_s=1,
            model="swift-1",
            org_id=plan.org_id,
            tool_id_secret=bytes(32),
            envelope=ENVELOPE,
        )
        chat_format, request = FORMATS["openai_chat"], plan.admission.request
        relay = StreamRelay(exchange, b"", chat_format, request, identity, bytes(16), open_streams=self.open_streams)
        self.dispatcher.begin(plan, relay)

    async def ask(self, **fields: Any) -> Answer:
        body = ask("Tell", stream=True, **fields)
        async with asyncio.timeout(20):
            return await exchange(self.server.port, "POST", "/v1/chat/completions", body)


@contextlib.asynccontextmanager
async def relaying(sim: Simulator) -> AsyncIterator[Relaying]:
    """`swift-1` on alpha, which is not waited for long, and then on beta."""
    providers = [
        provider(sim, "first", "alpha", timeouts=IMPATIENT),
        provider(sim, "second", "beta", timeouts=IMPATIENT),
    ]
    gateway = Relaying(
        {"providers": providers, "models": [model("swift-1", deployment("first"), deployment("second"))]}
    )
    await gateway.server.listen(host="127.0.0.1")
    try:
        yield gateway
        assert len(gateway.open_streams) == 0, "a stream that has ended gets no more heartbeats"
    finally:
        await gateway.server.drain(0)
        gateway.open_streams.close()
        await gateway.fleet.close()


async def test_after_a_heartbeat_the_next_provider_can_still_answer() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        sim.arm("silence", style="alpha")
        answer = await gateway.ask()
    assert answer.status == 200
    assert answer.body.startswith(BEAT), "before the first content"
    assert answer.text
    assert answer.events[-1] == "[DONE]"
    failed, won = gateway.books.closed_attempts
    assert (failed.close.outcome, failed.close.charge_nanos) == (Outcome.FAILED, 0)
    assert (won.close.outcome, won.open.provider) == (Outcome.COMPLETED, "second")


async def test_after_a_heartbeat_a_failure_is_told_within_the_stream() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        sim.arm("silence", count=0)
        answer = await gateway.ask()
    assert answer.status == 200, "the heartbeat had fixed it"
    assert answer.body.startswith(BEAT)
    assert [chunk["error"]["code"] for chunk in answer.chunks] == ["GENERATION_TIMEOUT"]
    assert "[DONE]" not in answer.events
    assert [attempt.close.charge_nanos for attempt in gateway.books.closed_attempts] == [0, 0, 0]


async def test_heartbeats_fill_the_silence_between_two_words_and_are_no_events() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        undisturbed = await gateway.ask()
        sim.arm("silence", phase="mid", for_s=0.2)
        answer = await gateway.ask()
    assert len(answer.body.split(BEAT)) > 2
    assert all(b'"content":' in part for part in (answer.body.split(BEAT)[0], answer.body.split(BEAT)[-1]))
    assert answer.text == undisturbed.text
    assert answer.events[-1] == "[DONE]"
