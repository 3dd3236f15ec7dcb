"""Real processes killed in the middle of real requests, and ended there in order: every request is booked once."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.e2e.stack import Stack, ask, eventually
from tests.e2e.storm import reconcile
from waypost.gateway.recovery import read_dir
from waypost.kit import ids
from waypost.ledger.journal_format import Record
from waypost.ledger.record import Close, Open, Outcome
from waypost.ledger.replay import replay

KILLS = 8  # for each seed
CALLERS = 12
MARGIN = (5, 4)  # a price is this much of a cost, for every class of tokens
_EXECUTION = re.compile(rb"\r\nx-execution-id: (exec_\S+)\r\n")
_COST = re.compile(rb'"cost":"([0-9.]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Told(msgspec.Struct, frozen=True):
    """What a caller knows of a request afterwards."""

    status: int = 0  # 0: nothing was answered
    execution_id: bytes = b""
    charge: int | None = None  # as the answer said that is there to its end


def read_whole(folder: Path) -> list[Record]:
    """Its records; again when segments of earlier runs, all booked, were deleted meanwhile."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            return list(read_dir(folder))
    raise AssertionError("the journal changes all the time")


class Written(msgspec.Struct, frozen=True):
    """What stood in a journal."""

    opened: dict[bytes, Open] = {}  # by attempt
    closed: dict[bytes, Close] = {}  # the last one, by attempt

    def add(self, stack: Stack) -> None:
        records = read_whole(stack.data_dir / "journal" / "gateway-0")
        for record in records:
            if isinstance(record, Open):
                self.opened[record.attempt_id] = record
            elif isinstance(record, Close):
                self.closed[record.attempt_id] = record

    @property
    def executions(self) -> set[bytes]:
        return {attempt.execution_id for attempt in self.opened.values()}

    @property
    def unfinished(self) -> set[bytes]:
        """Executions that nothing says to have ended."""
        ended = {self.opened[close.attempt_id].execution_id for close in self.closed.values() if close.is_final}
        return self.executions - ended


async def call(stack: Stack, body: dict[str, Any]) -> Told:
    """One request, whatever becomes of it."""
    raw = b""
    with contextlib.suppress(OSError):
        reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
        async with asyncio.timeout(30):
            while data := await reader.read(1 << 16):
                raw += data
        writer.close()
    head, ends, rest = raw.partition(b"\r\n\r\n")
    if not ends:
        return Told()
    execution, cost, length = _EXECUTION.search(head + b"\r\n"), _COST.search(rest), _LENGTH.search(head + b"\r\n")
    is_whole = len(rest) == int(length[1]) if length else b"data: [DONE]\n\n" in rest
    return Told(
        status=int(head.split(b" ", 2)[1]),
        execution_id=ids.parse("exec", execution[1].decode()) if execution else b"",
        charge=int(Decimal(cost[1].decode()) * 10**9) if is_whole and cost else None,
    )


def requests(dice: Random, count: int) -> list[dict[str, Any]]:
    """Plain and streamed, from answered at once to far too slow for a gateway that is about to be killed."""
    made = []
    for number in range(count):
        steps = (
            f"sim: words={dice.randrange(1, 30)} delay_ms={dice.choice((0, 0, 2, 10))} first_ms={dice.choice((0, 30))}"
        )
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if dice.random() < 0.5 else {}
        made.append(ask(f"Number {number}\n{steps}", max_tokens=64, **streamed))
    return made


