"""Who may answer, as a caller says it: classes and not names, and a refusal that tells which constraint left nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.stack import COST, Answer, Stack, ask, deployment, model, provider

DEAR = {"input": "20", "output": "80"}


def document(stack: Stack) -> dict[str, Any]:
    sim = stack.sim
    providers = [
        provider(sim, "one", "alpha", region="US", training=False, retention_days=30),
        provider(sim, "two", "beta", region="EU", training=False, retention_days=0),
        provider(sim, "three", "gamma"),
    ]
    routes = [
        deployment("one", "up-one", priority=1),
        deployment("two", "up-two", priority=2),
        deployment("three", "up-three", priority=3),
    ]
    models = [
        model("swift-1", *routes),
        model("broken", deployment("one", "up-broken")),
        model("dear", deployment("two", "up-dear"), price=DEAR),
    ]
    return {"providers": providers, "models": models}


async def test_constraints_and_orders_decide_who_answers(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack))
        stack.sim.set_prices(dict.fromkeys(("up-one", "up-two", "up-three", "up-dear"), COST))

        async def answering(**provider_field: Any) -> str:
            before = len(stack.sim.requests)
            answer = await stack.chat({**ask("hi"), "model": "swift-1", "provider": provider_field})
            assert answer.status == 200, answer.body
            assert answer.json["model"] == "swift-1"
            (record,) = list(stack.sim.requests)[before:]
            return str(record.model)

        assert await answering() == "up-one"
        assert await answering(region="EU") == "up-two"
        assert await answering(zdr=True) == "up-two"
        assert await answering(data_collection="deny", ignore=["region:US"]) == "up-two"
        assert await answering(order=["zdr", "region:US"]) == "up-two"
        assert await answering(only=["region:EU"], allow_fallbacks=False) == "up-two"
        # The third was never measured, so it is tried.
        assert await answering(sort="throughput") == "up-three"


async def test_constraints_that_leave_nobody_are_counted_and_name_nobody(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack))

        async def refused(**provider_field: Any) -> Answer:
            answer = await stack.chat({**ask("hi"), "model": "swift-1", "provider": provider_field})
            assert answer.status == 409, answer.body
            assert answer.json["error"]["code"] == "NO_ELIGIBLE_ROUTE"
            assert answer.headers["x-should-retry"] == "false"
            assert not any(name in answer.body for name in (b"one", b"two", b"three", b"alpha")), answer.body
            return answer

        assert (await refused(region="JP")).json["error"]["excluded_by"] == {"region": 3}
        mixed = await refused(zdr=True, ignore=["region:EU"])
        assert mixed.json["error"]["excluded_by"] == {"zdr": 2, "ignore": 1}
        assert (await refused(max_price={"prompt": "0.01"})).json["error"]["excluded_by"] == {"max_price": 3}
        assert not stack.sim.requests


async def test_a_model_to_fall_back_to_answers_under_its_own_name_and_price(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack))
        stack.sim.set_prices({"up-dear": COST})
        stack.sim.arm(model="up-broken", kind="status", status=500, count=0)
        body = {**ask("hi"), "model": "broken", "models": ["broken", "dear"]}

        plain = await stack.chat(body)
        streamed = await stack.chat({**body, "stream": True})

        assert (plain.status, plain.json["model"]) == (200, "dear")
        assert {chunk["model"] for chunk in streamed.chunks} == {"dear"}
        rows = await stack.executions(2)
        assert [(row["model"], row["attempts"]) for row in rows] == [("dear", 2), ("dear", 2)]
        usage = plain.json["usage"]
        nanos = -(-(usage["prompt_tokens"] * 20_000 + usage["completion_tokens"] * 80_000) // 1)
        assert rows[0]["charge"] == nanos


async def test_what_only_one_kind_can_be_given_goes_to_that_kind_or_is_refused_by_name(
    database: str, tmp_path: Path
) -> None:
    async with Stack(database, tmp_path) as stack:
        sim = stack.sim
        both = [deployment("anthropic"), deployment("openai")]
        await stack.adopt(
            {
                "providers": [provider(sim, "anthropic", "delta", kind="anthropic"), provider(sim, "openai", "alpha")],
                "models": [model("swift-1", *both), model("one-kind", both[0])],
            }
        )
        body = ask("hi", reasoning_effort="default")
        for fields in ({}, {"provider": {"data_collection": "allow"}}, {"provider": {"require_parameters": False}}):
            assert (await stack.chat({**body, **fields})).status == 200
            refused = await stack.chat({**body, **fields, "model": "one-kind"})
            assert (refused.status, refused.json["error"]["param"]) == (400, "reasoning_effort"), refused.body
        assert len(sim.requests) == 3
        await stack.at_rest()
