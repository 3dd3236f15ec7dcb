"""Providers that fail, refuse or fall silent: they are left alone in time, and nobody else feels it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.e2e.inside import InsideStack
from tests.e2e.stack import Answer, Stack, ask, deployment, model, provider
from waypost.app.doctor import ask_gateways
from waypost.app.finding import Verdict
from waypost.policy.circuit import Circuit, Phase

TWO_KEYS = ["env:TEST_PROVIDER_KEY", "env:TEST_SECOND_KEY"]
SECOND_KEY = {"TEST_SECOND_KEY": "pk-second"}


def sent(stack: Stack, upstream_model: str) -> int:
    """How often the simulator was asked for it."""
    return sum(record.model == upstream_model for record in stack.sim.requests)


async def call(stack: Stack, slug: str, times: int = 1, **fields: Any) -> list[Answer]:
    """One after the other."""
    return [await stack.chat({**ask(**fields), "model": slug}) for _ in range(times)]


def codes(answers: list[Answer]) -> set[tuple[int, str]]:
    return {(answer.status, answer.json["error"]["code"]) for answer in answers}


async def test_circuits_rests_and_budgets(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path, environment=SECOND_KEY) as stack:
        sim = stack.sim
        slow = {"open_s": 60}
        base = {
            "providers": [
                provider(sim, "alpha", breaker=slow),
                provider(sim, "beta", "beta", breaker=slow),
                provider(sim, "pool", "gamma", api_keys=TWO_KEYS),
                provider(sim, "endless", breaker={"consecutive": 1_000_000, "min_calls": 1_000_000}),
            ],
            "models": [
                model("down", deployment("alpha", "down")),
                model("spare", deployment("alpha", "bad"), deployment("beta", "good")),
                model("pool", deployment("pool", "pool")),
                model("told", deployment("alpha", "told")),
                model("flapping", deployment("alpha", "flapping")),
                model("storm", deployment("endless", "storm")),
                model("all", deployment("alpha", "all-a"), deployment("beta", "all-b"), deployment("pool", "all-c")),
            ],
        }
        await stack.adopt(base)
        await check_a_circuit_opens_stays_open_over_a_reload_and_closes_by_probes(stack, base)
        await check_the_next_route_is_taken_and_the_first_one_comes_back(stack)
        await check_a_429_rests_one_credential_and_the_other_serves(stack)
        await check_a_rest_that_the_provider_named_is_kept(stack)
        await check_the_last_candidate_is_called_while_some_of_it_works(stack)
        await check_a_failing_provider_is_not_asked_much_more_often_than_callers_ask(stack)
        await check_providers_that_all_fail_are_asked_no_more_often_than_callers_ask(stack)
        await stack.at_rest()


async def check_a_circuit_opens_stays_open_over_a_reload_and_closes_by_probes(
    stack: InsideStack, base: dict[str, Any]
) -> None:
    stack.sim.arm("status", model="down", count=0, status=500)
    answers = await call(stack, "down", 2)
    assert codes(answers) == {(500, "GENERATION_FAILED")}
    assert sent(stack, "down") == 5, "the fifth failure in a row opens it, before the sixth attempt"
    await stack.adopt({**base, "models": [*base["models"], model("another", deployment("beta"))]})
    assert (await stack.metrics())['waypost_circuits_open{deployment="alpha/down",provider="alpha"}'] == 1
    findings = {finding.subject: finding for finding in await ask_gateways([stack.data_dir / "run" / "gateway.sock"])}
    assert findings["alpha/down, credential 1"].verdict is Verdict.DOUBTFUL
    assert "circuit open, next try in " in findings["alpha/down, credential 1"].sentence
    (refused,) = await call(stack, "down")
    assert codes([refused]) == {(503, "MODEL_OVERLOADED")}
    assert 40 < int(refused.headers["retry-after"]) <= 72
    assert sent(stack, "down") == 5
    stack.sim.disarm()
    circuit = circuit_of(stack, "alpha/down")
    let_its_time_pass(circuit)
    assert {answer.status for answer in await call(stack, "down", 2)} == {200}
    assert circuit.phase is Phase.CLOSED
    (finding,) = await ask_gateways([stack.data_dir / "run" / "gateway.sock"])
    assert (finding.subject, finding.verdict) == ("gateway", Verdict.FINE)
    metrics = await stack.metrics()
    assert metrics['waypost_circuits_opened_total{deployment="alpha/down",provider="alpha"}'] == 1


async def check_the_next_route_is_taken_and_the_first_one_comes_back(stack: InsideStack) -> None:
    stack.sim.arm("reset", model="bad", count=0)
    assert {answer.status for answer in await call(stack, "spare", 12, stream=True)} == {200}
    assert (sent(stack, "bad"), sent(stack, "good")) == (5, 12)
    let_its_time_pass(circuit_of(stack, "alpha/bad"))
    assert {answer.status for answer in await call(stack, "spare", 3, stream=True)} == {200}
    assert (sent(stack, "bad"), sent(stack, "good")) == (6, 15), "the probe failed, and its caller did not notice"
    stack.sim.disarm()
    let_its_time_pass(circuit_of(stack, "alpha/bad"))
    assert {answer.status for answer in await call(stack, "spare", 3, stream=True)} == {200}
    assert (sent(stack, "bad"), sent(stack, "good")) == (9, 15)


def circuit_of(stack: InsideStack, deployment_id: str) -> Circuit:
    (live,) = [live for live in stack.gateway.fleet.deployments() if live.deployment.id == deployment_id]
    return live.credentials[0].health.circuit


def let_its_time_pass(circuit: Circuit) -> None:
    assert circuit.phase is Phase.OPEN
    circuit.blocked_until_s = 0.0


async def check_a_429_rests_one_credential_and_the_other_serves(stack: InsideStack) -> None:
    stack.sim.arm("status", model="pool", status=429, retry_after="60")
    assert {answer.status for answer in await call(stack, "pool", 6)} == {200}
    keys = [record.header("authorization") for record in stack.sim.requests if record.model == "pool"]
    assert keys[0] != keys[1], "the other one is asked at once"
    assert set(keys[1:]) == {keys[1]}, "and the first one rests"


async def check_a_rest_that_the_provider_named_is_kept(stack: InsideStack) -> None:
    stack.sim.arm("status", model="told", count=0, status=429, retry_after="30")
    for _ in range(3):
        (answer,) = await call(stack, "told")
        assert codes([answer]) == {(503, "MODEL_OVERLOADED")}
        assert answer.headers["retry-after"] == "30"
    assert sent(stack, "told") == 1
    stack.sim.disarm()


async def check_the_last_candidate_is_called_while_some_of_it_works(stack: InsideStack) -> None:
    stack.sim.arm("status", model="flapping", count=0, every=2, status=500)
    answers = await call(stack, "flapping", 30)
    assert {answer.status for answer in answers} == {200}, "a second attempt succeeds each time"
    assert circuit_of(stack, "alpha/flapping").phase is not Phase.CLOSED
    stack.sim.disarm()


async def check_a_failing_provider_is_not_asked_much_more_often_than_callers_ask(stack: InsideStack) -> None:
    stack.sim.arm("status", model="storm", count=0, status=500)
    requests = 160
    for _ in range(8):
        await asyncio.gather(*(call(stack, "storm") for _ in range(requests // 8)))
    assert requests < sent(stack, "storm") <= 1.1 * requests + 3 * 10, "its circuit does not open here"
    assert (await stack.metrics())['waypost_repetitions_refused_total{provider="endless"}'] > 0
    stack.sim.disarm()


async def check_providers_that_all_fail_are_asked_no_more_often_than_callers_ask(stack: InsideStack) -> None:
    for upstream in ("all-a", "all-b", "all-c"):
        stack.sim.arm("status", model=upstream, count=0, status=503)
    requests = 200
    for _ in range(10):
        answers = await asyncio.gather(*(stack.chat({**ask(), "model": "all"}) for _ in range(requests // 10)))
        assert {answer.status for answer in answers} == {503}
    assert sum(sent(stack, upstream) for upstream in ("all-a", "all-b", "all-c")) <= 1.1 * requests
    stack.sim.disarm()
