"""Money, end to end: what callers pay, what providers bill, what is left, and what bounds it."""

from __future__ import annotations

import asyncio
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.e2e.stack import COST, PRICE, PROVIDER_KEY, STYLES, Stack, ask, deployment, document, model, provider
from waypost.ledger.record import Outcome

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
ORDINARY: dict[str, dict[str, Any]] = {
    "text": ask("Tell me something"),
    "two choices": ask("Hi", n=2),
    "tools": ask("Weather?\nsim: tools=3", tools=[_TOOL]),
    "reasoning": ask("Think\nsim: reasoning=40 words=3"),
    "cached": ask("Again\nsim: input=5000 cached=4096"),
    "all cached": ask("Again\nsim: input=4096 cached=4096 words=1"),
    "one token": ask("Short\nsim: words=1"),
    "nothing said": ask("Nothing\nsim: words=0"),
    "cut short": ask("Long\nsim: words=500", max_tokens=7),
    "refused": ask("Bad\nsim: refusal=1"),
    "image": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, _PIXEL]}]},
}
# Prices that do not come out even.
ODD_PRICE = {"input": "0.123456789", "cache_read": "0.000000001", "output": "7.777777777", "request": "0.000000333"}
ODD_COST = {"input": "0.111111111", "cache_read": "0.000000007", "output": "3.333333333", "request": "0.5"}


def price_of(usage: dict[str, Any], prices: dict[str, str]) -> int:
    """Nano-USD for a usage as a caller sees it, in fractions and rounded up once."""
    cached: int = usage["prompt_tokens_details"]["cached_tokens"]
    micro_usd: Fraction = (
        (usage["prompt_tokens"] - cached) * Fraction(prices["input"])
        + cached * Fraction(prices["cache_read"])
        + usage["completion_tokens"] * Fraction(prices["output"])
        + Fraction(prices.get("request", "0"))
    )
    return math.ceil(micro_usd * 1000)


def usd(nanos: int) -> Fraction:
    return Fraction(nanos, 10**9)


