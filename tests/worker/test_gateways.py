"""The worker's way to models and providers: through a gateway, on the hold of an execution, and told exactly how far it
came.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.inside import InsideStack
from tests.e2e.stack import Stack, ask, deployment, document, eventually, model, parse, provider
from waypost.app.settings import Settings
from waypost.kit import ids
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable, Outcome
from waypost.policy.snapshot import View
from waypost.storage.ledger import PostgresLedger
from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent
from waypost.wire.model_call import ModelCall
from waypost.worker.gateways import Gateways, InferenceAnswer

CHAT = "/v1/chat/completions"
HOLD_NANOS = 100_000_000
_ids = Ids()


class Impatient(InsideStack):
    """Its gateway waits a second for what runs when it leaves."""

    @property
    def settings(self) -> Settings:
        settings = super().settings
        return replace(settings, live=replace(settings.live, drain_s=1.0))


class Worker:
    """What an execution's job does, without the job."""

    def __init__(self, stack: Stack, ledger: PostgresLedger) -> None:
        self.stack = stack
        self.ledger = ledger
        self.gateways = Gateways(stack.data_dir / "run")

    async def held(self, amount_nanos: int = HOLD_NANOS) -> ModelCall:
        """An execution that was accepted now: its hold is in the books."""
        execution_id = _ids.new()
        await self.ledger.create_hold(hold_id=execution_id, org_id=self.stack.org_id, amount_nanos=amount_nanos)
        return ModelCall(
            execution_id=execution_id,
            org_id=self.stack.org_id,
            api_key_id=self.stack.key.id,
            hold_nanos=amount_nanos,
            accepted_at_ms=time.time_ns() // 1_000_000,
            price_version=(await self.stack.operator.newest_catalogue())[1],
        )

    async def call(self, call: ModelCall, body: dict[str, Any], path: str = CHAT) -> InferenceAnswer:
        return await self.gateways.call(call, path, json.dumps(body).encode(), timeout_s=30.0)

    async def settlements(self, count: int) -> list[dict[str, Any]]:
        """Once there are that many."""

        async def are_there() -> bool:
            return len(await self.stack.settlements()) >= count

        await eventually(are_there)
        return await self.stack.settlements()


@asynccontextmanager
async def working(stack: Stack) -> AsyncIterator[Worker]:
    ledger = PostgresLedger(stack.database)
    worker = Worker(stack, ledger)
    try:
        yield worker
    finally:
        await worker.gateways.close()
        await ledger.close_connections()


async def test_an_answer_comes_with_its_usage_and_its_charge_and_only_its_cost_is_booked(
    database: str, tmp_path: Path
) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        call = await worker.held()
        answer = await worker.call(call, ask("sim: words=20"))
        assert (answer.status, answer.is_sent, answer.attempts, answer.code) == (200, True, 1, "")
        assert answer.usage is not None
        assert answer.usage.output_tokens > 0
        assert answer.charge_nanos == 2_500 * answer.usage.input_tokens + 10_000 * answer.usage.output_tokens
        shown = json.loads(answer.body)
        assert len(shown["choices"][0]["message"]["content"].split()) == 20
        assert shown["model"] == "swift-1"

        (row,) = await worker.settlements(1)
        assert (row["charge"], row["cogs"] > 0, row["outcome"]) == (0, True, Outcome.COMPLETED)
        assert row["execution_id"].bytes == call.execution_id
        assert await stack.rows("SELECT count(*) FROM execution") == [(0,)]
        balance = await stack.operator.balance(stack.org_id)
        assert (balance.held_nanos, balance.available_nanos) == (HOLD_NANOS, stack.credit_nanos - HOLD_NANOS)
        await worker.ledger.end_hold(hold_id=call.execution_id, charge_nanos=answer.charge_nanos)
        assert not (await stack.operator.check_ledger()).violations


