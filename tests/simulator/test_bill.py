"""The simulator's bill, against amounts worked out by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.simulator.raw_client import ask, asking, control, said
from waypost.simulator import Simulator

PRICES = {"sim-large": {"input": "2.00", "cache_read": "0.20", "output": "8.00"}}


async def test_a_request_costs_its_token_classes_rounded_up_once() -> None:
    # 50 × 0.0375 + 30 × 0.0005 + 7 × 0.15 = 2.94 micro-USD, and one request at 0.0000007 makes 2940.0007 nano-USD.
    prices = {"input": "0.0375", "cache_read": "0.0005", "output": "0.15", "request": "0.0000007"}
    async with Simulator() as sim:
        sim.set_prices({"sim-large": prices})
        await ask(sim, "sim: words=7 input=80 cached=30")
        (line,) = sim.bill.lines
    assert (line.input_tokens, line.cache_read_tokens, line.output_tokens) == (50, 30, 7)
    assert line.nanos == 2941


@pytest.mark.parametrize("style", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_bill_agrees_with_the_usage_that_was_told(style: str, stream: bool) -> None:
    async with Simulator() as sim:
        sim.set_prices(PRICES)
        heard = await ask(sim, "sim: words=30 reasoning=12 input=2000 cached=1536", style=style, stream=stream, n=2)
    assert said(heard)["tokens"] == (2000, 1536, 84, 24)
    assert sim.bill.nanos == 464 * 2000 + 1536 * 200 + 84 * 8000


async def test_cache_writes_have_a_price_of_their_own_and_cost_input_without_one() -> None:
    async with Simulator() as sim:
        sim.set_prices(
            {"a": {"input": "1", "cache_write_5m": "1.25", "output": "4"}, "b": {"input": "1", "output": "4"}}
        )
        for model in ("a", "b"):
            await ask(sim, "sim: words=1 input=100 cache_write=40", model=model)
        dear, plain = sim.bill.lines
    assert dear.nanos == 60 * 1000 + 40 * 1250 + 4000
    assert plain.nanos == 100 * 1000 + 4000


async def test_a_cancelled_stream_is_billed_up_to_the_close() -> None:
    async with Simulator() as sim:
        sim.set_prices(PRICES)
        caller = await asking(sim, "sim: words=100000 delay_ms=1 input=10", stream=True)
        await caller.until(lambda: caller.received.count(b'"delta":{"content":"') >= 5)
        await caller.close()
        await sim.until(lambda: bool(sim.requests[-1].closed_s))
        (line,) = sim.bill.lines
    assert sim.requests[-1].is_closed_early
    assert not line.is_open
    assert 4 <= line.output_tokens < 100000
    assert line.nanos == 10 * 2000 + line.output_tokens * 8000


@pytest.mark.parametrize("stream", [False, True])
async def test_where_a_cancel_does_not_stop_billing_the_whole_answer_is_billed(stream: bool) -> None:
    async with Simulator(cancel_stops_billing=False) as sim:
        sim.set_prices(PRICES)
        caller = await asking(sim, "sim: words=50 delay_ms=1000 input=10", stream=stream)
        await sim.until(lambda: bool(sim.bill.lines))
        await caller.close()
        await sim.until(lambda: bool(sim.requests[-1].closed_s))
    assert sim.bill.nanos == 10 * 2000 + 50 * 8000


async def test_what_is_cancelled_before_the_first_output_costs_nothing() -> None:
    async with Simulator(cancel_stops_billing=False) as sim:
        sim.set_prices(PRICES)
        caller = await asking(sim, "sim: first_ms=60000")
        await sim.until(lambda: len(sim.requests) == 1)
        await caller.close()
        await sim.until(lambda: sim.requests[-1].is_closed_early)
    assert sim.bill.nanos == 0
    assert sim.bill.lines == []


async def test_refusals_cost_nothing_and_an_answer_without_output_costs_its_input() -> None:
    async with Simulator() as sim:
        sim.set_prices(PRICES)
        sim.arm("status", status=500)
        assert (await ask(sim)).status == 500
        assert (await ask(sim, messages=[])).status == 400
        assert sim.bill.nanos == 0
        await ask(sim, "sim: words=0 input=10", stream=True)
    assert sim.bill.nanos == 20000


async def test_a_cut_answer_is_billed_for_what_was_generated() -> None:
    async with Simulator() as sim:
        sim.set_prices(PRICES)
        for phase in ("after_request", "after_headers", "after_first_chunk", "mid", "before_usage"):
            sim.arm("reset", phase=phase)
            await ask(sim, "sim: words=20 input=10", stream=True)
    assert [line.output_tokens for line in sim.bill.lines] == [1, 10, 20]


async def test_the_bill_is_read_and_priced_over_http() -> None:
    async with Simulator() as sim:
        assert (await control(sim, "POST", "/_sim/prices", PRICES)).status == 200
        await ask(sim, "sim: words=5 input=10")
        await ask(sim, "sim: words=5 input=10", model="other", style="beta")
        report = (await control(sim, "GET", "/_sim/bill")).json
        lines = (await control(sim, "GET", "/_sim/bill?lines=1")).json["lines"]
    assert report["total"] == {
        "requests": 2,
        "input_tokens": 20,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0,
        "image_tokens": 0,
        "images": 0,
        "milliseconds": 0,
        "output_tokens": 10,
        "nanos": "60000",
    }
    assert report["models"]["sim-large"]["nanos"] == "60000"
    assert report["unpriced"] == ["other"]
    assert [(line["model"], line["style"], line["nanos"]) for line in lines] == [
        ("sim-large", "alpha", "60000"),
        ("other", "beta", "0"),
    ]
    assert lines[0]["id"] == sim.requests[0].answer_id


@pytest.mark.parametrize("prices", [{"m": {"inptu": "1"}}, {"m": {"input": "1e3"}}, {"m": {"input": 1.5}}, {"m": "1"}])
async def test_a_price_list_that_cannot_be_read_is_refused_whole(prices: dict[str, object]) -> None:
    async with Simulator() as sim:
        refused = await control(sim, "POST", "/_sim/prices", {"good": {"input": "1"}, **prices})
    assert refused.status == 400
    assert sim.bill.prices() == {}


async def test_a_long_prompt_is_billed_whole_at_the_price_of_its_step() -> None:
    async with Simulator() as sim:
        sim.set_prices({"sim-large": {"input": "1", "output": "4", "input_above_1000": "2", "output_above_1000": "6"}})
        for count in (1000, 1001):
            await ask(sim, f"sim: words=1 input={count} cached=500")
        at_the_step, above_it = sim.bill.lines
    assert at_the_step.nanos == 1000 * 1000 + 4000
    assert above_it.nanos == 1001 * 2000 + 6000


async def test_the_lines_of_one_style_are_a_bill_that_can_be_read() -> None:
    async with Simulator() as sim:
        sim.set_prices(PRICES)
        for style in ("alpha", "beta"):
            await ask(sim, "sim: words=3", style=style)
        (shown,) = (await control(sim, "GET", "/_sim/bill?lines=1&style=beta")).json["lines"]
        (line,) = [each for each in sim.bill.lines if each.style == "beta"]
    assert (shown["id"], shown["nanos"]) == (line.id, str(line.nanos))
    assert datetime.fromisoformat(shown["at"]).utcoffset() == timedelta(0)
