"""Limits counted on a real server, for several machines: as one process would count them, and never waited for long."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from tests.policy.limiter_model import Model
from tests.stores.vaults import valkey
from waypost.gateway.allowance import Allowances
from waypost.gateway.callers import FAILED_KEYS_PER_MINUTE, FailedKeys
from waypost.gateway.limits import LimitExceeded, Windows
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.rate_limit import Asked, LimitsUnavailable
from waypost.stores.valkey_limits import _CORRECT, _TAKE, ValkeyLimits
from waypost.tenancy.api_key import ApiKey, Scope

STEPS_S = (0.0, 0.0, 0.001, 0.5, 5.999, 6.0, 6.001, 30.0, 53.999, 59.9, 60.0, 66.0, 66.001, 400.0)


def api_key(**limits: int) -> ApiKey:
    return ApiKey(id=b"k" * 16, org_id=b"o" * 16, digest=b"", scope=Scope.FULL, **limits)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def counting(url: str, answer_s: float = 2.0) -> AsyncIterator[ValkeyLimits]:
    """A machine's view of the server, reached."""
    told: list[bool] = []
    limits = ValkeyLimits(url, on_changed=told.append, answer_s=answer_s)
    running = asyncio.ensure_future(limits.run())
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    try:
        yield limits
    finally:
        running.cancel()
        await limits.close()


async def test_the_scripts_go_as_the_reference_model_goes() -> None:
    """With the clock of a trace in place of the server's own."""
    dice, refused, corrected = random.Random(7), 0, 0
    async with valkey() as url, counting(url) as limits:
        now = "local time, now_ms = 0, tonumber(ARGV[#ARGV])"  # the clock of the trace
        own = "local time = redis.call('TIME')\nlocal now_ms = time[1] * 1000 + math.floor(time[2] / 1000)"
        connection = limits._connection
        assert connection is not None

        async def run(script: str, name: bytes, *numbers: int) -> Any:
            assert own in script
            words = [b"%d" % number for number in numbers]
            return await connection.call(b"EVAL", script.replace(own, now).encode(), b"1", name, *words)

        for trace in range(150):
            limit, now_s = dice.choice((1, 3, 10, 60)), float(dice.randrange(10**5))
            model, name, open_calls = Model(limit), b"waypost:limit:%d" % trace, list[tuple[float, int, int]]()
            for _ in range(dice.randrange(5, 30)):
                now_s = round(now_s + dice.choice(STEPS_S), 3)
                now_ms = round(now_s * 1000)
                if open_calls and dice.random() < 0.3:
                    taken_at_s, reserved, bucket = open_calls.pop(dice.randrange(len(open_calls)))
                    delta = dice.randrange(2 * limit) - reserved
                    await run(_CORRECT, name, delta, bucket, now_ms)
                    model.correct(now_s, delta, taken_at_s)
                    corrected += 1
                    continue
                amount = dice.randrange(1, limit + 2)
                answer = await run(_TAKE, name, limit, amount, now_ms)
                is_expected = model.take(now_s, amount)
                assert bool(answer[0][0]) == is_expected
                assert answer[0][1] == model.remaining(now_s)
                assert 0 < answer[0][2] <= 66_000
                refused += not is_expected
                if is_expected:
                    open_calls.append((now_s, amount, answer[0][3]))
    assert refused > 100
    assert corrected > 100


async def test_all_windows_are_taken_or_none() -> None:
    async with valkey() as url, counting(url) as limits:
        asked = [Asked(b"tokens", 100, 60), Asked(b"requests", 10, 1)]
        first, _ = await limits.take(asked)
        assert [(each.is_allowed, each.remaining) for each in first] == [(True, 40), (True, 9)]
        second, _ = await limits.take(asked)
        assert [(each.is_allowed, each.remaining) for each in second] == [(False, 40), (True, 9)]
        assert 60 < second[0].reset_s <= 66


async def test_machines_share_a_keys_limits_and_what_was_reserved_comes_back_to_all() -> None:
    limited = api_key(requests_per_minute=10, tokens_per_minute=1000)
    async with valkey() as url, counting(url) as one, counting(url) as other:
        machines = [Allowances(Windows(server=server, machines=lambda: 2)) for server in (one, other)]
        told, bucket = await machines[0].take_together(
            machines[0].of(limited, 0.0), now_s=0.0, now_unix_s=0.0, tokens=900
        )
        assert b"x-ratelimit-limit: 10\r\nx-ratelimit-remaining: 9\r\n" in told
        with pytest.raises(LimitExceeded):
            await machines[1].take_together(machines[1].of(limited, 0.0), now_s=0.0, now_unix_s=0.0, tokens=200)
        machines[0].correct_together(machines[0].of(limited, 1.0), 100 - 900, bucket)
        await _until_taken(machines[1], limited, 200, remaining=8)
        with pytest.raises(Refusal) as too_much:
            await machines[1].take_together(machines[1].of(limited, 0.0), now_s=0.0, now_unix_s=0.0, tokens=1001)
        assert too_much.value.code is ErrorCode.INPUT_VALIDATION_ERROR


