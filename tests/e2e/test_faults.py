"""Every fault of a provider, at every phase, plain and streamed: mapped, booked, paid by the right side, left behind.

All cases run at once through one gateway; each has a model of its own, so that faults can be told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships without types

from tests.e2e.fault_matrix import HTTP, PAGE, Case, cases, render
from tests.e2e.fault_places import bad_places
from tests.e2e.stack import Answer, Stack, ask, deployment, model, provider
from waypost.ledger.record import Outcome
from waypost.simulator import Simulator
from waypost.simulator.fault import BEFORE_CONNECT

CANARY = "xyzzy-of-the-prompt"
AT_ONCE = 48
HOLD_NANOS_MAX = 90_000_000  # 8,192 tokens of output, and a short prompt
IMPATIENT = {"connect_s": 0.5, "first_byte_s": 1.0, "idle_s": 0.8, "stream_total_s": 2.0, "total_s": 1.0}
QUICK = {"consecutive": 1, "open_s": 600}  # so that one failure shows


async def run_all(stack: Stack, cases: list[Case]) -> dict[str, Answer]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def run(case: Case) -> Answer:
        async with at_once:
            body = {**ask(CANARY, stream=case.is_stream), "model": case.slug}
            return await stack.chat(body)

    return dict(zip([case.slug for case in cases], await asyncio.gather(*map(run, cases)), strict=True))


def check_answer(case: Case, answer: Answer) -> None:
    """What the caller sees: a whole answer, an error, or an error after content."""
    if case.is_whole:
        assert answer.status == 200, answer.body
        assert answer.text
        assert (answer.events[-1] == "[DONE]") if case.is_stream else answer.json["choices"][0]["finish_reason"]
        return
    assert b"[DONE]" not in answer.body, "an invented success"
    if case.is_delivered:
        assert answer.status == 200
        assert answer.text
        error = answer.chunks[-1]["error"]
        assert not any(choice["finish_reason"] for chunk in answer.chunks[:-1] for choice in chunk["choices"])
    else:
        error = answer.json["error"]
        assert answer.status == HTTP[error["code"]]
    assert error["code"] in case.codes


def check_books(case: Case, row: dict[str, Any], settlements: list[dict[str, Any]]) -> None:
    """One row, one settlement for each attempt, and the right payer."""
    assert len(settlements) == row["attempts"]
    assert sum(settlement["charge"] for settlement in settlements) == row["charge"] <= HOLD_NANOS_MAX
    assert bool(row["charge"]) == (case.payer != "nobody")
    if case.is_whole:
        assert (row["outcome"], row["status"], row["attempts"]) == (Outcome.COMPLETED, 200, 1)
        return
    assert row["error_code"] in case.codes
    assert row["outcome"] == (Outcome.REJECTED if row["status"] == 400 else Outcome.FAILED)
    assert row["status"] == (200 if case.is_delivered else HTTP[row["error_code"]])
    if case.is_delivered or case.circuit == "failure":
        assert row["attempts"] == 1, "nothing may be repeated after content, and nothing where the circuit has opened"


def check_circuit(case: Case, provider_id: str, seen: dict[str, float]) -> None:
    """What the next request would meet."""
    labels = f'{{deployment="{provider_id}/{case.slug}",provider="{provider_id}"}}'
    has_opened = seen.get(f"waypost_circuits_opened_total{labels}", 0) > 0
    has_rested = seen.get(f"waypost_credentials_rested_total{labels}", 0) > 0
    assert (has_opened, has_rested) == (case.circuit == "failure", case.circuit == "credential rests")


async def check_all(stack: Stack, expected: dict[str, tuple[Case, str]], answers: dict[str, Answer]) -> None:
    """`expected`: slug → the case, and its provider."""
    rows = await stack.executions(len(expected))
    seen = await stack.at_rest()
    by_model = {row["model"]: row for row in rows}
    settlements = await stack.settlements()
    wrong = []
    for case, provider_id in expected.values():
        row = by_model[case.slug]
        own = [settlement for settlement in settlements if settlement["execution_id"] == row["id"]]
        try:
            check_answer(case, answers[case.slug])
            check_books(case, row, own)
            check_circuit(case, provider_id, seen)
        except (AssertionError, KeyError, IndexError, ValueError) as error:
            wrong.append(f"{case.slug}: {error!r} {row} {answers[case.slug].body[-300:]!r}")
    assert not wrong, "\n".join(wrong)
    assert len(settlements) == sum(row["attempts"] for row in rows)
    assert seen["waypost_upstream_open"] == seen["waypost_upstream_idle"]
    balance = await stack.operator.balance(stack.org_id)
    assert balance.held_nanos == 0
    charged = sum(row["charge"] for row in rows)
    assert balance.available_nanos == stack.credit_nanos - charged
    assert CANARY.encode() not in stack.log_text
    bugs = [event["where"] for event in stack.log if event["event"] == "BugCaught"]
    assert not bugs, bugs


async def test_every_fault_of_a_provider_is_mapped_booked_and_left_behind(database: str, tmp_path: Path) -> None:
    expected = {}
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        sim = stack.sim
        models = []
        for case in cases():
            if case.phase == BEFORE_CONNECT:
                continue
            sim.arm(case.kind, phase=case.phase, model=case.slug, count=0, **case.variant)
            owner = "impatient" if case.kind in ("silence", "slow") else "patient"
            models.append(model(case.slug, deployment(owner, case.slug)))
            expected[case.slug] = (case, owner)
        providers = [
            provider(sim, "patient", breaker=QUICK),
            provider(sim, "impatient", breaker=QUICK, timeouts=IMPATIENT),
        ]
        await stack.adopt({"providers": providers, "models": [*models, model("well", deployment("patient", "well"))]})
        answers = await run_all(stack, [case for case, _ in expected.values()])
        await check_all(stack, expected, answers)
        await sim.until(lambda: all(record.closed_s for record in sim.requests))

        sim.disarm()
        assert (await stack.chat({**ask("And now?"), "model": "well"})).status == 200


async def test_a_provider_that_cannot_be_reached_is_mapped_and_booked(database: str, tmp_path: Path) -> None:
    config, authority = tmp_path / "waypost.toml", tmp_path / "authority.pem"
    config.write_text(f'[egress]\nca_bundle = "{authority}"\n')
    expected = {}
    async with contextlib.AsyncExitStack() as exits:
        urls = await exits.enter_async_context(bad_places(authority))
        environment = {"WAYPOST_CONFIG": str(config)}
        stack = await exits.enter_async_context(Stack(database, tmp_path, credit_usd=100, environment=environment))
        models, providers = [], []
        for case in cases():
            if case.phase != BEFORE_CONNECT:
                continue
            # Before a request is read nobody knows its model, so each case has a simulator of its own.
            sim = await exits.enter_async_context(Simulator())
            table = provider(sim, case.slug, timeouts=IMPATIENT, breaker=QUICK)
            if case.kind in urls:
                table["base_url"] = urls[case.kind]
            else:
                sim.arm(case.kind, phase=case.phase, count=0, **({"for_s": 600} if case.kind == "refuse" else {}))
            providers.append(table)
            models.append(model(case.slug, deployment(case.slug, case.slug)))
            expected[case.slug] = (case, case.slug)
        await stack.adopt({"providers": providers, "models": models})
        answers = await run_all(stack, [case for case, _ in expected.values()])
        await check_all(stack, expected, answers)


def test_the_page_of_faults_is_the_table_that_is_tested() -> None:
    assert PAGE.read_text() == render(), "write it anew: ./run python -m tests.e2e.fault_matrix"


async def test_an_answer_without_end_or_of_any_size_takes_no_memory(database: str, tmp_path: Path) -> None:
    bombs: dict[str, dict[str, Any]] = {
        "bomb": {"kind": "bomb", "bytes": 24 << 20},
        "line": {"kind": "endless_line", "phase": "after_headers", "bytes": 24 << 20},
        "line-late": {"kind": "endless_line", "bytes": 24 << 20},
        "comments": {"kind": "comment_flood", "phase": "mid", "count_of": 1_000_000},
        "header": {"kind": "gigantic_header", "bytes": 16 << 20},
        "headers": {"kind": "many_headers", "count_of": 50_000},
        "interim": {"kind": "continue_100", "count_of": 50_000},
        "deep": {"kind": "deep_json", "depth": 200_000},
    }
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        for name, fault in bombs.items():
            stack.sim.arm(model=name, count=0, **fault)
        stack.sim.arm("usage", value="missing", model="warm", count=0)  # so that what counts tokens is in memory
        models = [model(name, deployment("alpha", name)) for name in ("warm", *bombs)]
        await stack.adopt({"providers": [provider(stack.sim, "alpha")], "models": models})
        await asyncio.gather(*(stack.chat({**ask(stream=at % 2 == 0), "model": "warm"}) for at in range(64)))
        process = psutil.Process(stack.pid)
        base, peak = process.memory_info().rss, 0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, process.memory_info().rss)
                await asyncio.sleep(0.01)

        watching = asyncio.ensure_future(watch())
        for is_stream in (False, True):
            await asyncio.gather(*(stack.chat({**ask(stream=is_stream), "model": name}) for name in bombs))
        watching.cancel()
        await stack.at_rest()
        assert peak - base < 16 << 20, f"{(peak - base) >> 20} MiB"
