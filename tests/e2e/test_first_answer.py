"""The main job: a caller's request, answered through a provider, booked to the nano."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.stack import Stack, ask


async def test_a_plain_answer_is_relayed_priced_and_booked(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(ask("Hello there"))
        assert answer.status == 200
        assert answer.json["model"] == "swift-1"
        assert answer.text

        (row,) = await stack.executions(1)
        usage = answer.json["usage"]
        expected = -(-(usage["prompt_tokens"] * 2_500_000_000 + usage["completion_tokens"] * 10_000_000_000) // 10**6)
        assert row["charge"] == expected
        (settlement,) = await stack.settlements()
        assert settlement["cogs"] == stack.sim.bill.nanos


async def test_a_stream_says_the_same_and_costs_the_same(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        plain = await stack.chat(ask("Hello there"))
        streamed = await stack.chat(ask("Hello there", stream=True, stream_options={"include_usage": True}))
        assert streamed.events[-1] == "[DONE]"
        assert streamed.text == plain.text
        assert streamed.chunks[-1]["usage"] == plain.json["usage"]
        first, second = await stack.executions(2)
        assert first["charge"] == second["charge"] > 0


async def test_a_caller_who_asks_for_more_than_the_model_gives_costs_nobody_more_than_the_hold(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(ask("Long\nsim: words=9000", max_tokens=20_000))
        assert answer.json["usage"]["completion_tokens"] == 8192
        await stack.executions(1)
        assert [event for event in stack.log if event["event"] == "HoldOverrun"] == []
