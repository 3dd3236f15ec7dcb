"""Callers who hang up: the provider is told or drained, the books are right, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships without types

from tests.e2e.stack import Stack, ask, deployment, eventually, model, provider
from waypost.ledger.record import Outcome
from waypost.simulator import Simulator

INPUT_NANOS, OUTPUT_NANOS = 2500, 10_000  # the caller's price of a token
LONG_TOKENS = 15_000  # 30 MB with log probabilities: more than the sockets' buffers take
SLOW = "sim: words=60 delay_ms=10"
PHASES = ("while sending", "waiting for a head", "after the head", "after a word", "in the middle", "near the end")
_WORDS = {"after a word": 1, "in the middle": 25, "near the end": 55}


def phases(*, is_stream: bool) -> tuple[str, ...]:
    """A plain answer comes whole: of its way the caller sees only the waiting."""
    return PHASES if is_stream else PHASES[:2]


def catalogue(stack: Stack) -> dict[str, Any]:
    providers = [
        provider(stack.sim, "stops", cancel_stops_billing="yes"),
        provider(stack.sim, "goes-on", cancel_stops_billing="no"),
        provider(stack.sim, "unknown", cancel_stops_billing="unknown"),
    ]
    return {"providers": providers, "models": [model(each["id"], deployment(each["id"])) for each in providers]}


async def hang_up(stack: Stack, slug: str, phase: str, *, is_stream: bool) -> str:
    """Ask, and close the connection in that phase. What was read of the answer's text until then."""
    body = json.dumps({**ask(f"{phase}\n{SLOW}", stream=is_stream), "model": slug}).encode()
    if phase == "while sending":
        _, writer = await stack.connect(
            "POST", "/v1/chat/completions", body[:-9], headers={"content-length": f"{len(body)}"}
        )
        await writer.drain()
        writer.close()
        return ""
    seen = len(stack.sim.requests)
    reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
    await stack.sim.until(lambda: len(stack.sim.requests) > seen)
    text = ""
    if phase != "waiting for a head":
        await reader.readuntil(b"\r\n\r\n")
    if phase in _WORDS:
        words = 0
        while words < _WORDS[phase]:
            line = await reader.readline()
            if line.startswith(b"data: "):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content") or ""
                words += bool(delta.get("content"))
    writer.close()
    return text


