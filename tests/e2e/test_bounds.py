"""What one caller may take at a time, and what happens when the process cannot keep up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.inside import InsideStack
from tests.e2e.stack import COUNTS, ask, document, eventually
from waypost.gateway.allowance import Allowances
from waypost.policy.address import TrustedProxies
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

BAD_KEY = "sk_" + "0" * 64 + "_00000000"


async def test_callers_are_bounded_and_the_process_sheds(database: str, tmp_path: Path) -> None:
    async with InsideStack(database, tmp_path, credit_usd=100) as stack:
        await check_requests_under_way_are_bounded_by_key(stack)
        await check_failed_keys_are_bounded_by_address(stack)
        await check_some_are_refused_while_the_loop_is_late(stack)
        await check_all_are_refused_while_memory_is_short(stack)
        await check_the_request_of_a_caller_who_left_counts_as_long_as_it_is_kept(stack)
        await stack.at_rest()
        assert stack.gateway.gateway.allowances.under_way == 0


async def check_requests_under_way_are_bounded_by_key(stack: InsideStack) -> None:
    limits = Limits(in_flight_max=4)
    other = await stack.operator.create_key(stack.org_id, name="other", scope=Scope.FULL, limits=limits)

    async def is_known() -> bool:
        return (await stack.request("GET", "/v1/models", key=other.text)).status == 200

    await eventually(is_known)
    allowances = stack.gateway.gateway.allowances
    allowances.bound(per_key=3)
    waiting = ask("Wait\nsim: first_ms=500")
    answers = await asyncio.gather(*(stack.chat(waiting) for _ in range(5)), stack.chat(waiting, key=other.text))
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 429, 429]
    for answer in answers:
        if answer.status == 429:
            assert (answer.json["error"]["code"], answer.headers["retry-after"]) == ("RATE_LIMITED", "1")
    answers = await asyncio.gather(*(stack.chat(waiting, key=other.text) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 429, 429], "it has a bound of its own"
    allowances.bound(per_key=1000, per_organisation=2)
    answers = await asyncio.gather(stack.chat(waiting), *(stack.chat(waiting, key=other.text) for _ in range(2)))
    assert sorted(answer.status for answer in answers) == [200, 200, 429]
    allowances.bound(per_organisation=1000)
    # A count of tokens is over at once, and not made for those whose places are taken.
    allowances.bound(per_key=1)
    running = asyncio.ensure_future(stack.chat(waiting))
    await eventually(lambda: _are(allowances, 1))
    assert [(await stack.request("POST", path, body)).status for path, body in COUNTS] == [429, 429]
    assert (await running).status == 200
    await eventually(lambda: _are(allowances, 0))
    assert [(await stack.request("POST", path, body)).status for path, body in COUNTS] == [200, 200]
    allowances.bound(per_key=1000)
    # Those that were refused later on, or whose caller left, count no more.
    for _ in range(3):
        _, writer = await stack.connect("POST", "/v1/chat/completions", waiting)
        await asyncio.sleep(0.02)
        writer.transport.abort()
    assert (await stack.chat({**ask(), "model": "unknown"})).status == 404
    await stack.at_rest()
    assert allowances.under_way == 0


async def _are(allowances: Allowances, count: int) -> bool:
    return allowances.under_way == count


async def check_failed_keys_are_bounded_by_address(stack: InsideStack) -> None:
    async def statuses(times: int, key: str, **headers: str) -> list[int]:
        return [
            (await stack.request("GET", "/v1/models", key=key, headers=headers, source="127.0.7.7")).status
            for _ in range(times)
        ]

    assert await statuses(30, BAD_KEY) == [401] * 30
    refused = await stack.request("GET", "/v1/models", key=BAD_KEY, source="127.0.7.7")
    assert (refused.status, refused.json["error"]["code"]) == (429, "RATE_LIMITED")
    assert 1 <= int(refused.headers["retry-after"]) <= 66
    assert await statuses(1, stack.key.text) == [200], "a valid key is never refused for it"
    assert (await stack.request("GET", "/v1/models", key=BAD_KEY, source="127.0.7.8")).status == 401

    forwarded = {"x-forwarded-for": "198.51.100.1"}
    assert await statuses(1, BAD_KEY, **forwarded) == [429], "nobody vouches for a stranger's header"
    stack.gateway.gateway.trusted_proxies = TrustedProxies(["127.0.7.0/24"])
    assert await statuses(31, BAD_KEY, **forwarded) == [401] * 30 + [429]
    assert await statuses(1, BAD_KEY, **{"x-forwarded-for": "198.51.100.1, 203.0.113.5"}) == [401]


async def check_the_request_of_a_caller_who_left_counts_as_long_as_it_is_kept(stack: InsideStack) -> None:
    await stack.adopt(document(stack.sim, cancel_stops_billing="no"))
    size = 1 << 20
    body = ask("sim: words=60 delay_ms=30", stream=True, user="u" * size)
    reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
    await reader.readuntil(b"data: ")
    assert (await stack.metrics())["waypost_request_bytes"] > size
    writer.transport.abort()
    await asyncio.sleep(0.05)
    assert (await stack.metrics())["waypost_request_bytes"] > size, "its provider is still answering"
    seen = await stack.at_rest()
    assert seen["waypost_request_bytes"] == 0


async def check_some_are_refused_while_the_loop_is_late(stack: InsideStack) -> None:
    shedding = stack.gateway.gateway.pressure.shedding
    now_s = asyncio.get_running_loop().time()
    for late in range(10):  # what a timer would have measured
        shedding.look(now_s + 0.3 * late, lag_s=0.2, memory_share=0.0)
    answers = await asyncio.gather(*(stack.chat(ask()) for _ in range(150)))
    refused = [answer for answer in answers if answer.status == 503]
    assert refused
    assert {answer.status for answer in answers} <= {200, 503}
    assert {answer.headers["retry-after"] for answer in refused} <= {"1", "2", "3"}
    assert (await stack.request("GET", "/healthz")).status == 200
    assert (await stack.request("GET", "/readyz")).status == 200
    assert (await stack.metrics())["waypost_shed_total"] == len(refused)
    shedding.look(now_s + 100, lag_s=0.0, memory_share=0.0)
    assert (await stack.chat(ask())).status == 200


async def check_all_are_refused_while_memory_is_short(stack: InsideStack) -> None:
    pressure = stack.gateway.gateway.pressure
    running = asyncio.ensure_future(stack.chat(ask("Wait\nsim: first_ms=300 words=40 delay_ms=50", stream=True)))
    await stack.sim.until(lambda: any("first_ms" in record.body.decode() for record in list(stack.sim.requests)[-1:]))
    pressure.memory_bytes_max = pressure.memory_bytes  # all that there is, is used

    async def is_short() -> bool:
        return bool(pressure.shedding.is_active)

    await eventually(is_short)
    assert {answer.status for answer in await asyncio.gather(*(stack.chat(ask()) for _ in range(10)))} == {503}
    assert [(await stack.request("POST", path, body)).status for path, body in COUNTS] == [503, 503]
    assert (await running).events[-1] == "[DONE]", "what runs goes on"
    pressure.memory_bytes_max *= 100

    async def is_enough() -> bool:
        return (await stack.chat(ask())).status == 200

    await eventually(is_enough)