async def test_what_providers_bill_is_what_is_booked_and_callers_see_what_they_pay(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        models = []
        for style in STYLES:
            stack.sim.set_prices({f"even-{style}": COST, f"odd-{style}": ODD_COST})
            models += [
                model(f"even-{style}", deployment(style, f"even-{style}")),
                model(f"odd-{style}", deployment(style, f"odd-{style}", cost=ODD_COST), price=ODD_PRICE),
            ]
        providers = [provider(stack.sim, style, style) for style in STYLES]
        await stack.adopt({"providers": providers, "models": models})
        cases = [
            {**body, **way, "model": each["slug"]}
            for body in ORDINARY.values()
            for way in ({}, {"stream": True, "stream_options": {"include_usage": True}})
            for each in models
        ]
        answers = await asyncio.gather(*(stack.chat(case) for case in cases))

        rows = {row["id"].bytes: row for row in await stack.executions(len(cases))}
        await stack.at_rest()
        for case, answer in zip(cases, answers, strict=True):
            assert answer.status == 200, answer.body
            usage = answer.chunks[-1]["usage"] if case.get("stream") else answer.json["usage"]
            row = rows[bytes.fromhex(answer.headers["x-execution-id"].removeprefix("exec_").replace("-", ""))]
            is_silent = usage["completion_tokens"] == 0
            expected = 0 if is_silent else price_of(usage, PRICE if case["model"].startswith("even") else ODD_PRICE)
            assert row["charge"] == expected, case
            assert Fraction(usage["cost"]) == usd(expected), "what is shown is what is paid"
            assert row["outcome"] == Outcome.COMPLETED
        settlements = await stack.settlements()
        for style in STYLES:
            booked = sum(each["cogs"] for each in settlements if each["provider"] == style)
            assert booked == sum(line.nanos for line in stack.sim.bill.lines if line.style == style), style
        await check_books(stack, sum(row["charge"] for row in rows.values()))


async def check_books(stack: Stack, charged: int) -> None:
    """Sum of charges = movements of the wallet = the usage page; and every invariant of the ledger."""
    assert sum(each["charge"] for each in await stack.settlements()) == charged
    balance = await stack.operator.balance(stack.org_id)
    assert balance.available_nanos == stack.credit_nanos - charged
    assert (balance.held_nanos, balance.suspense_nanos) == (0, 0)
    assert sum(row.charge_nanos for row in await stack.operator.usage(stack.org_id, since=None)) == charged
    checked = await stack.operator.check_ledger()
    assert not checked.violations


async def test_a_balance_for_so_many_requests_serves_exactly_so_many(database: str, tmp_path: Path) -> None:
    count, at_once = 60, 96
    body = json.dumps(ask("sim: words=100 delay_ms=20", max_tokens=100)).encode()
    quick = json.dumps(ask("sim: words=100 delay_ms 20", max_tokens=100)).encode()
    assert len(body) == len(quick)
    most_nanos = math.ceil((len(body) * Fraction(PRICE["input"]) + 100 * Fraction(PRICE["output"])) * 1000)
    async with Stack(database, tmp_path, credit_usd=0) as stack:
        await stack.operator.add_credit(stack.org_id, count * most_nanos, "for so many")
        statuses = [answer.status for answer in await asyncio.gather(*(stack.chat(body) for _ in range(at_once)))]
        assert (statuses.count(200), statuses.count(402)) == (count, at_once - count)

        # They cost less than they might have: the rest is there for more, until it covers no other.
        served = count
        while True:
            statuses = [answer.status for answer in await asyncio.gather(*(stack.chat(quick) for _ in range(8)))]
            assert set(statuses) <= {200, 402}
            served += statuses.count(200)
            if 200 not in statuses:
                break
        charged = sum(row["charge"] for row in await stack.executions(served))
        await stack.at_rest()
        balance = await stack.operator.balance(stack.org_id)
        assert 0 <= balance.available_nanos < most_nanos
        assert charged + balance.available_nanos == count * most_nanos
        assert charged >= count * most_nanos * 98 // 100
        assert len(stack.sim.requests) == served


async def test_a_usage_that_cannot_be_is_estimated_and_none_costs_more_than_the_hold(
    database: str, tmp_path: Path
) -> None:
    values = ("missing", "null", "zero", "negative", "huge", "overflow", "text", "float")
    alarming = set(values[3:])
    async with Stack(database, tmp_path, credit_usd=50) as stack:
        models = [model(f"{value}-{way}", deployment("alpha", f"{value}-{way}")) for value in values for way in "ps"]
        models += [model(f"over-{way}", deployment("alpha", f"over-{way}")) for way in "ps"]
        stack.sim.set_prices({each["slug"]: COST for each in models})
        await stack.adopt({"providers": [provider(stack.sim, "alpha")], "models": models})
        for value in values:
            for way in "ps":
                stack.sim.arm("usage", value=value, model=f"{value}-{way}")
                body = ask("Say\nsim: words=40", stream=way == "s", max_tokens=40) | {"model": f"{value}-{way}"}
                answer = await stack.chat(body)
                assert answer.status == 200
                assert len(answer.text) > 40
        # The provider counts far more input than was sent: the caller pays the hold, the house the rest.
        for way in "ps":
            body = ask("Say\nsim: input=100000 cached=0 words=10", stream=way == "s", max_tokens=10) | {
                "model": f"over-{way}"
            }
            assert (await stack.chat(body)).status == 200
        rows = {row["model"]: row for row in await stack.executions(len(models))}
        await stack.at_rest()
        doubtful = {event["deployment"] for event in stack.log if event["event"] == "UsageDoubtful"}
        assert doubtful == {f"alpha/{value}-{way}" for value in alarming for way in "ps"}
        for value in values:
            for way in "ps":
                row = rows[f"{value}-{way}"]
                assert row["outcome"] == Outcome.COMPLETED
                if value == "zero":
                    assert (row["charge"], row["is_estimated"]) == (0, False), "nothing is not the same as unknown"
                else:
                    assert row["is_estimated"]
                    assert 40 * 10_000 < row["charge"] < 2 * 40 * 10_000 + 60 * 2500
        bills = {line.model: line.nanos for line in stack.sim.bill.lines}
        settlements = {each["execution_id"]: each for each in await stack.settlements()}
        overruns = [event for event in stack.log if event["event"] == "HoldOverrun"]
        assert [event["deployment"] for event in overruns] == ["alpha/over-p", "alpha/over-s"]
        for way, event in zip("ps", overruns, strict=True):
            row = rows[f"over-{way}"]
            assert settlements[row["id"]]["cogs"] == bills[f"over-{way}"]
            assert 10 * 10_000 < row["charge"] < 300 * 2500 + 10 * 10_000, "the hold, for a body of so many bytes"
            assert event["over_nanos"] == 100_000 * 2500 + 10 * 10_000 - row["charge"]


async def test_usage_is_always_asked_for_and_shown_only_as_the_caller_asked(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        for options, shown in (
            ({}, []),
            ({"stream_options": None}, []),
            ({"stream_options": {}}, []),
            ({"stream_options": {"include_usage": False, "other": [1]}}, []),
            ({"stream_options": {"include_usage": True}}, [True]),
        ):
            answer = await stack.chat(ask(stream=True, **options))
            assert [True for chunk in answer.chunks if chunk.get("usage")] == shown, options
            assert all(("usage" in chunk) == bool(shown) for chunk in answer.chunks), options
            sent = json.loads(stack.sim.requests[-1].body)["stream_options"]
            assert sent == {**(options.get("stream_options") or {}), "include_usage": True}
        assert "usage" in (await stack.chat(ask())).json
        assert "stream_options" not in json.loads(stack.sim.requests[-1].body)
        charges = {row["charge"] for row in await stack.executions(6)}
        assert len(charges) == 1


async def test_what_reaches_the_provider(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack.sim, ("alpha",), headers={"x-team": "ours"}))
        strange = (
            b'"strange" : {"a" : 1.50, "b":"\\u00e9 \xc3\xa9", "c":[1e3 ,null], "d":123456789012345678901234567890}'
        )
        body = b'{ "model":"gpt-4o-mini", %b, "messages":[{"role":"user","content":"Hi", "x":1}]}' % strange
        headers = {
            "cookie": "session=of-the-caller",
            "x-api-key": stack.key.text,
            "x-forwarded-for": "203.0.113.9",
            "user-agent": "somebody/1",
            "openai-organization": "org-of-the-caller",
            "x-team": "theirs",
        }
        assert (await stack.chat(body, headers=headers)).status == 200
        seen = stack.sim.requests[-1]
        assert strange.partition(b" : ")[2] in seen.body, "byte for byte"
        assert b'{"role":"user","content":"Hi", "x":1}' in seen.body
        sent = {name.lower(): value for name, value in seen.headers}
        assert set(sent) == {
            *("host", "authorization", "content-type", "content-length", "accept-encoding", "user-agent", "x-team")
        }
        assert sent["authorization"] == f"Bearer {PROVIDER_KEY}"
        assert (sent["accept-encoding"], sent["x-team"], sent["user-agent"]) == ("identity", "ours", "waypost")
        caller = ("of-the-caller", "203.0.113.9", "somebody", "theirs", stack.key.text)
        assert not [text for text in caller if text in str(seen.headers) or text.encode() in seen.body]

        for asked, expected in (
            ({}, {"max_completion_tokens": 8192}),
            ({"max_tokens": 9}, {"max_tokens": 9}),
            ({"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
            ({"max_tokens": None}, {"max_completion_tokens": 8192}),
            ({"max_tokens": 9, "max_completion_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": 9}),
        ):
            assert (await stack.chat(ask(**asked))).status == 200
            fields = json.loads(stack.sim.requests[-1].body)
            assert {name: fields[name] for name in fields if name.startswith("max_") and fields[name]} == expected
            assert fields["model"] == seen.model
