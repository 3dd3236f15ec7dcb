"""The product on a database that fails over to a standby without the last commits: every answer is charged once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.stack import PATIENCE_S, Stack, ask, eventually
from tests.storage.lagging import pass_time
from tests.storage.replicated import replicated
from waypost.kit.money import NANOS_PER_USD
from waypost.storage.api_keys import Limits
from waypost.storage.ledger_check import check_ledger
from waypost.storage.pool import Pool
from waypost.storage.promotion import GRACE_S
from waypost.storage.roles import Role
from waypost.tenancy.api_key import Scope

TOLD = ("ServerPromoted", "LeasesPresented", "GrantsResumed")


async def charged(stack: Stack) -> dict[str, int]:
    return dict(await stack.rows("SELECT id::text, charge FROM execution"))


async def serve(stack: Stack, name: str, key: str | None = None) -> str:
    """Ask until it is answered; the execution's id."""
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await stack.chat(ask(name, max_tokens=32), key=key)).status != 200:
            assert answer.status in (401, 503)  # a key is known within a second
            await asyncio.sleep(0.05)
    return answer.headers["x-execution-id"]


async def newcomer(stack: Stack) -> tuple[bytes, str]:
    """An organisation with credit that no lease was cut for, and its key."""
    org_id = await stack.operator.create_org("newcomer", is_unlimited=False)
    key = await stack.operator.create_key(org_id, name="new", scope=Scope.FULL, limits=Limits())
    await stack.operator.add_credit(org_id, NANOS_PER_USD, "newcomer")
    return org_id, key.text


async def until_told(stack: Stack, name: str) -> None:
    async def is_told() -> bool:
        return any(event["event"] == name for event in stack.log)

    await eventually(is_told)


@pytest.mark.slow
async def test_answers_that_a_promoted_standby_knew_nothing_of_are_charged_once(tmp_path: Path) -> None:
    with replicated() as pair:
        async with Stack(pair.conninfo, tmp_path) as stack:
            newcomer_id, key = await newcomer(stack)
            answered = [await serve(stack, "replicated")]
            await stack.at_rest()
            pair.catch_up()
            pair.cut()
            answered += [await serve(stack, f"lost {number}") for number in range(4)]
            await stack.at_rest()
            before = await charged(stack)
            pair.fail_over()
            assert len(await charged(stack)) == 1

            answered.append(await serve(stack, "from the lease at hand"))
            await until_told(stack, "LeasesPresented")
            pass_time(pair.conninfo, GRACE_S)
            answered.append(await serve(stack, "from a new lease", key))
            await until_told(stack, "GrantsResumed")
            assert [event["event"] for event in stack.log if event["event"] in TOLD] == list(TOLD)
            await stack.at_rest()
            assert before.items() <= (await charged(stack)).items()
            assert await stack.stop() == 0
            await stack.start()  # what its journal kept is known to be booked
            answered.append(await serve(stack, "after a restart"))
            await stack.at_rest()

            after = await charged(stack)
            assert len(after) == len(set(answered)) == len(stack.sim.requests)
            left = [(await stack.operator.balance(one)).available_nanos for one in (stack.org_id, newcomer_id)]
            assert sum(left) == stack.credit_nanos + NANOS_PER_USD - sum(after.values())
            pool = Pool(pair.conninfo, Role.APP)
            checked = await check_ledger(pool)
            await pool.close()
            assert (checked.violations, checked.totals.house_nanos) == ((), 0)
