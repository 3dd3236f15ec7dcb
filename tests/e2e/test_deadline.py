"""`X-Request-Timeout`: a caller is told in time, in his own format, and pays as if he had left then."""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.inside import InsideStack
from tests.e2e.stack import Answer, Stack, ask, deployment, eventually, model, provider
from tests.e2e.test_disconnect import INPUT_NANOS, OUTPUT_NANOS, SLOW
from tests.storage.relay import Relay
from waypost.dispatch.execution import Execution
from waypost.ledger.record import Outcome
from waypost.simulator import Simulator

ONE_SECOND = {"x-request-timeout": "1"}
SLOWER = SLOW.replace("delay_ms=10", "delay_ms=60")  # 3.6 s for 60 words
GEMINI = {"contents": [{"role": "user", "parts": [{"text": SLOWER}]}]}
# path, body, and where the code stands in the format's error
PLAIN = {
    "openai": ("/v1/chat/completions", ask(SLOWER), ("error", "code")),
    "anthropic": ("/v1/messages", ask(SLOWER, max_tokens=100), ("error", "code")),
    "gemini": ("/v1beta/models/swift-1:generateContent", GEMINI, ("error", "details", 0, "reason")),
}


def at(value: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def code_of(answer: Answer) -> str:
    return str(answer.json["error"]["code"])


async def test_a_plain_call_is_refused_in_its_format_and_what_came_is_paid(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        for expected, (path, body, place) in enumerate(PLAIN.values(), 1):
            answer = await stack.request("POST", path, body, headers=ONE_SECOND)
            assert answer.status == 504, answer.body
            assert at(answer.json, place) == "GENERATION_TIMEOUT", answer.body
            assert "x-execution-id" in answer.headers
            record = stack.sim.requests[-1]
            await stack.sim.until(lambda record=record: bool(record.closed_s))  # type: ignore[misc]
            assert record.is_closed_early
            row = (await stack.executions(expected))[-1]
            told = (row["outcome"], row["status"], row["error_code"], row["attempts"], row["is_estimated"])
            assert told == (Outcome.CUT_OFF, 504, "GENERATION_TIMEOUT", 1, True)
            assert row["charge"] == row["input_tokens"] * INPUT_NANOS + row["output_tokens"] * OUTPUT_NANOS
            assert row["input_tokens"] > 0
        await stack.at_rest()
        assert len(stack.sim.requests) == len(await stack.settlements()) == len(PLAIN)


async def test_a_stream_ends_with_its_error_event_and_is_paid_as_far_as_it_came(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(ask(SLOWER, stream=True), headers=ONE_SECOND)
        assert answer.status == 200
        events = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        assert json.loads(events[-1])["error"]["code"] == "GENERATION_TIMEOUT"
        assert 0 < len(events) - 1 < 60
        (row,) = await stack.executions(1)
        assert (row["outcome"], row["status"], row["error_code"]) == (Outcome.CUT_OFF, 200, "GENERATION_TIMEOUT")
        assert 0 < row["output_tokens"] < 60
        assert row["charge"] == row["input_tokens"] * INPUT_NANOS + row["output_tokens"] * OUTPUT_NANOS
        await stack.at_rest()


async def test_a_provider_that_goes_on_is_drained_as_when_the_caller_leaves(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, simulator=Simulator(cancel_stops_billing=False)) as stack:
        goes_on = provider(stack.sim, "goes-on", cancel_stops_billing="no")
        await stack.adopt({"providers": [goes_on], "models": [model("swift-1", deployment("goes-on"))]})
        answer = await stack.chat(ask(SLOWER), headers=ONE_SECOND)
        assert (answer.status, code_of(answer)) == (504, "GENERATION_TIMEOUT")
        (row,) = await stack.executions(1)
        await stack.at_rest()
        told = (row["outcome"], row["status"], row["error_code"], row["is_estimated"], row["output_tokens"])
        assert told == (Outcome.CUT_OFF, 504, "GENERATION_TIMEOUT", False, 60)
        (settlement,) = await stack.settlements()
        assert settlement["cogs"] == stack.sim.bill.nanos
        assert not stack.sim.requests[-1].is_closed_early


async def test_no_further_attempt_is_waited_for_that_would_begin_too_late(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        only = provider(stack.sim, "only")
        await stack.adopt({"providers": [only], "models": [model("swift-1", deployment("only"))]})
        stack.sim.arm("status", status=429, retry_after="4", count=1)
        answer = await stack.chat(ask(), headers={"x-request-timeout": "3"})
        assert (answer.status, code_of(answer), answer.headers["retry-after"]) == (503, "MODEL_OVERLOADED", "4")
        (row,) = await stack.executions(1)
        assert (row["attempts"], row["charge"], len(stack.sim.requests)) == (1, 0, 1)
        await stack.at_rest()


async def test_an_attempt_that_failed_is_followed_in_time_and_the_end_is_told_of_the_last(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path) as stack:
        stack.sim.arm("status", status=500, count=1)
        answer = await stack.chat(ask(SLOWER), headers={"x-request-timeout": "2.5"})
        assert (answer.status, code_of(answer)) == (504, "GENERATION_TIMEOUT")
        (row,) = await stack.executions(1)
        assert (row["attempts"], row["outcome"], row["error_code"]) == (2, Outcome.CUT_OFF, "GENERATION_TIMEOUT")
        await stack.at_rest()


async def test_what_waits_for_a_place_is_told_in_time(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        full = {"in_flight": 1, "queue": 5, "wait_s": 20}
        providers = [provider(stack.sim, "fails"), provider(stack.sim, "full", bulkhead=full)]
        models = [model("swift-1", deployment("fails"), deployment("full")), model("full", deployment("full"))]
        await stack.adopt({"providers": providers, "models": models})
        _, writer = await stack.connect("POST", "/v1/chat/completions", ask("sim: words=999 delay_ms=60", model="full"))
        await stack.sim.until(lambda: bool(stack.sim.requests))
        answer = await stack.chat(ask(model="full"), headers=ONE_SECOND)
        assert (answer.status, code_of(answer)) == (504, "GENERATION_TIMEOUT")
        stack.sim.arm("status", status=500, count=1)
        answer = await stack.chat(ask(), headers={"x-request-timeout": "2"})
        assert (answer.status, code_of(answer)) == (504, "GENERATION_TIMEOUT")
        writer.close()
        rows = {row["model"]: row for row in await stack.executions(2)}  # there is none of what was never sent
        row = rows["swift-1"]
        told = (row["outcome"], row["status"], row["error_code"], row["attempts"], row["charge"])
        assert told == (Outcome.CUT_OFF, 504, "GENERATION_TIMEOUT", 1, 0)
        await stack.at_rest()
        assert len(stack.sim.requests) == 2


async def test_what_is_waiting_for_money_is_told_in_time_and_holds_nothing(database: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wp") as short:
        relay = Relay(database, Path(short))
        async with relay.serving(), Stack(relay.conninfo, tmp_path) as stack:
            assert (await stack.chat(ask())).status == 200
            relay.withhold()
            answer = await stack.chat(ask(), headers=ONE_SECOND | {"idempotency-key": "waits"})
            assert (answer.status, code_of(answer)) == (504, "GENERATION_TIMEOUT")
            await relay.cut()
            assert len(stack.sim.requests) == 1

            async def holds_nothing() -> bool:
                return not (await stack.metrics())["waypost_holds_open"]

            await eventually(holds_nothing)
            refused = {name: count for name, count in (await stack.metrics()).items() if 'outcome="refused"' in name}
            (name,) = refused
            assert (refused[name], 'code="GENERATION_TIMEOUT"' in name) == (1, True), "each answer is counted once"


async def test_a_call_that_ends_in_time_leaves_nothing_behind(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path) as stack:
        for is_stream in (False, True):
            answer = await stack.chat(ask(stream=is_stream), headers={"x-request-timeout": "600"})
            assert answer.status == 200
        assert (await stack.chat(ask(SLOWER), headers=ONE_SECOND)).status == 504
        await stack.at_rest()
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Execution]


async def test_what_is_no_number_of_seconds_is_refused_before_anything_is_spent(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(ask(), headers={"x-request-timeout": "601"})
        assert (answer.status, code_of(answer)) == (400, "INPUT_VALIDATION_ERROR")
        assert "from 1 to 600" in answer.json["error"]["message"]
        await stack.at_rest()
        assert not stack.sim.requests
