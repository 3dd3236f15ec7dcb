"""Executions that have ended, and how they are found again: calls that were waited for, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.plane import Plane
from tests.control.test_account import close, served
from tests.storage.books import Books
from waypost.kit import ids
from waypost.ledger.record import Outcome


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
            "latency_ms": 1234,
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
        assert answers[0].json["error"]["message"] == "There is no execution with this id."
        assert (await plane.ask("GET", "/v1/executions")).json["data"] == []
        assert (await plane.ask("GET", "/v1/key", key="sk_" + "0" * 64 + "_00000000")).status == 401
        await close(books)
