"""Every fault of a provider, at every phase, plain and streamed: mapped, booked, paid by the right side, left behind.

All cases run at once through one gateway; each has a model of its own, so that faults can be told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships without types

from tests.e2e.stack import Answer, Stack, ask, deployment, model, provider
from waypost.ledger.record import Outcome
from waypost.simulator import Simulator
from waypost.simulator.fault import BEFORE_CONNECT, KINDS

CANARY = "xyzzy-of-the-prompt"
AT_ONCE = 48
HOLD_NANOS_MAX = 90_000_000  # 8,192 tokens of output, and a short prompt
IMPATIENT = {"connect_s": 0.5, "first_byte_s": 1.0, "idle_s": 0.8, "stream_total_s": 2.0, "total_s": 1.0}
ATTEMPTS_MAX = 3
_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "usage": tuple(
        {"value": value} for value in ("missing", "null", "zero", "negative", "huge", "overflow", "text", "float")
    ),
    "encoding": ({"encoding": "br"}, {"encoding": "gzip"}),
    "wrong_content_length": ({"value": "short"}, {"value": "long"}),
    "nan": ({"value": "NaN"}, {"value": "-Infinity"}),
    "line_ends": tuple({"value": value} for value in ("mix", "crlf", "cr", "lf")),
    "status": tuple({"status": status} for status in (400, 401, 408, 429, 500, 502, 529)),
}
# A provider with these faults has still said everything, and said that it was everything.
_WHOLE = {
    *("continue_100", "many_headers", "usage", "duplicate_usage", "early_usage", "line_ends", "bom", "split_utf8"),
    *("byte_by_byte", "comment_flood", "no_done", "two_done", "event_after_done"),
}
_CODES = {
    "silence": "GENERATION_TIMEOUT",
    "slow": "GENERATION_TIMEOUT",
    "black_hole": "GENERATION_TIMEOUT",
} | dict.fromkeys(("echo_secret", "json_error_200"), "INPUT_VALIDATION_ERROR")
_STATUS_CODES = {
    400: "INPUT_VALIDATION_ERROR",
    401: "MODEL_UNAVAILABLE",
    408: "GENERATION_TIMEOUT",
    429: "MODEL_OVERLOADED",
    500: "GENERATION_FAILED",
    502: "MODEL_UNAVAILABLE",
    529: "MODEL_OVERLOADED",
}
_HTTP = {
    "INPUT_VALIDATION_ERROR": 400,
    "GENERATION_FAILED": 500,
    "MODEL_UNAVAILABLE": 503,
    "MODEL_OVERLOADED": 503,
    "GENERATION_TIMEOUT": 504,
}
_EARLY = (BEFORE_CONNECT, "after_request", "after_headers")


class Case(msgspec.Struct, frozen=True):
    kind: str
    phase: str
    is_stream: bool
    variant: dict[str, Any]

    @property
    def slug(self) -> str:
        variant = "-".join(str(value).strip("-") for value in self.variant.values())
        return "-".join(filter(None, (self.kind, self.phase, variant, "stream" if self.is_stream else "plain")))

    @property
    def is_whole(self) -> bool:
        """Whether the caller gets a success, because the provider earned it."""
        if self.kind in _WHOLE:
            return True
        if self.kind == "encoding":
            return self.variant == {"encoding": "br"}  # a label only
        if self.kind == "wrong_content_length":
            return self.is_stream and self.variant == {"value": "long"}  # cut off after [DONE]
        # The last of two equal keys counts, here an event without choices; and a usage event has no index to spoil.
        is_spared = self.kind == "overflow" and self.phase == "before_usage"
        return self.is_stream and (is_spared or self.kind == "duplicate_keys")

    @property
    def is_delivered(self) -> bool:
        """Whether content reaches the caller before it breaks off."""
        if self.kind == "wrong_content_length" or self.kind == "no_finish_reason":
            return self.is_stream
        return self.is_stream and self.phase not in _EARLY

    @property
    def codes(self) -> tuple[str, ...]:
        if self.kind == "status":
            return (_STATUS_CODES[self.variant["status"]],)
        if self.kind == "refuse":
            return ("MODEL_UNAVAILABLE",)
        if self.kind in ("reset", "half_close") and self.phase in (BEFORE_CONNECT, "after_request"):
            # On a kept connection nobody can tell whether the provider has seen the request.
            return ("GENERATION_FAILED", "MODEL_UNAVAILABLE")
        return (_CODES.get(self.kind, "GENERATION_FAILED"),)


def cases_of(phases: Any) -> list[Case]:
    return [
        Case(kind, phase, is_stream, variant)
        for kind, what in KINDS.items()
        for phase in what.phases
        for variant in _VARIANTS.get(kind, ({},))
        for is_stream in ((True,) if what.is_stream_only else (False, True))
        if phases(phase)
    ]


async def run_all(stack: Stack, cases: list[Case]) -> dict[str, Answer]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def run(case: Case) -> Answer:
        async with at_once:
            return await stack.chat({**ask(CANARY, stream=case.is_stream), "model": case.slug})

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
        assert answer.status == _HTTP[error["code"]]
    assert error["code"] in case.codes


def check_books(case: Case, row: dict[str, Any], settlements: list[dict[str, Any]]) -> None:
    """One row, one settlement for each attempt, and the right payer."""
    assert len(settlements) == row["attempts"] <= ATTEMPTS_MAX
    assert sum(settlement["charge"] for settlement in settlements) == row["charge"] <= HOLD_NANOS_MAX
    if case.is_whole:
        assert (row["outcome"], row["status"], row["attempts"]) == (Outcome.COMPLETED, 200, 1)
        assert bool(row["charge"]) == (case.variant != {"value": "zero"})
        return
    assert row["error_code"] in case.codes
    assert row["outcome"] == (Outcome.REJECTED if row["status"] == 400 else Outcome.FAILED)
    if case.is_delivered:
        assert (row["status"], row["attempts"]) == (200, 1), "nothing may be repeated after content"
        assert row["charge"] > 0
    else:
        assert row["charge"] == 0, "nothing was delivered"
        assert row["status"] == _HTTP[row["error_code"]]


async def check_all(stack: Stack, cases: list[Case], answers: dict[str, Answer]) -> None:
    rows = await stack.executions(len(cases))
    seen = await stack.at_rest()
    by_model = {row["model"]: row for row in rows}
    settlements = await stack.settlements()
    wrong = []
    for case in cases:
        row = by_model[case.slug]
        own = [settlement for settlement in settlements if settlement["execution_id"] == row["id"]]
        try:
            check_answer(case, answers[case.slug])
            check_books(case, row, own)
        except (AssertionError, KeyError, IndexError, ValueError) as error:
            wrong.append(f"{case.slug}: {error!r} {row} {answers[case.slug].body[-300:]!r}")
    assert not wrong, "\n".join(wrong)
    assert len(settlements) == sum(row["attempts"] for row in rows)
    assert Counter(row["model"] for row in rows).most_common(1)[0][1] == 1
    assert seen["waypost_upstream_open"] == seen["waypost_upstream_idle"]
    balance = await stack.operator.balance(stack.org_id)
    assert balance.held_nanos == 0
    charged = sum(row["charge"] for row in rows)
    assert balance.available_nanos == stack.credit_nanos - charged
    assert CANARY.encode() not in stack.log_text
    assert "BugCaught" not in {event["event"] for event in stack.log}


async def test_every_fault_of_a_provider_is_mapped_booked_and_left_behind(database: str, tmp_path: Path) -> None:
    cases = cases_of(lambda phase: phase != BEFORE_CONNECT)
    async with Stack(database, tmp_path, credit_usd=100) as stack:
        sim = stack.sim
        models = []
        for case in cases:
            sim.arm(case.kind, phase=case.phase, model=case.slug, count=0, **case.variant)
            owner = "impatient" if case.kind in ("silence", "slow") else "patient"
            models.append(model(case.slug, deployment(owner, case.slug)))
        providers = [provider(sim, "patient"), provider(sim, "impatient", timeouts=IMPATIENT)]
        await stack.adopt({"providers": providers, "models": models})
        answers = await run_all(stack, cases)
        await check_all(stack, cases, answers)
        await sim.until(lambda: all(record.closed_s for record in sim.requests))

        sim.disarm()
        assert (await stack.chat({**ask("And now?"), "model": cases[0].slug})).status == 200


async def test_a_provider_that_cannot_be_reached_is_mapped_and_booked(database: str, tmp_path: Path) -> None:
    cases = cases_of(lambda phase: phase == BEFORE_CONNECT)
    async with contextlib.AsyncExitStack() as exits:
        stack = await exits.enter_async_context(Stack(database, tmp_path, credit_usd=100))
        models, providers = [], []
        for case in cases:
            # Before a request is read nobody knows its model, so each case has a simulator of its own.
            sim = await exits.enter_async_context(Simulator())
            sim.arm(case.kind, phase=case.phase, count=0, **({"for_s": 600} if case.kind == "refuse" else {}))
            providers.append(provider(sim, case.slug, timeouts=IMPATIENT))
            models.append(model(case.slug, deployment(case.slug)))
        await stack.adopt({"providers": providers, "models": models})
        answers = await run_all(stack, cases)
        await check_all(stack, cases, answers)


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
