"""What a key reads of the account over HTTP: its own organisation's, as far as its scope goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.control.plane import Plane
from tests.storage.asynchronous import ended, received
from tests.storage.books import IDS, Books, attempt
from waypost.app.operator import CommandRefused, NewKey
from waypost.executions.lifecycle import State
from waypost.kit import ids
from waypost.ledger.record import ClosedAttempt
from waypost.storage import funding
from waypost.storage.asynchronous_executions import Ending, Executions
from waypost.tenancy.api_key import Scope
from waypost.tenancy.budget import Budget, Period


async def served(books: Books, org_id: bytes, key: NewKey, count: int = 1, **changes: object) -> list[ClosedAttempt]:
    """Calls of that key that cost 1,500 nano each."""
    books.node_epoch = await books.ledger.register_node(books.node_id)
    lease_id = await books.grant(org_id, 1_000_000)
    rows = [attempt(org_id, lease_id, 1_500, api_key_id=key.id, **changes) for _ in range(count)]
    await books.ledger.settle_batch(rows)
    return rows


async def close(books: Books) -> None:
    await books.ledger.close_connections()
    await books.app.close()
    await books.owner.close()


async def test_balance_and_usage_are_those_of_the_commands(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        await served(books, plane.org_id, plane.key, 3)

        assert (await plane.ask("GET", "/v1/balance")).json == {
            "available_nanos": "1999995500",
            "held_nanos": "0",
            "suspense_nanos": "0",
            "usd": "1.999995",
        }
        usage = (await plane.ask("GET", "/v1/usage")).json
        assert [(row["model"], row["requests"], row["charge_nanos"]) for row in usage["rows"]] == [
            ("swift-1", 3, "4500")
        ]
        assert usage["total"]["input_tokens"] == 300
        assert (await plane.ask("GET", "/v1/usage?since=2999-01-01")).json["rows"] == []
        refused = await plane.ask("GET", "/v1/usage?since=monday")
        assert (refused.status, refused.json["error"]["code"]) == (400, "INPUT_VALIDATION_ERROR")
        await close(books)


async def test_usage_is_what_left_the_balance_refunds_included(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        first, second, _ = await served(books, plane.org_id, plane.key, 3)
        for row, amounts in ((first, (1_000, 500)), (second, (200,))):
            for number, amount in enumerate(amounts):
                await books.ledger.refund(
                    attempt_id=row.open.attempt_id, refund_key=f"key {number}", amount_nanos=amount
                )
        total = (await plane.ask("GET", "/v1/usage")).json["total"]
        assert (total["requests"], total["charge_nanos"], total["refunded_nanos"]) == (3, "2800", "1700")
        balance = await plane.operator.balance(plane.org_id)
        assert 2_000_000_000 - balance.total_nanos == int(total["charge_nanos"])
        await close(books)


async def test_an_operator_refunds_an_execution_once(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        ((called,), (partly,)) = [
            await served(
                books, plane.org_id, plane.key, execution_id=execution_id, attempt_id=ids.sibling(execution_id, 1)
            )
            for execution_id in (IDS.new(), IDS.new())
        ]
        await books.ledger.refund(attempt_id=partly.open.attempt_id, refund_key="some", amount_nanos=500)

        async def announce(*_: object) -> None:
            return

        executions = Executions(plane.books, IDS, announce)
        made, _ = await executions.create(received(plane.org_id))
        await executions.step(made, ended(made, State.SUCCEEDED), ending=Ending(4_000))

        charged = ((called.open.execution_id, 1_500), (partly.open.execution_id, 1_000), (made.id, 4_000))
        for execution_id, left in charged:
            assert [await plane.operator.refund(execution_id) for _ in range(2)] == [left, 0]
        with pytest.raises(CommandRefused, match="was charged nothing"):
            await plane.operator.refund(IDS.new())
        balance = await plane.operator.balance(plane.org_id)
        assert balance.total_nanos == 2_000_000_000
        assert (await plane.ask("GET", "/v1/usage")).json["total"]["refunded_nanos"] == "7000"
        assert not [each for each in (await plane.operator.check_ledger()).violations if "refund" in each]
        await close(books)


async def test_a_refund_that_another_one_came_before_is_refused_and_given_another_time(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        execution_id = IDS.new()
        attempt_id = ids.sibling(execution_id, 1)
        await served(books, plane.org_id, plane.key, execution_id=execution_id, attempt_id=attempt_id)
        refund_charge = funding.refund_charge

        async def overtaken(*arguments: Any, **named: Any) -> bool:
            await books.ledger.refund(attempt_id=attempt_id, refund_key="some", amount_nanos=500)
            return await refund_charge(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(funding, "refund_charge", overtaken)
            with pytest.raises(CommandRefused, match="try again"):
                await plane.operator.refund(execution_id)
        assert await plane.operator.refund(execution_id) == 1_000
        assert (await plane.operator.balance(plane.org_id)).total_nanos == 2_000_000_000
        await close(books)


async def test_a_key_that_may_only_run_executions_sees_its_own_and_no_money(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        (others,) = await served(books, plane.org_id, plane.key)
        (own,) = await served(books, plane.org_id, weak)

        listed = (await plane.ask("GET", "/v1/executions", key=weak.text)).json["data"]
        assert [each["id"] for each in listed] == [ids.text("exec", own.open.execution_id)]
        assert len((await plane.ask("GET", "/v1/executions")).json["data"]) == 2
        foreign = f"/v1/executions/{ids.text('exec', others.open.execution_id)}"
        assert (await plane.ask("GET", foreign, key=weak.text)).status == 404
        for path in ("/v1/balance", "/v1/usage"):
            assert (await plane.ask("GET", path, key=weak.text)).json["error"]["code"] == "PERMISSION_DENIED"
        assert (await plane.ask("GET", "/v1/key", key=weak.text)).json["scope"] == "execution"
        await close(books)


async def test_a_key_reads_what_is_left_of_its_own_budget_and_nothing_of_its_projects(
    database: str, tmp_path: Path
) -> None:
    async with Plane(database, tmp_path) as plane:
        project = await plane.operator.create_project(plane.org_id, name="p", budget=Budget(10**10, Period.MONTH))
        budget = Budget(5 * 10**9, Period.DAY)
        made = await plane.make_key(plane.org_id, project_id=project, budget=budget)
        found = (await plane.ask("GET", "/v1/key", key=made.text)).json
        (shown,) = found["budgets"]
        assert (shown["window"], shown["limit"], shown["used"]) == ("day", "5.00", "0.00")
        assert shown["renews_at"].endswith("T00:00:00.000Z")
        assert found["project_id"] == ids.text("proj", project)
        refused = await plane.ask("POST", "/v1/api-keys", {"name": "child"}, key=made.text)
        assert (refused.status, refused.json["error"]["code"]) == (403, "PERMISSION_DENIED")