async def _until_taken(machine: Allowances, limited: ApiKey, tokens: int, *, remaining: int) -> None:
    """What is corrected is not waited for: until then there is no room."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(LimitExceeded):
                told, _ = await machine.take_together(
                    machine.of(limited, 0.0), now_s=0.0, now_unix_s=0.0, tokens=tokens
                )
                assert b"x-ratelimit-remaining: %d\r\n" % remaining in told
                return


async def test_without_the_server_each_machine_allows_its_part_less_what_it_had_let_through() -> None:
    limited = api_key(requests_per_minute=10)
    async with valkey() as url, counting(url) as server:
        limits = Allowances(Windows(server=server, machines=lambda: 2))
        for _ in range(3):
            await limits.take_together(limits.of(limited, 0.0), now_s=0.0, now_unix_s=0.0, tokens=0)
        server._leave()
        allowed = 0
        for _ in range(10):
            with contextlib.suppress(LimitExceeded):
                await limits.take_together(limits.of(limited, 0.0), now_s=1.0, now_unix_s=0.0, tokens=0)
                allowed += 1
        assert allowed == 10 // 2 - 3


async def test_failed_keys_of_an_address_are_counted_over_machines_without_naming_it() -> None:
    async with valkey() as url, counting(url) as one, counting(url) as other:
        machines = [FailedKeys(Windows(server=server), b"secret") for server in (one, other)]
        refused = 0
        for n in range(FAILED_KEYS_PER_MINUTE + 10):
            try:
                await machines[n % 2].count_together("203.0.113.7", 0.0)
            except Refusal:
                refused += 1
        assert refused == 10
        assert one._connection is not None
        keys = await one._connection.call(b"KEYS", b"*")
        assert len(keys) == 1
        assert b"203" not in keys[0]


async def test_a_server_that_hangs_is_waited_for_twenty_milliseconds_and_then_left_alone() -> None:
    async with valkey() as url, counting(url, answer_s=0.02) as limits:
        asked = [Asked(b"w", 10, 1)]
        assert limits._connection is not None
        await limits._connection.call(b"CLIENT", b"PAUSE", b"3000")
        waited = []
        for _ in range(5):
            begun_s = time.monotonic()
            with pytest.raises(LimitsUnavailable):
                await limits.take(asked)
            waited.append(time.monotonic() - begun_s)
        assert not limits.is_up
        assert sum(each > 0.015 for each in waited) <= 3


async def test_a_server_that_was_killed_is_found_again_when_it_is_back() -> None:
    told: list[bool] = []
    async with valkey() as url:
        limits = ValkeyLimits(url, on_changed=told.append, answer_s=2.0)
        running = asyncio.ensure_future(limits.run())
        await _until(lambda: told == [True])
        await limits.take([Asked(b"w", 10, 1)])
    with pytest.raises(LimitsUnavailable):
        await limits.take([Asked(b"w", 10, 1)])
    await _until(lambda: told == [True, False])
    limits.correct(b"w", 5, 1)  # lost, and nobody minds
    running.cancel()
    await limits.close()


async def _until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _take_many(url: str, limit: int, pipe: Connection) -> None:
    async def run() -> int:
        async with counting(url) as limits:
            pipe.send("ready")
            pipe.recv()
            allowed = 0
            ends_s = time.monotonic() + 0.7
            while time.monotonic() < ends_s:
                answers = await asyncio.gather(*(limits.take([Asked(b"w", limit, 1)]) for _ in range(8)))
                allowed += sum(decisions[0].is_allowed for decisions, _ in answers)
            return allowed

    pipe.send(asyncio.run(run()))


@pytest.mark.parametrize("limit", [1, 100])
async def test_processes_that_take_at_the_same_moment_get_the_limit_exactly(limit: int) -> None:
    context = multiprocessing.get_context("spawn")
    async with valkey() as url:
        pipes, processes = [], []
        for _ in range(3):
            ours, theirs = context.Pipe()
            process = context.Process(target=_take_many, args=(url, limit, theirs))
            process.start()
            pipes.append(ours)
            processes.append(process)
        loop = asyncio.get_running_loop()
        assert [await loop.run_in_executor(None, pipe.recv) for pipe in pipes] == ["ready"] * 3
        for pipe in pipes:
            pipe.send("go")
        allowed = [await loop.run_in_executor(None, pipe.recv) for pipe in pipes]
        for process in processes:
            await loop.run_in_executor(None, process.join)
    assert sum(allowed) == limit
