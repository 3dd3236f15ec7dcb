"""Provider bills against the books, with providers of every kind: each answer's name is on both sides."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.e2e.stack import COST, Stack, ask, deployment, model, provider
from waypost.ledger.record import answer_digest

KINDS = {"alpha": "openai", "beta": "openai", "gamma": "openai-responses", "delta": "anthropic", "zeta": "gemini"}


async def test_every_answer_is_found_on_its_providers_bill(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        sim = stack.sim
        sim.set_prices({f"up-{style}": COST for style in KINDS})
        providers = [provider(sim, style, style, kind=kind) for style, kind in KINDS.items()]
        models = [model(f"of-{style}", deployment(style, f"up-{style}")) for style in KINDS]
        await stack.adopt({"providers": providers, "models": models})
        bodies = [
            ask("Say it\nsim: words=4", model=f"of-{style}", stream=stream)
            for style in KINDS
            for stream in (False, True)
        ]
        answers = await asyncio.gather(*(stack.chat({**body, "max_tokens": 64}) for body in bodies))
        assert {answer.status for answer in answers} == {200}
        await stack.at_rest()

        named = {row[0].bytes for row in await stack.rows("SELECT answer FROM settlement") if row[0] is not None}
        assert named == {answer_digest(line.id) for line in sim.bill.lines}
        for style in KINDS:
            data = json.dumps(sim.bill.report(has_lines=True, style=style)).encode()
            found = await stack.operator.reconcile(style, data)
            (group,) = found.groups
            assert (group.lines, group.attempts, found.corrected_nanos, group.is_alarming) == (2, 2, 0, False), style
        assert (await stack.operator.check_ledger()).violations == ()