async def execution_rows(stack: Stack) -> dict[bytes, tuple[int, int]]:
    """Outcome and charge of each, by id; fails for an id that is there twice."""
    rows = await stack.rows("SELECT id, outcome, charge FROM execution")
    found = {row[0].bytes: (row[1], row[2]) for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
async def test_a_killed_gateway_loses_no_request_and_books_none_twice(database: str, tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    written, answers = Written({}, {}), list[Told]()
    async with Stack(database, tmp_path, credit_usd=200) as stack:
        # Some first attempts fail, so that executions are killed between two attempts as well.
        stack.sim.arm(kind="status", status=503, count=0, every=3)
        for _ in range(KILLS):
            callers = [asyncio.ensure_future(call(stack, body)) for body in requests(dice, CALLERS)]
            seen = len(stack.sim.requests) + dice.randrange(1, CALLERS)
            await stack.sim.until(lambda seen=seen: len(stack.sim.requests) >= seen)  # type: ignore[misc]
            await asyncio.sleep(dice.random() * 0.15)  # the moment is what is random
            await stack.kill()
            answers += await asyncio.gather(*callers)
            written.add(stack)
            await stack.start()
        stack.sim.disarm()
        last = await asyncio.gather(*(call(stack, body) for body in requests(dice, CALLERS)))
        await stack.at_rest()
        written.add(stack)
        # What a killed run had not spent comes back when its journal has been booked.
        await eventually(lambda: has_nothing_locked(stack))
        balance = await stack.operator.balance(stack.org_id)
        check = await stack.operator.check_ledger()
        assert await stack.stop() == 0

        assert [told.status for told in last] == [200] * CALLERS
        assert check.violations == ()
        await assert_booked_once(stack, written, [*answers, *last])

        charged = sum(charge for _, charge in (await execution_rows(stack)).values())
        assert balance.available_nanos + charged == stack.credit_nanos
        assert await stack.rows("SELECT epoch FROM node") == [(KILLS + 1,)]

        # The providers' own bill explains every nano of the cost that it leaves.
        booked = sum(row["cogs"] for row in await stack.settlements())
        assert booked + await reconcile(stack) == stack.sim.bill.nanos
        after = await stack.operator.check_ledger()
        assert after.violations == ()
        assert (after.totals.cogs_nanos, after.totals.charged_nanos) == (stack.sim.bill.nanos, charged)


async def has_nothing_locked(stack: Stack) -> bool:
    balance = await stack.operator.balance(stack.org_id)
    return balance.suspense_nanos == balance.held_nanos == 0


async def assert_booked_once(stack: Stack, written: Written, answers: Sequence[Told]) -> None:
    """Rows, settlements and charges against what the journals promised, callers were told, and the provider bills."""
    rows, settlements = await execution_rows(stack), await stack.settlements()
    told = {answer.execution_id: answer for answer in answers if answer.execution_id}
    crashed = {execution_id for execution_id, (outcome, _) in rows.items() if outcome == Outcome.CRASHED}

    # One row for each request that was accepted: nothing was sent before its OPEN was written.
    assert set(rows) == written.executions
    assert set(told) <= set(rows)
    assert len(rows) <= len(answers)
    assert crashed == written.unfinished
    assert crashed, "no kill hit a running request"
    assert len(stack.sim.requests) <= len(written.opened)

    # One settlement for each attempt.
    assert sorted(row["attempt_id"].bytes for row in settlements) == sorted(written.opened)

    # Who has an answer to its end was told the charge; nobody is charged for a crash, or more than was delivered.
    whole = {execution_id: answer.charge for execution_id, answer in told.items() if answer.charge is not None}
    assert len(whole) >= CALLERS
    assert {execution_id: rows[execution_id] for execution_id in whole} == {
        execution_id: (Outcome.COMPLETED, charge) for execution_id, charge in whole.items()
    }
    assert {rows[execution_id][1] for execution_id in crashed} == {0}
    charges = sum(row["charge"] for row in settlements)
    assert charges == sum(charge for _, charge in rows.values())
    assert charges <= stack.sim.bill.nanos * MARGIN[0] // MARGIN[1] + len(settlements)
    assert sum(row["cogs"] for row in settlements) >= stack.sim.bill.nanos


async def test_a_gateway_that_is_told_to_end_finishes_what_it_began(database: str, tmp_path: Path) -> None:
    dice = Random(3)
    async with Stack(database, tmp_path) as stack:
        bodies = [ask(f"{n}\nsim: words=20 delay_ms=15", stream=n % 2 == 1, max_tokens=64) for n in range(2 * CALLERS)]
        callers = [asyncio.ensure_future(call(stack, body)) for body in bodies]
        await stack.sim.until(lambda: len(stack.sim.requests) == len(bodies))
        await asyncio.sleep(dice.random() * 0.1)

        assert await stack.stop() == 0

        answers = await asyncio.gather(*callers)
        rows = await execution_rows(stack)
        assert [answer.status for answer in answers] == [200] * len(bodies)
        assert {answer.execution_id for answer in answers} == set(rows)
        assert {outcome for outcome, _ in rows.values()} == {Outcome.COMPLETED}
        balance = await stack.operator.balance(stack.org_id)
        assert (balance.held_nanos, balance.suspense_nanos) == (0, 0)
        assert balance.available_nanos == stack.credit_nanos - sum(charge for _, charge in rows.values())
        assert await stack.rows("SELECT FROM lease WHERE state <> 'CLOSED'") == []
        # What is booked stays until the next start: this database could be a standby's primary.
        assert replay(read_dir(stack.data_dir / "journal" / "gateway-0"), 0) == []
        assert (await stack.operator.check_ledger()).violations == ()
