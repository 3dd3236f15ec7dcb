"""The database goes away while requests run: what is leased is spent, the rest refused, and all of it booked once."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo as conninfos

from tests.e2e.stack import Answer, Stack, ask
from tests.storage.relay import Relay
from waypost.app.operator import Operator
from waypost.kit.clock import SystemClock
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import Outcome
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

CALLS = 24
SHORT = {"max_tokens": 32}  # so that one lease is enough for all of them


async def newcomer(stack: Stack) -> str:
    """The key of a second organisation with credit, of which no lease has been cut yet."""
    org_id = await stack.operator.create_org("newcomer", is_unlimited=False)
    key = await stack.operator.create_key(org_id, name="new", scope=Scope.FULL, limits=Limits())
    await stack.operator.add_credit(org_id, NANOS_PER_USD, "newcomer")
    async with asyncio.timeout(10):
        while (await stack.request("GET", "/v1/models", key=key.text)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # until the gateway knows the key
    return key.text


async def until_degraded(stack: Stack, *, is_degraded: bool) -> None:
    async with asyncio.timeout(30):
        while (await stack.request("GET", "/readyz")).json["degraded"] != (["database"] if is_degraded else []):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def bodies() -> list[dict[str, Any]]:
    """Every other one streamed."""
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return [ask(f"Number {number}", **SHORT, **(usage if number % 2 else {})) for number in range(CALLS)]


async def ask_many(stack: Stack) -> list[Answer]:
    return list(await asyncio.gather(*(stack.chat(body) for body in bodies())))


def assert_refused_for_now(answer: Answer) -> None:
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert (
        answer.json["error"]["code"] == "service_unavailable" or answer.json["error"]["code"] == "SERVICE_UNAVAILABLE"
    )
    assert set(answer.json["error"]) >= {"message", "type", "param", "code"}


async def assert_booked_once(stack: Stack, answers: list[Answer], executions: int) -> None:
    """Each answer has its row; nothing is there twice, nothing is missing, and the provider's bill is the cost."""
    rows = await stack.executions(executions)
    settlements = await stack.settlements()
    shown = {answer.headers["x-execution-id"] for answer in answers}
    assert {f"exec_{row['id']}" for row in rows} >= shown
    assert len(shown) == len(answers)
    assert {row["outcome"] for row in rows} == {Outcome.COMPLETED}
    assert len(settlements) == len(rows) == len(stack.sim.requests)
    assert sum(row["charge"] for row in settlements) == sum(row["charge"] for row in rows)
    assert sum(row["cogs"] for row in settlements) == stack.sim.bill.nanos
    # The sessions that the operator's commands had are gone too.
    operator = Operator(stack.settings, stack.database, SystemClock())
    violations = (await operator.check_ledger()).violations
    await operator.close()
    assert violations == ()


def cut_off(maintenance: str, name: str) -> None:
    """End every session of a database."""
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


def allow(maintenance: str, name: str, *, is_allowed: bool) -> None:
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_allowed}")


async def test_without_a_database_what_is_leased_is_served_and_booked_when_it_is_back(
    postgres: str, database: str, tmp_path: Path
) -> None:
    name = str(conninfos.conninfo_to_dict(database)["dbname"])
    async with Stack(database, tmp_path) as stack:
        first = await stack.chat(ask("Hello", **SHORT))
        new_key = await newcomer(stack)
        allow(postgres, name, is_allowed=False)
        cut_off(postgres, name)
        await until_degraded(stack, is_degraded=True)

        answers = await ask_many(stack)
        refused = await stack.chat(ask("Hello", **SHORT), key=new_key)

        assert [answer.status for answer in answers] == [200] * CALLS
        assert_refused_for_now(refused)
        assert (await stack.request("GET", "/readyz")).status == 200

        allow(postgres, name, is_allowed=True)
        await until_degraded(stack, is_degraded=False)
        served = await stack.chat(ask("Hello", **SHORT), key=new_key)

        assert served.status == 200
        await assert_booked_once(stack, [first, *answers, served], CALLS + 2)


async def test_sessions_that_end_again_and_again_lose_nothing_and_repeat_nothing(
    postgres: str, database: str, tmp_path: Path
) -> None:
    name = str(conninfos.conninfo_to_dict(database)["dbname"])
    rounds = 4
    async with Stack(database, tmp_path) as stack:
        answers = [await stack.chat(ask("Hello", **SHORT))]
        is_over = asyncio.Event()

        async def disturb() -> None:
            while not is_over.is_set():
                await asyncio.to_thread(cut_off, postgres, name)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):  # settling gathers for longer than this
                        await is_over.wait()

        disturbing = asyncio.ensure_future(disturb())
        for _ in range(rounds):
            answers += await ask_many(stack)
        is_over.set()
        await disturbing

        assert [answer.status for answer in answers] == [200] * (rounds * CALLS + 1)
        await assert_booked_once(stack, answers, rounds * CALLS + 1)


async def test_what_was_booked_without_anybody_being_told_is_not_booked_again(database: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wp") as short:
        async with Relay(database, Path(short)).serving() as relay, Stack(relay.conninfo, tmp_path) as stack:
            answers = [await stack.chat(ask("Hello", **SHORT))]
            await stack.at_rest()
            stack.database = database  # for looking at the books meanwhile
            relay.withhold()
            answers += await ask_many(stack)
            async with asyncio.timeout(20):
                while len(await stack.settlements()) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # until a batch is booked whose answer is withheld
            assert (await stack.metrics())["waypost_settlements_waiting"] == CALLS

            await relay.cut()

            await assert_booked_once(stack, answers, CALLS + 1)
