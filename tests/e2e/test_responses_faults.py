"""Faults of a provider of the openai-responses kind, to a caller of the same format: what he sees, and who pays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.e2e.fault_matrix import HTTP, Case, cases
from tests.e2e.stack import Answer, Stack, deployment, model, provider
from tests.e2e.test_faults import AT_ONCE, IMPATIENT, QUICK

_PHASES = ("after_request", "mid")  # not all of them, so that the test stays short
_ENDS = ("response.completed", "response.incomplete")


async def test_faults_end_in_an_answer_or_an_error_and_in_the_books(database: str, tmp_path: Path) -> None:
    tried = [case for case in cases() if case.phase in _PHASES]
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        kind = "openai-responses"
        models = []
        for case in tried:
            stack.sim.arm(case.kind, phase=case.phase, model=case.slug, count=0, **case.variant)
            owner = "impatient" if case.kind in ("silence", "slow") else "patient"
            models.append(model(case.slug, deployment(owner, case.slug)))
        providers = [
            provider(stack.sim, "patient", kind=kind, breaker=QUICK),
            provider(stack.sim, "impatient", kind=kind, breaker=QUICK, timeouts=IMPATIENT),
            provider(stack.sim, "along", "gamma"),
        ]
        models.append(model("along", deployment("along", "along")))
        stack.sim.arm("usage", value="overflow", model="along", count=0)
        await stack.adopt({"providers": providers, "models": models})
        counting = asyncio.ensure_future(count_absurdly(stack))
        answers = await ask_all(stack, tried)
        assert (await counting).status == 200
        rows = {row["model"]: row for row in await stack.executions(len(tried) + 1)}
        found = [(case.slug, mistake_in(case, answers[case.slug], rows[case.slug])) for case in tried]
        assert not [each for each in found if each[1]]
        await stack.at_rest()
        balance = await stack.operator.balance(stack.org_id)
        charged = sum(row["charge"] for row in rows.values())
        assert (balance.held_nanos, balance.available_nanos) == (0, stack.credit_nanos - charged)
        assert not [event["where"] for event in stack.log if event["event"] == "BugCaught"]


async def count_absurdly(stack: Stack) -> Answer:
    """From a provider that counts along with what cannot be, for long enough that it would be written down."""
    words = "sim: words=8 delay_ms=300"
    return await stack.chat({"model": "along", "messages": [{"role": "user", "content": words}], "stream": True})


async def ask_all(stack: Stack, tried: list[Case]) -> dict[str, Answer]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def ask(case: Case) -> Answer:
        async with at_once:
            body = {"model": case.slug, "input": "Say something.", "stream": case.is_stream}
            return await stack.request("POST", "/v1/responses", body)

    return dict(zip([case.slug for case in tried], await asyncio.gather(*map(ask, tried)), strict=True))


def is_whole(case: Case) -> bool:
    """An event that nobody knows says nothing; a count that is no number
    leaves the answer whole, and we count."""
    if case.is_stream and case.kind in ("overflow", "wrong_types"):
        return True
    return case.is_whole or case.kind == "overflow"


def mistake_in(case: Case, answer: Answer, row: dict[str, Any]) -> str:
    """What is wrong with how it ended, "" for nothing."""
    events = [json.loads(event) for event in answer.events] if answer.events else []
    has_ended = any(event["type"] in _ENDS for event in events) or (not events and "output" in answer.json)
    if is_whole(case):
        return "" if answer.status == 200 and has_ended else f"not whole: {row} {answer.body[-200:]!r}"
    if has_ended:
        return f"an invented success: {row}"
    error = events[-1]["error"] if events else answer.json["error"]
    if error["code"] not in case.codes:
        return f"{error['code']} instead of {case.codes}"
    if answer.status != (200 if events else HTTP[error["code"]]):
        return f"status {answer.status}"
    if bool(row["charge"]) != (case.payer != "nobody"):
        return f"paid {row['charge']}, by {case.payer}"
    return ""
