"""What a key reads of the account over HTTP: its own organisation's, as far as its scope goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.plane import Plane
from tests.storage.books import Books, attempt
from waypost.app.operator import NewKey
from waypost.kit import ids
from waypost.ledger.record import ClosedAttempt, Outcome
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


async def test_a_call_that_ended_is_shown_with_its_cost(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        (row,) = await served(books, plane.org_id, plane.key)
        shown_id = ids.text("exec", row.open.execution_id)
        found = (await plane.ask("GET", f"/v1/executions/{shown_id}")).json
        assert found == {
            "id": shown_id,
            "status": "COMPLETED",
            "model": "swift-1",
            "usage": {
                "input_tokens": 10,
                "cache_read_tokens": 20,
                "cache_write_tokens": 70,
                "output_tokens": 50,
                "reasoning_tokens": 5,
                "is_estimated": False,
            },
            "cost": "0.0000015",
            "created_at": found["created_at"],
            "completed_at": found["completed_at"],
            "error": None,
        }
        assert "alpha" not in str(found)
        await close(books)


@pytest.mark.parametrize(
    ("outcome", "code", "status", "error"),
    [
        (Outcome.FAILED, "MODEL_OVERLOADED", "FAILED", "MODEL_OVERLOADED"),
        (Outcome.REJECTED, "INPUT_VALIDATION_ERROR", "FAILED", "INPUT_VALIDATION_ERROR"),
        (Outcome.CRASHED, "INTERNAL_ERROR", "FAILED", "INTERNAL_ERROR"),
        (Outcome.CUT_OFF, "", "FAILED", "SERVICE_UNAVAILABLE"),
        (Outcome.DISCONNECTED, "", "CANCELLED", None),
    ],
)
async def test_how_a_call_ended(
    database: str, tmp_path: Path, outcome: Outcome, code: str, status: str, error: str | None
) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        await served(books, plane.org_id, plane.key, outcome=outcome, error_code=code)
        (found,) = (await plane.ask("GET", "/v1/executions")).json["data"]
        assert found["status"] == status
        assert (found["error"] and found["error"]["code"]) == error
        await close(books)


async def test_pages_hold_every_call_once_the_newest_first(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        await plane.operator.add_credit(plane.org_id, 2_000_000_000, "one")
        rows = await served(books, plane.org_id, plane.key, 5)
        seen, target = [], "/v1/executions?limit=2"
        while True:
            page = (await plane.ask("GET", target)).json
            seen += [each["id"] for each in page["data"]]
            if page["next_cursor"] is None:
                break
            target = f"/v1/executions?limit=2&cursor={page['next_cursor']}"
        assert seen == [ids.text("exec", row.open.execution_id) for row in reversed(rows)]
        for wrong in ("limit=0", "limit=x", "cursor=exec_1"):
            assert (await plane.ask("GET", f"/v1/executions?{wrong}")).status == 400
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


async def test_another_organisations_call_is_as_unknown_as_one_that_never_was(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        books = Books(database)
        other = await plane.operator.create_org("other", is_unlimited=True)
        key = await plane.make_key(other)
        (foreign,) = await served(books, other, key)
        targets = (ids.text("exec", foreign.open.execution_id), ids.text("exec", plane.ids.new()), "exec_x", "key_x")
        answers = [await plane.ask("GET", f"/v1/executions/{target}") for target in targets]
        assert {(each.status, each.json["error"]["code"], len(each.body)) for each in answers} == {
            (404, "NOT_FOUND", len(answers[0].body))
        }
        assert (await plane.ask("GET", "/v1/executions")).json["data"] == []
        assert (await plane.ask("GET", "/v1/key", key="sk_" + "0" * 64 + "_00000000")).status == 401
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
