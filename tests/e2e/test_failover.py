"""A provider that fails before its first word is followed by the next one, and the caller sees one clean answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import COST, Answer, Stack, ask, deployment, model, provider
from waypost.ledger.record import Outcome
from waypost.policy.document import CatalogueError
from waypost.simulator import Simulator

IMPATIENT = {"connect_s": 0.5, "first_byte_s": 0.3, "idle_s": 0.3, "stream_total_s": 1.0, "total_s": 0.5}
EARLY: dict[str, dict[str, Any]] = {
    **{f"status-{status}": {"kind": "status", "status": status} for status in (401, 402, 403, 404, 408, 429)},
    **{f"status-{status}": {"kind": "status", "status": status} for status in (500, 502, 503, 504, 529)},
    "rested": {"kind": "status", "status": 429, "retry_after": "30"},
    "redirect": {"kind": "redirect"},
    "reset": {"kind": "reset"},
    "reset-after-head": {"kind": "reset", "phase": "after_headers"},
    "closed": {"kind": "half_close"},
    "silence": {"kind": "silence"},
    "silence-after-head": {"kind": "silence", "phase": "after_headers"},
    "empty": {"kind": "empty_200"},
    "page": {"kind": "html_200"},
    "error-in-200": {"kind": "json_error_200", "type": "server_error", "code": "overloaded"},
    "huge-header": {"kind": "gigantic_header"},
    "bomb": {"kind": "bomb", "bytes": 1 << 20},
    "half-json": {"kind": "truncated_json", "phase": "after_headers"},
    "wrong-types": {"kind": "wrong_types", "phase": "after_headers"},
    "bad-chunk": {"kind": "bad_chunk_size", "phase": "after_headers"},
}
EARLY_STREAMED: dict[str, dict[str, Any]] = {
    "error-event-first": {"kind": "error_event", "phase": "after_headers"},
    "garbage-first": {"kind": "garbage_event", "phase": "after_headers"},
    "endless-line-first": {"kind": "endless_line", "phase": "after_headers"},
}
# A plain answer is relayed whole or not at all, so a later fault is still before the first word.
EARLY_PLAIN: dict[str, dict[str, Any]] = {
    "reset-mid": {"kind": "reset", "phase": "mid"},
    "cut-mid": {"kind": "truncated_chunk", "phase": "mid"},
    "silence-mid": {"kind": "silence", "phase": "mid"},
    "half-json-mid": {"kind": "truncated_json", "phase": "mid"},
    "unfinished": {"kind": "no_finish_reason"},
}


def providers(sim: Simulator) -> list[dict[str, Any]]:
    return [
        provider(sim, "first", "alpha", timeouts=IMPATIENT),
        provider(sim, "second", "beta"),
        provider(sim, "third", "gamma"),
    ]


def asked(stack: Stack, upstream_model: str) -> int:
    """How often the simulator was asked for it."""
    return sum(record.model == upstream_model for record in stack.sim.requests)


async def settlements_of(stack: Stack, slug: str) -> list[dict[str, Any]]:
    """The settlements of the one execution of a model, by attempt."""
    (row,) = [row for row in await stack.rows("SELECT id, model FROM execution") if row[1] == slug]
    return [each for each in await stack.settlements() if each["execution_id"] == row[0]]


async def test_the_next_provider_answers_and_only_it_is_paid_by_the_caller(database: str, tmp_path: Path) -> None:
    cases = [(name, False) for name in EARLY | EARLY_PLAIN] + [(name, True) for name in EARLY | EARLY_STREAMED]
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        models = []
        for name, is_stream in cases:
            slug = f"{name}-{'stream' if is_stream else 'plain'}"
            stack.sim.arm(model=f"bad-{slug}", count=0, **(EARLY | EARLY_PLAIN | EARLY_STREAMED)[name])
            models.append(model(slug, deployment("first", f"bad-{slug}"), deployment("second", f"good-{slug}")))
        slugs = [each["slug"] for each in models]
        await stack.adopt({"providers": providers(stack.sim), "models": models})
        stack.sim.set_prices({f"good-{slug}": COST for slug in slugs})

        bodies = [{**ask(stream=is_stream), "model": slug} for slug, (_, is_stream) in zip(slugs, cases, strict=True)]
        answers = dict(zip(slugs, await asyncio.gather(*map(stack.chat, bodies)), strict=True))

        rows = {row["model"]: row for row in await stack.executions(len(cases))}
        await stack.at_rest()
        settlements = await stack.settlements()
        for slug, (_, is_stream) in zip(slugs, cases, strict=True):
            check_clean(slug, answers[slug], is_stream=is_stream)
            row = rows[slug]
            assert (row["outcome"], row["status"], row["attempts"]) == (Outcome.COMPLETED, 200, 2), slug
            failed, won = [each for each in settlements if each["execution_id"] == row["id"]]
            assert (failed["provider"], failed["charge"]) == ("first", 0), slug
            assert (won["provider"], won["charge"]) == ("second", row["charge"]), slug
            assert won["charge"] > 0, slug
            assert (asked(stack, f"bad-{slug}"), asked(stack, f"good-{slug}")) == (1, 1), slug
        won_nanos = sum(each["cogs"] for each in settlements if each["provider"] == "second")
        assert won_nanos == stack.sim.bill.nanos, "the winner's cost is what it bills"


def check_clean(slug: str, answer: Answer, *, is_stream: bool) -> None:
    assert answer.status == 200, slug
    assert answer.text, slug
    assert b'"error"' not in answer.body, slug
    assert not is_stream or answer.events[-1] == "[DONE]", slug


async def test_who_is_tried_how_often_and_in_which_order(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        sim = stack.sim
        refusals = {status: f"refused-{status}" for status in (400, 413, 422)}
        ours = {status: f"ours-{status}" for status in (401, 402, 403, 404)}
        models = [
            model("all-bad", *(deployment("second", f"bad-{at}") for at in range(5))),
            *(model(slug, deployment("first", f"bad-{slug}"), deployment("second")) for slug in refusals.values()),
            *(model(slug, deployment("first", f"bad-{slug}")) for slug in ours.values()),
            model("late", deployment("first", "bad-late"), deployment("second", "spare-late")),
            model("late-event", deployment("first", "bad-late-event"), deployment("second", "spare-late-event")),
            model("soon", deployment("second", "bad-soon")),
            model("much-later", deployment("second", "bad-much-later")),
            model("resting", deployment("second", "bad-resting"), deployment("third", "good-resting")),
            model(
                "shared",
                deployment("second", "heavy", priority=1, weight=3),
                deployment("second", "light", priority=1, weight=1),
                deployment("second", "spare", priority=2, weight=100),
            ),
            model(
                "half-broken",
                deployment("second", "broken", priority=1),
                deployment("third", "working", priority=1),
                deployment("third", "unneeded", priority=2),
            ),
        ]
        await stack.adopt({"providers": providers(sim), "models": models})
        for at in range(5):
            sim.arm("status", model=f"bad-{at}", count=0, status=500)
        for status, slug in (refusals | ours).items():
            sim.arm("status", model=f"bad-{slug}", count=0, status=status)
        sim.arm("reset", phase="mid", model="bad-late", count=0)
        sim.arm("error_event", phase="mid", model="bad-late-event", count=0)
        sim.arm("status", model="bad-soon", status=429, retry_after_ms="200")
        sim.arm("status", model="bad-much-later", status=503, retry_after="30")
        sim.arm("status", model="bad-resting", status=429, retry_after="60")
        sim.arm("status", model="broken", count=0, status=502)

        await check_at_most_three_attempts(stack)
        for status, slug in refusals.items():
            await check_a_refused_request_is_not_offered_to_another(stack, slug, status)
        for status, slug in ours.items():
            await check_our_own_fault_is_an_alarm(stack, slug, status)
        for slug in ("late", "late-event"):
            await check_after_content_there_is_no_failover(stack, slug)
        await check_retry_after(stack)
        await check_priorities_and_weights(stack)


async def check_at_most_three_attempts(stack: Stack) -> None:
    answer = await stack.chat({**ask(), "model": "all-bad"})
    assert (answer.status, answer.json["error"]["code"]) == (500, "GENERATION_FAILED")
    assert [asked(stack, f"bad-{at}") for at in range(5)] == [1, 1, 1, 0, 0]


async def check_a_refused_request_is_not_offered_to_another(stack: Stack, slug: str, status: int) -> None:
    before = len(stack.sim.requests)
    answer = await stack.chat({**ask(), "model": slug})
    assert (answer.status, answer.json["error"]["code"]) == (400, "INPUT_VALIDATION_ERROR"), status
    assert answer.headers["x-should-retry"] == "false"
    assert len(stack.sim.requests) == before + 1


async def check_our_own_fault_is_an_alarm(stack: Stack, slug: str, status: int) -> None:
    answer = await stack.chat({**ask(), "model": slug})
    assert (answer.status, answer.json["error"]["code"]) == (503, "MODEL_UNAVAILABLE"), status
    assert asked(stack, f"bad-{slug}") == 1, "the same again would be refused again"
    alarms = [event for event in stack.log if event.get("deployment") == f"first/bad-{slug}"]
    refused = "model name" if status == 404 else "credential"
    assert [(alarm["event"], alarm["level"], alarm["refused"]) for alarm in alarms] == [
        ("RefusedByProvider", "error", refused)
    ]


async def check_after_content_there_is_no_failover(stack: Stack, slug: str) -> None:
    answer = await stack.chat({**ask("Say this", stream=True), "model": slug})
    assert answer.status == 200
    assert answer.text
    assert "error" in answer.chunks[-1]
    assert "[DONE]" not in answer.events
    assert asked(stack, f"spare-{slug}") == 0
    await stack.at_rest()
    (settlement,) = await settlements_of(stack, slug)
    received_nanos = len(answer.text.encode()) // 4 * 10_000
    assert settlement["charge"] > received_nanos, "input and what was received"


async def check_retry_after(stack: Stack) -> None:
    assert (await stack.chat({**ask(), "model": "soon"})).status == 200
    first, second = [record for record in stack.sim.requests if record.model == "bad-soon"]
    assert second.arrived_s - first.closed_s >= 0.2, "it was waited for"

    answer = await stack.chat({**ask(), "model": "much-later"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "MODEL_OVERLOADED")
    assert answer.headers["retry-after"] == "30"
    assert asked(stack, "bad-much-later") == 1

    for _ in range(3):
        assert (await stack.chat({**ask(), "model": "resting"})).status == 200
    assert asked(stack, "bad-resting") == 1, "who said 'in a minute' is asked last for a minute"
    assert asked(stack, "good-resting") == 3


async def check_priorities_and_weights(stack: Stack) -> None:
    answers = await asyncio.gather(*(stack.chat({**ask(), "model": "shared"}) for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    seen = Counter(record.model for record in stack.sim.requests)
    assert seen["spare"] == 0
    assert seen["heavy"] + seen["light"] == 200
    # Three quarters of 200, give or take five standard deviations.
    assert 119 <= seen["heavy"] <= 181

    answers = await asyncio.gather(*(stack.chat({**ask(), "model": "half-broken"}) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert asked(stack, "working") == 20
    assert asked(stack, "unneeded") == 0


async def test_what_has_no_price_is_refused_and_the_last_catalogue_serves_on(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        unpriced = {key: value for key, value in deployment("first").items() if key != "cost"}
        free = {key: value for key, value in model("free", deployment("first")).items() if key != "price"}
        for bad in (model("swift-1", unpriced), free):
            with pytest.raises(CatalogueError):
                await stack.apply({"providers": providers(stack.sim), "models": [bad]})
        assert (await stack.chat({**ask(), "model": "free"})).status == 404
        assert (await stack.chat(ask())).status == 200