async def test_an_answer_that_was_streamed_comes_whole_and_is_the_same(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        answers = [
            json.loads((await worker.call(await worker.held(), ask("sim: words=30", stream=stream))).body)
            for stream in (False, True)
        ]
        plain, streamed = ({name: answer[name] for name in ("object", "model", "choices")} for answer in answers)
        assert plain == streamed
        assert [json.loads(request.body).get("stream", False) for request in stack.sim.requests] == [False, True]


async def test_a_failed_call_tells_its_code_and_whether_anything_was_sent(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        stack.sim.arm("status", count=0, status=500)
        call = await worker.held()
        failed = await worker.call(call, ask())
        assert (failed.status, failed.code, failed.is_retryable) == (500, "GENERATION_FAILED", True)
        assert (failed.is_sent, failed.attempts) == (True, 3)
        stack.sim.disarm()

        again = await worker.call(replace(call, attempts_before=failed.attempts), ask())
        assert (again.status, again.attempts) == (200, 4)
        rows = await worker.settlements(4)
        assert {row["attempt_id"].bytes for row in rows} == {ids.sibling(call.execution_id, at) for at in (1, 2, 3, 4)}
        assert sum(row["charge"] for row in rows) == 0

        unknown = await worker.call(call, {**ask(), "model": "nothing-1"})
        assert (unknown.status, unknown.code, unknown.is_sent, unknown.attempts) == (404, "NOT_FOUND", False, 0)
        invalid = await worker.call(call, {"model": "swift-1", "messages": "x"})
        assert (invalid.status, invalid.code, invalid.is_sent) == (400, "INPUT_VALIDATION_ERROR", False)
        assert json.loads(invalid.body)["error"]["details"][0]["field"] == "messages"


async def test_an_answer_stays_within_its_hold(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        small = await worker.held(1_000_000)  # 100 output tokens, were there no input
        answer = await worker.call(small, ask("sim: words=400", max_tokens=4_000))
        assert answer.status == 200
        assert answer.charge_nanos <= 1_000_000
        assert json.loads(answer.body)["choices"][0]["finish_reason"] == "length"
        nothing = await worker.call(await worker.held(100), ask())
        assert (nothing.status, nothing.code, nothing.is_sent) == (402, "INSUFFICIENT_BALANCE", False)


def dearer(stack: Stack) -> dict[str, Any]:
    """The same models for ten times the price, at twice the cost."""
    changed = document(stack.sim)
    for each in changed["models"]:
        each["price"] = {name: str(Decimal(price) * 10) for name, price in each["price"].items()}
        for route in each["deployments"]:
            route["cost"] = {name: str(Decimal(cost) * 2) for name, cost in route["cost"].items()}
    return changed


async def test_the_prices_of_the_acceptance_count_and_the_costs_of_the_call(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        before = await worker.held()
        await stack.adopt(dearer(stack))
        after = await worker.held()
        answers = [await worker.call(call, ask("sim: words=20")) for call in (before, after)]
        assert [answer.status for answer in answers] == [200, 200]
        first, second = (answer.charge_nanos for answer in answers)
        assert answers[0].usage is not None
        assert first == 2_500 * answers[0].usage.input_tokens + 10_000 * answers[0].usage.output_tokens
        assert second == 10 * first
        await worker.settlements(2)
        booked = await stack.rows("SELECT price_version, cogs FROM settlement ORDER BY price_version")
        cost = 4_000 * answers[0].usage.input_tokens + 16_000 * answers[0].usage.output_tokens
        assert booked == [(before.price_version, cost), (after.price_version, cost)]


async def test_a_gateway_that_is_behind_uses_the_prices_of_the_newer_version_too(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        old = stack.gateway.gateway.view()
        await stack.adopt(dearer(stack))
        call = await worker.held()
        stack.gateway.gateway.view = lambda: old
        answer = await worker.call(call, ask("sim: words=20"))
        assert answer.usage is not None
        assert answer.charge_nanos == 25_000 * answer.usage.input_tokens + 100_000 * answer.usage.output_tokens


async def test_dated_changes_of_prices_and_costs_take_effect_each_in_its_time(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        changed = document(stack.sim)
        (only,) = changed["models"]
        only["price"] = only["price"] | {"changes": [{"effective_from": "2020-01-01", "input": "9", "output": "9"}]}
        for route in only["deployments"]:
            change = {"effective_from": "2020-01-01", "input": "3", "output": "3"}
            route["cost"] = route["cost"] | {"changes": [change]}
        await stack.adopt(changed)
        long_ago = replace(await worker.held(), accepted_at_ms=1_500_000_000_000)
        answer = await worker.call(long_ago, ask("sim: words=20"))
        assert answer.usage is not None
        assert answer.charge_nanos == 2_500 * answer.usage.input_tokens + 10_000 * answer.usage.output_tokens
        (row,) = await worker.settlements(1)
        assert row["cogs"] == 3_000 * (answer.usage.input_tokens + answer.usage.output_tokens)


async def test_a_model_to_fall_back_to_has_no_price_when_it_was_not_there_at_the_acceptance(
    database: str, tmp_path: Path
) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        call = await worker.held()
        changed = document(stack.sim)
        changed["models"].append(model("swift-2", deployment("alpha-provider")))
        await stack.adopt(changed)
        refused = await worker.call(call, ask("sim: words=20", models=["swift-2"]))
        assert (refused.code, refused.is_sent) == ("NOT_FOUND", False)
        now = await worker.call(await worker.held(), ask("sim: words=20", models=["swift-2"]))
        assert now.status == 200


async def test_a_model_that_was_renamed_and_answers_to_its_old_name_runs_what_was_accepted_under_it(
    database: str, tmp_path: Path
) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        call = await worker.held()
        changed = dearer(stack)
        (only,) = changed["models"]
        only["aliases"] = [*only.get("aliases", []), only["slug"]]
        only["slug"] = "swift-9"
        await stack.adopt(changed)
        answer = await worker.call(call, ask("sim: words=20"))
        assert answer.status == 200
        assert answer.usage is not None
        assert answer.charge_nanos == 2_500 * answer.usage.input_tokens + 10_000 * answer.usage.output_tokens


async def test_without_the_database_a_call_at_earlier_prices_waits(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(version: int) -> View | None:
        raise LedgerUnavailable

    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        call = await worker.held()
        await stack.adopt(dearer(stack))
        monkeypatch.setattr(stack.gateway._directory, "view_at", away)
        refused = await worker.call(call, ask("sim: words=20"))
        assert (refused.code, refused.is_sent) == ("SERVICE_UNAVAILABLE", False)
        monkeypatch.undo()
        assert (await worker.call(call, ask("sim: words=20"))).status == 200


async def test_whoever_cancels_ends_the_call_at_the_provider(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        stack.sim.arm("silence", count=0)
        # What was asked is counted in the end: on a machine with much to do, loading the vocabulary takes its time.
        await asyncio.to_thread(stack.gateway.gateway._dispatcher.counting.counter.load)
        running = asyncio.ensure_future(worker.call(await worker.held(), ask()))
        await eventually(_has(lambda: bool(stack.sim.requests)))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        (row,) = await worker.settlements(1)
        assert (row["outcome"], row["charge"]) == (Outcome.DISCONNECTED, 0)
        await eventually(_has(lambda: not any(gate.places.in_flight for gate in stack.gateway.fleet.gates().values())))


async def test_embeddings_and_images_are_called_in_the_same_way(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        catalogue = document(stack.sim)
        catalogue["models"] += [
            model("vector-1", deployment("alpha-provider"), modality="embedding", features=[]),
            model(
                "picture-1",
                deployment("alpha-provider", cost={"image": "20000"}),
                modality="image",
                features=[],
                price={"image": "40000"},
            ),
        ]
        await stack.adopt(catalogue)
        vectors = await worker.call(
            await worker.held(), {"model": "vector-1", "input": ["one", "two"]}, "/v1/embeddings"
        )
        assert (vectors.status, len(json.loads(vectors.body)["data"])) == (200, 2)
        pictures = await worker.call(
            await worker.held(), {"model": "picture-1", "prompt": "A lighthouse."}, "/v1/images/generations"
        )
        assert (pictures.status, pictures.usage and pictures.usage.images) == (200, 1)
        assert pictures.charge_nanos == 40_000_000


async def test_nobody_outside_can_call_on_somebodys_hold(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        call = await worker.held()
        said = {"x-waypost-call": msgspec.json.encode(call).decode()}
        assert (await stack.request("POST", CHAT, ask(), headers=said, key="sk_nothing")).status == 401
        assert (await stack.request("POST", "/errand", b"", headers=said)).status == 404
        assert (await stack.chat(ask(), headers=said)).status == 200  # a caller like any other
        rows = await worker.settlements(1)
        assert rows[0]["execution_id"].bytes != call.execution_id
        reader, writer = await asyncio.open_unix_connection(stack.data_dir / "run" / "gateway.sock")
        body = json.dumps(ask()).encode()
        head = "POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write((head % (CHAT, len(body))).encode() + body)
        assert parse(await reader.read()).status == 400  # without an execution there is nothing to do
        writer.close()


async def test_another_gateway_is_asked_when_nothing_was_sent(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        left = stack.data_dir / "run" / "gateway-0.sock"  # of a gateway that was killed
        server = await asyncio.start_unix_server(lambda _, writer: writer.close(), left)
        server.close()
        for _ in range(3):
            assert (await worker.call(await worker.held(), ask())).status == 200
        stack.gateway._state.is_ready = False
        refused = await worker.call(await worker.held(), ask())
        assert (refused.status, refused.code, refused.is_sent) == (503, "SERVICE_UNAVAILABLE", False)
        errand = Errand(provider="alpha-provider", deployment="x", method="GET", url="/models", timeout_s=1.0)
        assert isinstance(await worker.gateways.errand(errand), NotSent)
        stack.gateway._state.is_ready = True


async def test_a_gateway_that_dies_with_a_call_leaves_it_open_what_came_of_it(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.transport.abort()

    call = ModelCall(bytes(16), bytes(16), bytes(16), 5, accepted_at_ms=1, price_version=1, attempts_before=2)
    errand = Errand(provider="a", deployment="x", method="GET", url="/", timeout_s=1.0)
    async with contextlib.AsyncExitStack() as stack:  # what stays open keeps the loop from ending
        for at in range(2):
            server = await asyncio.start_unix_server(die, tmp_path / f"gateway-{at}.sock")
            stack.callback(server.close)
        gateways = Gateways(tmp_path)
        stack.push_async_callback(gateways.close)
        answer = await gateways.call(call, CHAT, b"{}", timeout_s=5.0)
        assert (answer.code, answer.is_sent, answer.attempts) == ("SERVICE_UNAVAILABLE", True, 5)
        assert await gateways.errand(errand) == Ambiguous("gateway_lost")
        assert len(asked) == 2


async def test_without_a_gateway_nothing_is_sent(tmp_path: Path) -> None:
    gateways = Gateways(tmp_path)
    call = ModelCall(bytes(16), bytes(16), bytes(16), hold_nanos=5, accepted_at_ms=1, price_version=1)
    answer = await gateways.call(call, CHAT, b"{}", timeout_s=5.0)
    assert (answer.status, answer.is_sent, answer.attempts) == (503, False, 0)
    errand = Errand(provider="a", deployment="x", method="GET", url="/", timeout_s=1.0)
    assert await gateways.errand(errand) == NotSent("no_gateway", retry_after_s=1.0)
    await gateways.close()


async def test_an_errand_reaches_the_provider_with_the_gateways_credential(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack, working(stack) as worker:
        await stack.adopt(
            {"providers": [provider(stack.sim, "alpha")], "models": [model("swift-1", deployment("alpha"))]}
        )
        (live,) = stack.gateway.fleet.deployments()
        errand = Errand(
            provider="alpha",
            deployment=live.deployment.id,
            method="POST",
            url=live.provider.base_url + "/chat/completions",
            timeout_s=10.0,
            headers=(("content-type", "application/json"),),
            body=json.dumps({**ask("sim: words=3"), "model": deployment("alpha")["upstream_model"]}).encode(),
        )
        sent = await worker.gateways.errand(errand)
        assert isinstance(sent, Answered)
        assert (sent.status, len(sent.credential)) == (200, 16)
        assert len(json.loads(sent.body)["choices"][0]["message"]["content"].split()) == 3
        again = await worker.gateways.errand(replace(errand, credential=sent.credential))
        assert isinstance(again, Answered)
        counted = {name: value for name, value in (await stack.metrics()).items() if "errands" in name}
        assert ['outcome="2xx"' in name for name in counted] == [True]
        assert list(counted.values()) == [2]


async def test_what_runs_when_the_gateway_leaves_is_told_to_be_open(database: str, tmp_path: Path) -> None:
    async with Impatient(database, tmp_path) as stack, working(stack) as worker:
        stack.sim.arm("silence", count=0)
        calling = asyncio.ensure_future(worker.call(await worker.held(), ask()))
        await eventually(_has(lambda: bool(stack.sim.requests)))
        assert await stack.stop() == 0
        answer = await calling
        assert (answer.code, answer.is_sent) == ("SERVICE_UNAVAILABLE", True)
        (row,) = await worker.settlements(1)
        assert (row["outcome"], row["charge"]) == (Outcome.CUT_OFF, 0)


def _has(check: Any) -> Any:
    async def asked() -> bool:
        return bool(check())

    return asked
