"""Limits of keys, keys that end, and catalogues that change, in a gateway that runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.e2e.stack import COST, COUNTS, KNOWN_WITHIN_S, Stack, ask, deployment, eventually, model, provider
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

WINDOW_S = 66  # a request is forgotten at most this long after it was counted


async def test_requests_and_tokens_per_minute(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, limits=Limits(requests_per_minute=5)) as stack:
        await check_requests_per_minute(stack)
        await check_tokens_per_minute(stack)


async def check_requests_per_minute(stack: Stack) -> None:
    answers = await asyncio.gather(*(stack.chat(ask(stream=at % 2 == 0)) for at in range(8)))
    allowed = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert (len(allowed), len(refused)) == (5, 3)
    now = time.time()
    for answer in allowed:
        assert answer.headers["x-ratelimit-limit"] == "5"
        assert now < int(answer.headers["x-ratelimit-reset"]) <= now + WINDOW_S + 1
    assert sorted(int(answer.headers["x-ratelimit-remaining"]) for answer in allowed) == [0, 1, 2, 3, 4]
    for answer in refused:
        assert answer.json["error"]["code"] == "RATE_LIMITED"
        assert answer.json["error"]["type"] == "rate_limit_error"
        assert 1 <= int(answer.headers["retry-after"]) <= WINDOW_S
        assert "x-should-retry" not in answer.headers
        assert answer.headers["x-ratelimit-limit"] == "5"
        assert answer.headers["x-ratelimit-remaining"] == "0"
    assert len(stack.sim.requests) == 5, "no provider hears of the others"
    await stack.executions(5)
    assert "x-ratelimit-limit" not in (await stack.request("GET", "/v1/models")).headers


async def test_a_count_of_tokens_is_a_request_to_the_keys_limit(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, limits=Limits(requests_per_minute=3)) as stack:
        answers = [await stack.request("POST", path, body) for path, body in COUNTS * 2]

        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= WINDOW_S
        assert (await stack.chat(ask())).status == 429


async def check_tokens_per_minute(stack: Stack) -> None:
    made = await stack.operator.create_key(
        stack.org_id, name="tokens", scope=Scope.FULL, limits=Limits(tokens_per_minute=2000)
    )
    await eventually(lambda: works(stack, made.text), KNOWN_WITHIN_S)
    # Each reserves its maximum, and gives back what it did not use.
    for _ in range(5):
        assert (await stack.chat(ask(max_tokens=1000), key=made.text)).status == 200
    waiting = ask("Wait\nsim: first_ms=1500", max_tokens=1200)
    at_once = await asyncio.gather(*(stack.chat(waiting, key=made.text) for _ in range(2)))
    assert sorted(answer.status for answer in at_once) == [200, 429]
    too_much = await stack.chat(ask(max_tokens=2001), key=made.text)
    assert (too_much.status, too_much.json["error"]["param"]) == (400, "max_tokens"), "waiting would not help"
    # What a provider has refused used nothing.
    stack.sim.arm("status", status=400, count=3)
    for _ in range(3):
        assert (await stack.chat(ask(max_tokens=1500), key=made.text)).status == 400
    assert (await stack.chat(ask(max_tokens=1500), key=made.text)).status == 200


async def test_keys_are_made_rotated_and_revoked_while_the_gateway_runs(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        made = await stack.operator.create_key(stack.org_id, name="made", scope=Scope.FULL, limits=Limits())
        await eventually(lambda: works(stack, made.text), KNOWN_WITHIN_S)
        rotated = await stack.operator.rotate_key(made.id)
        await eventually(lambda: works(stack, rotated.text), KNOWN_WITHIN_S)
        assert await works(stack, made.text), "the text before it stays valid for a while"
        assert rotated.previous_valid_until is not None
        assert 3500 < rotated.previous_valid_until.timestamp() - time.time() <= 3600

        writer = (await stack.connect("POST", "/v1/chat/completions", slow(), key=rotated.text))[1]
        await stack.sim.until(lambda: len(stack.sim.requests) == 1)
        await stack.operator.revoke_key(made.id)
        await eventually(lambda: is_refused(stack, rotated.text), KNOWN_WITHIN_S)
        assert not await works(stack, made.text), "revoked is the key, with every text it has had"
        assert await works(stack, stack.key.text)
        (row,) = await stack.executions(1)
        assert row["status"] == 200, "what had been accepted was finished"
        writer.close()


def slow() -> dict[str, object]:
    return ask("sim: words=50 delay_ms=20")


async def test_a_changed_catalogue_takes_effect_and_runs_out_what_was_begun(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        before = asyncio.ensure_future(stack.chat(slow()))
        await stack.sim.until(lambda: len(stack.sim.requests) == 1)
        dearer = {"input": "250", "output": "1000"}
        await stack.adopt(
            {
                "providers": [provider(stack.sim, "other", "gamma")],
                "models": [
                    model("swift-1", deployment("other", "other-model"), price=dearer),
                    model("new", deployment("other")),
                ],
            }
        )
        stack.sim.set_prices({"other-model": COST})
        after = await stack.chat(slow())
        assert (await before).status == after.status == 200
        assert [record.style for record in stack.sim.requests] == ["alpha", "gamma"]
        assert (await stack.chat({**ask(), "model": "new"})).status == 200
        first, second, _ = await stack.executions(3)
        assert first["charge"] * 100 == second["charge"], "the price of its admission counts"
        assert [entry["id"] for entry in (await stack.request("GET", "/v1/models")).json["data"]] == ["swift-1", "new"]

        await stack.adopt({"providers": [provider(stack.sim, "other")], "models": [model("new", deployment("other"))]})
        assert (await stack.chat(ask())).status == 404


async def works(stack: Stack, key: str) -> bool:
    return (await stack.request("GET", "/v1/models", key=key)).status == 200


async def is_refused(stack: Stack, key: str) -> bool:
    return (await stack.request("GET", "/v1/models", key=key)).status in (401, 429)