async def test_a_provider_that_stops_is_told_and_the_caller_pays_what_came(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(catalogue(stack))
        expected = 0
        for is_stream in (False, True):
            for phase in phases(is_stream=is_stream):
                text = await hang_up(stack, "stops", phase, is_stream=is_stream)
                if phase == "while sending":
                    continue  # it was never accepted
                expected += 1
                record = stack.sim.requests[-1]
                await stack.sim.until(lambda record=record: bool(record.closed_s))  # type: ignore[misc]
                assert record.is_closed_early, phase
                row = (await stack.executions(expected))[-1]
                assert (row["outcome"], row["attempts"], row["is_estimated"]) == (Outcome.DISCONNECTED, 1, True), phase
                assert row["charge"] == row["input_tokens"] * INPUT_NANOS + row["output_tokens"] * OUTPUT_NANOS
                assert row["input_tokens"] > 0
                # What the caller has read was received; a little more may have been under way to him.
                received = len(text.encode()) // 4
                assert received <= row["output_tokens"] <= received + 60, phase
        await stack.at_rest()
        assert len(stack.sim.requests) == expected
        assert len(await stack.settlements()) == expected
        assert "BugCaught" not in {event["event"] for event in stack.log}


async def test_a_provider_that_goes_on_is_drained_to_its_usage(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, simulator=Simulator(cancel_stops_billing=False)) as stack:
        await stack.adopt(catalogue(stack))
        cases = [("goes-on", phase, True) for phase in PHASES[1:]]
        cases += [("goes-on", PHASES[1], False), ("unknown", PHASES[1], False), ("unknown", "in the middle", True)]
        for slug, phase, is_stream in cases:
            await hang_up(stack, slug, phase, is_stream=is_stream)
        rows = await stack.executions(len(cases))
        await stack.at_rest()
        assert [(row["outcome"], row["is_estimated"]) for row in rows] == [(Outcome.DISCONNECTED, False)] * len(cases)
        assert not any(record.is_closed_early for record in stack.sim.requests)
        settlements = await stack.settlements()
        assert sum(settlement["cogs"] for settlement in settlements) == stack.sim.bill.nanos
        for row in rows:
            assert row["output_tokens"] == 60
            assert row["charge"] == row["input_tokens"] * INPUT_NANOS + 60 * OUTPUT_NANOS


async def test_between_two_attempts_and_while_failing_over(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(catalogue(stack))
        # He leaves while a wait of eight seconds before the second attempt runs.
        stack.sim.arm("status", status=429, retry_after="8", count=0)
        reader, writer = await stack.connect("POST", "/v1/chat/completions", {**ask(), "model": "stops"})
        await stack.sim.until(lambda: any(record.closed_s for record in stack.sim.requests))
        await eventually(lambda: is_held_after_an_attempt(stack))
        writer.close()
        (row,) = await stack.executions(1)
        assert (row["outcome"], row["attempts"], row["charge"]) == (Outcome.DISCONNECTED, 1, 0)
        await stack.at_rest()
        assert len(stack.sim.requests) == 1
        assert await reader.read() == b""

        # He leaves a provider that goes on, and that provider then fails: nobody else is asked, and he pays nothing.
        stack.sim.disarm()
        stack.sim.arm("reset", phase="mid")
        _, writer = await stack.connect("POST", "/v1/chat/completions", {**ask(SLOW), "model": "goes-on"})
        await stack.sim.until(lambda: len(stack.sim.requests) == 2)
        writer.close()
        row = (await stack.executions(2))[-1]
        assert (row["outcome"], row["attempts"], row["charge"]) == (Outcome.FAILED, 1, 0)
        assert len(stack.sim.requests) == 2


async def is_held_after_an_attempt(stack: Stack) -> bool:
    return bool((await stack.metrics())["waypost_holds_open"])


async def test_a_storm_of_hang_ups_leaves_nothing_behind(database: str, tmp_path: Path) -> None:
    dice = random.Random(4)
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        await stack.adopt(catalogue(stack))
        await asyncio.gather(*(stack.chat({**ask(), "model": "stops"}) for _ in range(8)))

        async def leave_at_random() -> None:
            body = {
                **ask("sim: words=30 delay_ms=2 first_ms=5", stream=dice.random() < 0.5),
                "model": dice.choice(slugs),
            }
            reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.random() * 0.15):
                    await reader.read()
            # A close with unread bytes is a reset, one without is a FIN: both happen.
            writer.transport.abort() if dice.random() < 0.5 else writer.close()

        slugs = ("stops", "stops", "goes-on")
        gone = f"SELECT count(*) > 100 FROM execution WHERE outcome = {Outcome.DISCONNECTED:d}"
        for number in range(30):  # who leaves before a busy machine has read his request has not been there
            await asyncio.gather(*(leave_at_random() for _ in range(50)))
            if number >= 5 and await stack.rows(gone) == [(True,)]:
                break
        seen = await stack.at_rest()
        assert seen["waypost_upstream_open"] <= 64
        await eventually(lambda: has_only_idle_sockets(stack))
        rows = await stack.rows("SELECT outcome, count(*) FROM execution GROUP BY outcome")
        outcomes = {Outcome(outcome): count for outcome, count in rows}
        assert set(outcomes) == {Outcome.COMPLETED, Outcome.DISCONNECTED}
        assert outcomes[Outcome.DISCONNECTED] > 100
        assert len(await stack.settlements()) == sum(outcomes.values())
        (charged,) = (await stack.rows("SELECT sum(charge) FROM execution"))[0]
        balance = await stack.operator.balance(stack.org_id)
        assert balance.available_nanos == stack.credit_nanos - charged
        answers = await asyncio.gather(*(stack.chat({**ask(stream=True), "model": "stops"}) for _ in range(50)))
        assert {answer.events[-1] for answer in answers} == {"[DONE]"}


async def has_only_idle_sockets(stack: Stack) -> bool:
    """Whether the gateway has no connections but the idle ones to providers."""
    idle = (await stack.metrics())["waypost_upstream_idle"]
    connections = psutil.Process(stack.pid).net_connections("tcp")
    return bool(sum(connection.status != psutil.CONN_LISTEN for connection in connections) == idle)


async def test_a_reader_that_stalls_holds_up_its_provider_and_takes_no_memory(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        models = [model("swift-1", deployment("alpha"), max_output=LONG_TOKENS)]
        await stack.adopt({"providers": [provider(stack.sim, "alpha")], "models": models})
        process = psutil.Process(stack.pid)
        base = process.memory_info().rss
        body = ask(f"sim: words={LONG_TOKENS}", stream=True, max_tokens=LONG_TOKENS, logprobs=True, top_logprobs=20)
        connections = []
        for _ in range(3):
            reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            connections.append((reader, writer))
        await stack.sim.until(lambda: len(stack.sim.requests) == 3)
        await eventually(lambda: is_quiet(stack))
        assert process.memory_info().rss - base < 16 << 20
        assert not any(record.closed_s for record in stack.sim.requests), "the provider is held up"
        # One of them goes on reading and gets everything; the others leave.
        (reader, writer), *others = connections
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()
        for _, writer in others:
            writer.transport.abort()
        rows = await stack.executions(3)
        assert sorted(row["outcome"] for row in rows) == [Outcome.COMPLETED] + [Outcome.DISCONNECTED] * 2
        assert [row["output_tokens"] for row in rows if row["outcome"] == Outcome.COMPLETED] == [LONG_TOKENS]
        await stack.at_rest()


async def is_quiet(stack: Stack) -> bool:
    """Whether the simulated provider has stopped writing, because nobody reads."""
    before = stack.sim.bill.nanos
    await asyncio.sleep(0.1)
    return bool(before) and stack.sim.bill.nanos == before
