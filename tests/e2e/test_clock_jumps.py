"""A wall clock that steps by hours and days, forwards and back, while requests run: money, budgets and limits go by the
database and by durations, so nothing is lost, held for ever, or given twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.e2e.inside import InsideStack
from tests.e2e.stack import ask, eventually
from waypost.app import wiring
from waypost.app.operator import NewKey
from waypost.kit.clock import SystemClock
from waypost.ledger.record import Outcome
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope
from waypost.tenancy.budget import Budget, Period

HOUR_S, DAY_S = 3_600, 86_400
# Where the clock stands, beside the true time, one after the other.
STEPS_S = (0, HOUR_S, -HOUR_S, 0, DAY_S, -DAY_S, 0)


class SteppingClock(SystemClock):
    """The machine's, with a wall clock that somebody sets; durations go on."""

    __slots__ = ("offset_s",)

    def __init__(self) -> None:
        self.offset_s = 0

    def unix_ns(self) -> int:
        return super().unix_ns() + self.offset_s * 1_000_000_000


async def test_a_clock_that_steps_by_hours_and_days_costs_nobody_a_nano(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SteppingClock()
    monkeypatch.setattr(wiring, "SystemClock", lambda: clock)
    limits = Limits(requests_per_minute=1_000)
    async with InsideStack(database, tmp_path, credit_usd=1, limits=limits) as stack:
        daily = await stack.operator.create_key(
            stack.org_id, name="daily", scope=Scope.FULL, limits=limits, budget=Budget(500_000_000, Period.DAY)
        )
        await eventually(_is_known(stack, daily))
        count = 1
        for offset_s in STEPS_S:
            streamed = ask("sim: words=12 delay_ms=25", stream=True, max_tokens=64)
            seen = len(stack.sim.requests)
            across = asyncio.ensure_future(stack.chat(streamed))  # begins before the step, and ends after it
            await eventually(_has_seen_more(stack, seen))
            clock.offset_s = offset_s
            plain = ask("sim: words=5", max_tokens=64)
            answers = [await across, await stack.chat(plain), await stack.chat(plain, key=daily.text)]
            count += len(answers)
            assert [answer.status for answer in answers] == [200] * 3
            assert b"[DONE]" in answers[0].body

        await stack.at_rest()
        rows = await stack.executions(count)
        assert {row["outcome"] for row in rows} == {Outcome.COMPLETED}
        charged = sum(row["charge"] for row in rows)
        balance = await stack.operator.balance(stack.org_id)
        assert (balance.held_nanos, balance.suspense_nanos) == (0, 0)
        assert balance.available_nanos == stack.credit_nanos - charged
        assert sum(row["cogs"] for row in await stack.settlements()) == stack.sim.bill.nanos
        assert not (await stack.operator.check_ledger()).violations
        assert await stack.stop() == 0  # with every lease given back
        of_daily = f"SELECT sum(charge)::bigint FROM execution WHERE api_key_id = '{daily.id.hex()}'"
        assert await stack.rows("SELECT sum(taken)::bigint FROM budget_window") == await stack.rows(of_daily)


def _is_known(stack: InsideStack, key: NewKey) -> Callable[[], Awaitable[bool]]:
    async def is_known() -> bool:
        return (await stack.chat(ask("sim: words=5", max_tokens=64), key=key.text)).status == 200

    return is_known


def _has_seen_more(stack: InsideStack, requests: int) -> Callable[[], Awaitable[bool]]:
    async def has_seen() -> bool:
        return len(stack.sim.requests) > requests

    return has_seen
