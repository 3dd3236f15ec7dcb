"""Attempts of an asynchronous execution: the customer's side is decided elsewhere, the cost is booked here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import msgspec

from tests.e2e.stack import ask, deployment, model, provider
from tests.e2e.test_heartbeat import Relaying, relaying
from waypost.dispatch.ports import Running
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.ledger.record import Outcome
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
from waypost.simulator import Simulator
from waypost.wire.canonical import Chunk, Completion, Usage


class LongHold(msgspec.Struct, frozen=True):
    lease_id: bytes
    amount_nanos: int


class Listener:
    """A caller who keeps what it hears."""

    def __init__(self) -> None:
        self.execution: Running | None = None
        self.charges: list[int] = []
        self.refusals: list[Refusal] = []
        self.is_over = asyncio.Event()

    def attach(self, execution: Running) -> None:
        self.execution = execution

    def on_model(self, slug: str) -> None: ...

    def on_chunks(self, chunks: Sequence[Chunk]) -> None: ...

    def deliver(self) -> None: ...

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: int) -> None:
        self.charges.append(charge_nanos)
        self.is_over.set()

    def on_failed(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self.is_over.set()

    def on_broken(self) -> None: ...


async def run(
    gateway: Relaying, text: str = "Hi", *, hold_nanos: int = 10**9, attempts_before: int = 0, stream: bool = False
) -> tuple[bytes, Listener]:
    """One call to its end; the execution's id."""
    execution_id, caller = gateway.ids.new(), Listener()
    plan = gateway.plan(
        json.dumps(ask(text, stream=stream)).encode(),
        execution_id=execution_id,
        hold=LongHold(execution_id, hold_nanos),
        has_long_hold=True,
        attempts_before=attempts_before,
    )
    gateway.dispatcher.begin(plan, caller)
    async with asyncio.timeout(20):
        await caller.is_over.wait()
    return execution_id, caller


async def test_an_answer_is_recorded_without_charge_or_end_and_its_charge_is_told() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        for stream in (False, True):
            execution_id, caller = await run(gateway, stream=stream)
            attempt = gateway.books.closed_attempts[-1]
            assert caller.charges[0] > 0
            assert (attempt.close.outcome, attempt.close.charge_nanos) == (Outcome.COMPLETED, 0)
            assert attempt.close.cogs_nanos > 0
            assert not attempt.close.is_final
            assert attempt.open.has_long_hold
            assert (attempt.open.lease_id, attempt.open.execution_id) == (execution_id, execution_id)
        assert gateway.dispatcher.running == 0


async def test_the_charge_told_is_never_above_the_hold() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        _, caller = await run(gateway, hold_nanos=5)
        assert caller.charges == [5]


async def test_failures_are_recorded_as_attempts_alone_and_numbered_on() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        sim.arm("status", count=0, status=500)
        execution_id, caller = await run(gateway, attempts_before=6)
        closed = gateway.books.closed_attempts
        assert [refusal.code for refusal in caller.refusals] == [ErrorCode.GENERATION_FAILED]
        assert [attempt.open.attempt_number for attempt in closed] == list(range(7, 7 + len(closed)))
        assert [attempt.open.attempt_id for attempt in closed] == [
            ids.sibling(execution_id, attempt.open.attempt_number) for attempt in closed
        ]
        assert not any(attempt.close.is_final for attempt in closed)


async def test_a_caller_who_leaves_between_two_attempts_leaves_no_second_end() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        document: dict[str, object] = {
            "providers": [provider(sim, "alpha")],
            "models": [model("swift-1", deployment("alpha"))],
        }
        gateway.view = build_view(read_catalogue(document), 2)
        gateway.fleet.adopt(gateway.view)
        gateway.dispatcher.dice = lambda: 1.0  # the longest pause
        sim.arm("status", count=0, status=500)
        execution_id, caller = gateway.ids.new(), Listener()
        plan = gateway.plan(
            json.dumps(ask("Hi")).encode(),
            execution_id=execution_id,
            hold=LongHold(execution_id, 10**9),
            has_long_hold=True,
        )
        gateway.dispatcher.begin(plan, caller)
        async with asyncio.timeout(20):
            while not gateway.books.closed_attempts:  # noqa: ASYNC110  the provider's pace
                await asyncio.sleep(0)
        assert caller.execution is not None
        caller.execution.leave()
        await asyncio.sleep(0.05)
        assert len({attempt.open.attempt_id for attempt in gateway.books.closed_attempts}) == len(
            gateway.books.closed_attempts
        )
        assert not any(attempt.close.is_final for attempt in gateway.books.closed_attempts)
        assert gateway.dispatcher.running == 0


async def test_a_provider_is_told_a_maximum_because_the_hold_is_never_raised() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        document: dict[str, object] = {
            "providers": [provider(sim, "alpha")],
            "models": [model("swift-1", deployment("alpha"), max_output=60_000)],
        }
        gateway.view = build_view(read_catalogue(document), 2)
        gateway.fleet.adopt(gateway.view)
        _, caller = await run(gateway, "sim: words=20000 delay_ms=0", hold_nanos=10**12, stream=True)
        (attempt,) = gateway.books.closed_attempts
        assert caller.charges[0] > 0
        assert attempt.close.usage.output_tokens <= 8_192
