"""A provider that takes calls and never answers fills its own places, and nobody else feels it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.inside import InsideStack
from tests.e2e.stack import Answer, ask, deployment, eventually, model, provider
from waypost.ledger.record import Outcome
from waypost.simulator import Simulator

PLACES, QUEUE = 20, 5


def catalogue(stack: InsideStack, hole: Simulator) -> dict[str, Any]:
    narrow = {"in_flight": PLACES, "queue": QUEUE, "wait_s": 0.1}
    return {
        "providers": [
            provider(hole, "hole", bulkhead=narrow, timeouts={"total_s": 60}),
            provider(stack.sim, "well", "beta"),
            provider(stack.sim, "narrow", "gamma", bulkhead={"in_flight": 1, "queue": 50, "wait_s": 30}),
        ],
        "models": [
            model("lost", deployment("hole")),
            model("well", deployment("well")),
            model("both", deployment("hole"), deployment("well", "spare")),
            model("narrow", deployment("narrow", "narrow")),
        ],
    }


async def test_a_black_hole_fills_its_own_places_alone(database: str, tmp_path: Path) -> None:
    async with Simulator() as hole, InsideStack(database, tmp_path, credit_usd=100) as stack:
        hole.arm("black_hole", count=0)
        await stack.adopt(catalogue(stack, hole))
        alone_s = await ask_well(stack)
        swallowed = await swallow(stack)
        places = stack.gateway.fleet.gates()["hole"].places
        assert (places.in_flight, places.waiting) == (PLACES, 0)

        beside_s = await ask_well(stack)
        print(f"p99 of the others: {alone_s * 1e3:.1f} ms alone, {beside_s * 1e3:.1f} ms beside a black hole")
        await check_what_the_others_get(stack)
        assert stack.gateway.fleet.gates()["well"].places.in_flight == 0

        await leave_all(stack, swallowed)
        assert places.in_flight == 0
        hole.disarm()
        assert (await stack.chat({**ask(), "model": "lost"})).status == 200
        await check_places_go_to_who_waited(stack)


async def swallow(stack: InsideStack) -> list[asyncio.StreamWriter]:
    """Take every place at the hole."""
    writers = []
    for _ in range(PLACES):
        _, writer = await stack.connect("POST", "/v1/chat/completions", {**ask(), "model": "lost"})
        writers.append(writer)

    async def are_taken() -> bool:
        return stack.gateway.fleet.gates()["hole"].places.in_flight == PLACES

    await eventually(are_taken)
    return writers


async def ask_well(stack: InsideStack, requests: int = 200) -> float:
    """The 99th percentile of how long the others wait, in seconds; told, and not asserted."""
    waits_s = []

    async def one() -> None:
        for _ in range(requests // 8):
            began_s = time.monotonic()
            assert (await stack.chat({**ask(), "model": "well"})).status == 200
            waits_s.append(time.monotonic() - began_s)

    await asyncio.gather(*(one() for _ in range(8)))
    return sorted(waits_s)[int(len(waits_s) * 0.99)]


async def check_what_the_others_get(stack: InsideStack) -> None:
    """Those after them wait for a place for a while, or not at all; who has another route gets its answer there."""
    answers: list[Answer] = await asyncio.gather(
        *(stack.chat({**ask(), "model": "lost"}) for _ in range(QUEUE + 10)),
        *(stack.chat({**ask(stream=at % 2 == 0), "model": "both"}) for at in range(10)),
    )
    refused, answered = answers[: QUEUE + 10], answers[QUEUE + 10 :]
    assert {(answer.status, answer.json["error"]["code"]) for answer in refused} == {(503, "MODEL_OVERLOADED")}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.status for answer in answered} == {200}
    assert stack.gateway.gateway.allowances.under_way == PLACES, "who was refused counts no more"
    metrics = await stack.metrics()
    assert metrics['waypost_bulkhead_refused_total{provider="hole"}'] >= QUEUE + 10 + 10
    assert metrics["waypost_holds_open"] == PLACES
    assert metrics['waypost_bulkhead_in_flight{provider="hole"}'] == PLACES


async def leave_all(stack: InsideStack, writers: list[asyncio.StreamWriter]) -> None:
    # One more waits for a place when its caller leaves: nothing is booked for him, and nothing held.
    _, queued = await stack.connect("POST", "/v1/chat/completions", {**ask(), "model": "lost"})
    await asyncio.sleep(0.02)
    for writer in (queued, *writers):
        writer.transport.abort()
    await stack.at_rest()
    rows = await stack.rows("SELECT outcome, count(*) FROM execution WHERE model = 'lost' GROUP BY outcome")
    assert rows == [(Outcome.DISCONNECTED, PLACES)]


async def check_places_go_to_who_waited(stack: InsideStack) -> None:
    waiting = ask("Wait\nsim: first_ms=20")
    tasks = [asyncio.ensure_future(stack.chat({**waiting, "model": "narrow"})) for _ in range(12)]
    _, leaver = await stack.connect("POST", "/v1/chat/completions", {**waiting, "model": "narrow"})
    await asyncio.sleep(0.05)
    leaver.transport.abort()
    assert {answer.status for answer in await asyncio.gather(*tasks)} == {200}
    # Where the one who left had a place, the next one may be seen before his end is.
    spans = sorted(
        (each.arrived_s, each.closed_s)
        for each in stack.sim.requests
        if each.model == "narrow" and not each.is_closed_early
    )
    assert all(ended_s <= began_s for (_, ended_s), (began_s, _) in pairwise(spans)), "one at a time"
    with contextlib.suppress(OSError):
        await leaver.wait_closed()
    await stack.at_rest()
    assert stack.gateway.fleet.gates()["narrow"].places.in_flight == 0
