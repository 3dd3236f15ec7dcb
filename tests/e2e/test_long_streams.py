"""Streams without a maximum: they go on while the balance lasts, and are settled exactly when it does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.stack import COST, PRICE, Stack, ask, deployment, eventually, model, provider
from waypost.ledger.record import Outcome

LONG = {"max_output": 60_000}
# A token of the simulated model is a word, so that what was received can be counted.
MANY = "sim: words=30000 delay_ms=0"


async def one_model(stack: Stack, price: dict[str, str] = PRICE, **fields: object) -> None:
    stack.sim.set_prices({"up": COST})
    providers = [provider(stack.sim, "alpha", "alpha", **fields)]
    await stack.adopt(
        {"providers": providers, "models": [model("swift-1", deployment("alpha", "up"), price=price, **LONG)]}
    )


async def test_a_stream_goes_on_beyond_its_first_hold_and_is_paid_as_the_provider_counts(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        await one_model(stack)
        answer = await stack.chat(ask(MANY, stream=True, stream_options={"include_usage": True}))
        usage = answer.chunks[-1]["usage"]
        assert usage["completion_tokens"] == 30_000
        assert "cost_estimated" not in usage
        (row,) = await stack.executions(1)
        await stack.at_rest()
        assert (row["outcome"], row["output_tokens"]) == (Outcome.COMPLETED, 30_000)
        assert sum(each["cogs"] for each in await stack.settlements()) == stack.sim.bill.nanos


async def test_a_balance_that_ends_first_cuts_the_stream_off_within_it(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, credit_usd=1) as stack:
        price = 50_000  # nano-USD a token: a dollar affords 20,000
        await one_model(stack, {"input": "2.50", "output": "50"})
        answer = await stack.chat(ask(MANY, stream=True))
        assert answer.status == 200
        assert b"[DONE]" not in answer.body
        assert b"INSUFFICIENT_BALANCE" in answer.body
        (row,) = await stack.executions(1)
        await stack.at_rest()
        assert (row["outcome"], row["error_code"], row["is_estimated"]) == (
            Outcome.CUT_OFF,
            "INSUFFICIENT_BALANCE",
            True,
        )
        received = answer.body.count(b'"delta":{"content":"') - 1  # the first piece holds the role alone
        assert received * 2 >= 8_192, "it went on while there was money"
        assert row["charge"] <= 10**9
        assert row["charge"] <= 3 * received * price  # by our vocabulary a word of the simulator is more than one token
        balance = await stack.operator.balance(stack.org_id)
        assert balance.available_nanos == 10**9 - row["charge"]
        assert balance.held_nanos == 0


async def test_where_closing_does_not_stop_the_billing_a_maximum_is_asked_of_the_provider(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        await one_model(stack, cancel_stops_billing="no")
        answer = await stack.chat(ask(MANY, stream=True, stream_options={"include_usage": True}))
        assert answer.chunks[-1]["usage"]["completion_tokens"] == 8_192
        assert b"[DONE]" in answer.body


async def test_an_answer_that_may_be_spoken_is_bounded_from_the_beginning(database: str, tmp_path: Path) -> None:
    """Nobody here counts sound while it comes, so no hold could be raised in time."""
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        await one_model(stack)
        spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
        answer = await stack.chat(ask(MANY, stream=True, stream_options={"include_usage": True}, **spoken))
        assert answer.chunks[-1]["usage"]["completion_tokens"] == 8_192
        assert b"[DONE]" in answer.body


async def test_a_crash_charges_what_was_delivered_and_no_more(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        await one_model(stack)
        slow = ask("sim: words=1000 delay_ms=20", stream=True)
        reader, writer = await stack.connect("POST", "/v1/chat/completions", slow)
        received = bytearray()

        async def read() -> None:
            while data := await reader.read(65_536):
                received.extend(data)

        reading = asyncio.ensure_future(read())
        await eventually(lambda: _longer(received, 40_000))
        await stack.kill()
        await reading
        writer.close()
        delivered = received.count(b'"delta":{"content":"')
        await stack.start()
        (row,) = await stack.executions(1)
        assert row["outcome"] == Outcome.CRASHED
        assert 0 < row["output_tokens"] <= delivered
        (line,) = stack.sim.bill.lines
        prices = {name: int(float(PRICE[name]) * 1000) for name in ("input", "output")}
        assert 0 < row["charge"] <= line.input_tokens * prices["input"] + delivered * prices["output"]
        (settlement,) = await stack.settlements()
        assert settlement["cogs"] >= line.nanos


async def _longer(received: bytearray, size: int) -> bool:
    return len(received) > size


async def test_an_answer_that_was_asked_to_complete_outlives_its_caller(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await one_model(stack)
        slow = ask("sim: words=50 delay_ms=20", stream=True)
        headers = {"x-on-disconnect": "complete"}
        reader, writer = await stack.connect("POST", "/v1/chat/completions", slow, headers=headers)
        await reader.readuntil(b'"delta":{"content":"')
        writer.close()
        (row,) = await stack.executions(1)
        await stack.at_rest()
        assert (row["outcome"], row["output_tokens"], row["is_estimated"]) == (Outcome.DISCONNECTED, 50, False)
        assert sum(each["cogs"] for each in await stack.settlements()) == stack.sim.bill.nanos
