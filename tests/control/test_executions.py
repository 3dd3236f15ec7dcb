"""What can be done with an execution once it is accepted: read, followed, cancelled, forgotten."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.control.execution_plane import CREDIT_NANOS, created, executing, fail, finish, row_of, step
from tests.control.plane import Answer, Plane
from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import input_key, output_key
from waypost.kit import ids
from waypost.kit.values import replace
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, Ending
from waypost.storage.asynchronous_rows import OutputFile
from waypost.tenancy.api_key import Scope

OUTPUT = b'{"text":"hello"}'


async def made(plane: Plane, model: str = "text-1") -> str:
    body_input = {"prompt": "x"} if model != "text-1" else None
    shown_id: str = (await created(plane, model, body_input)).json["id"]
    return shown_id


async def get(plane: Plane, shown_id: str, rest: str = "") -> Answer:
    return await plane.ask("GET", f"/v1/executions/{shown_id}{rest}")


def events(answer: Answer) -> list[tuple[int, dict[str, object]]]:
    """Ids and data of a stream of events."""
    found = []
    for block in answer.body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            assert lines["event"] == "execution"
            found.append((int(lines["id"]), json.loads(lines["data"])))
    return found


async def test_it_is_shown_from_its_acceptance_to_its_end(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        seen = [(await get(plane, shown_id)).json]
        await step(plane, shown_id, State.RUNNING)
        seen.append((await get(plane, shown_id)).json)
        await finish(plane, shown_id, OUTPUT)
        seen.append((await get(plane, shown_id)).json)

        assert [each["status"] for each in seen] == ["PENDING", "PROCESSING", "COMPLETED"]
        assert [each["cost"] for each in seen] == [None, None, "0.000005"]
        assert [each["output"] for each in seen] == [None, None, {"text": "hello"}]
        assert seen[0]["started_at"] is None
        assert seen[1]["started_at"] is not None
        assert seen[2]["usage"]["input_tokens"] == 3
        assert seen[2]["completed_at"] >= seen[2]["created_at"]
        assert (seen[2]["error"], seen[2]["result"]) == (None, None)
        result = (await get(plane, shown_id, "/result")).json
        assert result["execution_id"] == shown_id
        assert (result["status"], result["output"], result["cost"]) == ("COMPLETED", {"text": "hello"}, "0.000005")
        assert isinstance(result["latency_ms"], int)


async def test_files_are_shown_in_both_of_modelroutes_shapes(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane, "painter-1")
        file_ids = [plane.ids.new() for _ in range(2)]
        files = tuple(OutputFile(file_id, "image/png", 1_000, 1024, 768) for file_id in file_ids)
        await finish(plane, shown_id, files=files)
        shown = (await get(plane, shown_id)).json
        first = ids.text("file", file_ids[0])
        assert shown["result"] == {
            "file_id": first,
            "content_type": "image/png",
            "width": 1024,
            "height": 768,
            "size_bytes": 1_000,
        }
        images = (await get(plane, shown_id, "/result")).json["output"]["images"]
        assert [each["file_id"] for each in images] == [ids.text("file", file_id) for file_id in file_ids]
        assert (images[0]["format"], images[0]["width"], images[0]["height"]) == ("png", 1024, 768)
        assert shown["output"] == {"images": images}


async def test_there_is_no_result_before_the_end_and_an_error_after_a_failure(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        early = await get(plane, shown_id, "/result")
        assert (early.status, early.json["error"]["code"]) == (409, "CONFLICT")
        await fail(plane, shown_id, "MODEL_OVERLOADED")
        for rest in ("", "/result"):
            shown = (await get(plane, shown_id, rest)).json
            assert (shown["status"], shown["output"], shown["cost"]) == ("FAILED", None, "0.00")
            assert (shown["error"]["code"], shown["error"]["retryable"]) == ("MODEL_OVERLOADED", True)
            assert shown["error"]["message"]


async def test_a_result_that_we_lost_before_it_was_read_is_paid_back(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        read, lost = await made(plane), await made(plane)
        for shown_id in (read, lost):
            await finish(plane, shown_id, OUTPUT)
        assert (await get(plane, read, "/result")).status == 200
        plane.vault.values.clear()
        for shown_id, cost in ((read, "0.000005"), (lost, "0.00")):
            gone = await get(plane, shown_id, "/result")
            assert (gone.status, gone.json["error"]["code"]) == (410, "RESULT_LOST")
            shown = (await get(plane, shown_id)).json
            assert (shown["status"], shown["output"], shown["cost"]) == ("COMPLETED", None, cost)
        balance = (await plane.ask("GET", "/v1/balance")).json
        assert balance["available_nanos"] == str(CREDIT_NANOS - 5_000)
        total = (await plane.ask("GET", "/v1/usage")).json["total"]
        assert (total["requests"], total["charge_nanos"], total["refunded_nanos"]) == (2, "5000", "5000")

        first_look = await made(plane)
        await finish(plane, first_look, OUTPUT)
        plane.vault.values.clear()
        shown = (await get(plane, first_look)).json
        assert (shown["output"], shown["cost"], shown["refunded"]) == (None, "0.00", "0.000005")


async def test_a_vault_that_is_away_is_no_loss(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        await finish(plane, shown_id, OUTPUT)
        plane.vault.is_up = False
        assert (await get(plane, shown_id, "/result")).status == 503
        assert (await get(plane, shown_id)).json["output"] is None
        plane.vault.is_up = True
        assert (await get(plane, shown_id, "/result")).json["output"] == {"text": "hello"}


async def test_a_deleted_result_is_gone_and_stays_paid(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        target = f"/v1/executions/{shown_id}/result"
        assert (await plane.ask("DELETE", target)).status == 409
        await finish(plane, shown_id, OUTPUT)
        deleted = await plane.ask("DELETE", target)
        assert (deleted.status, deleted.body) == (204, b"")
        assert output_key(ids.parse("exec", shown_id), 0) not in plane.vault.values
        assert (await get(plane, shown_id, "/result")).status == 410
        assert (await get(plane, shown_id)).json["cost"] == "0.000005"
        assert (await plane.ask("DELETE", target)).status == 204


@pytest.mark.parametrize("state", [State.RECEIVED, State.RUNNING])
async def test_what_waits_or_is_called_is_cancelled_at_once_for_nothing(
    database: str, tmp_path: Path, state: State
) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        if state is not State.RECEIVED:
            await step(plane, shown_id, state)
        answer = await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
        assert (answer.status, answer.json["status"], answer.json["cost"]) == (200, "CANCELLED", "0.00")
        assert answer.json["error"] is None
        again = await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
        assert (again.status, again.json["error"]["message"]) == (409, "The execution is cancelled already.")
        assert "retry-after" not in again.headers
        balance = (await plane.ask("GET", "/v1/balance")).json
        assert (balance["available_nanos"], balance["held_nanos"]) == (str(CREDIT_NANOS), "0")
        assert input_key(ids.parse("exec", shown_id)) not in plane.vault.values


async def test_a_providers_job_is_asked_to_stop_and_decides_itself(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane, "film-1")
        await step(plane, shown_id, State.RUNNING, Mode.CALLBACK)
        for _ in range(2):
            asked = await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
            assert (asked.status, asked.json["status"]) == (202, "AWAITING_WEBHOOK")
            assert asked.json["cancel_requested_at"] is not None
        jobs = await plane.rows("SELECT count(*) FROM procrastinate_jobs WHERE task_name = %s", CANCEL_AT_PROVIDER)
        assert jobs == [(1,)]
        await finish(plane, shown_id, files=(OutputFile(plane.ids.new(), "video/mp4"),))
        late = await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
        assert (late.status, late.json["error"]["code"]) == (409, "CONFLICT")
        assert (await get(plane, shown_id)).json["status"] == "COMPLETED"


async def test_of_an_end_and_a_cancellation_at_once_one_happens(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:

        async def ends(shown_id: str) -> bool:
            before = await row_of(plane, shown_id)
            after = replace(before, state=State.SUCCEEDED, ended_at=datetime.now(UTC))
            return await plane.executions.step(before, after, ending=Ending(5_000)) is not None

        for _ in range(8):
            shown_id = await made(plane)
            has_ended, answer = await asyncio.gather(
                ends(shown_id), plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
            )
            assert answer.status == (409 if has_ended else 200)
            status = (await get(plane, shown_id)).json["status"]
            assert status == ("COMPLETED" if has_ended else "CANCELLED")


async def test_nothing_follows_an_end(database: str, tmp_path: Path) -> None:
    """Also for whoever looked the row up after its end."""
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
        ended = await row_of(plane, shown_id)
        again = replace(ended, state=State.SUCCEEDED)
        assert await plane.executions.step(ended, again, ending=Ending(5_000)) is None
        async with plane.books.connection() as connection:
            assert await plane.executions.step_on(connection, ended, again, ending=Ending(5_000)) is None
        assert await row_of(plane, shown_id) == ended


async def test_a_result_that_is_deleted_while_it_is_read_is_not_paid_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        await finish(plane, shown_id, OUTPUT)
        seen: list[Answer] = []
        delete = plane.vault.delete

        async def delete_and_look(*keys: str) -> None:
            await delete(*keys)
            seen.append(await get(plane, shown_id, "/result"))

        monkeypatch.setattr(plane.vault, "delete", delete_and_look)
        gone = await plane.ask("DELETE", f"/v1/executions/{shown_id}/result")
        assert (gone.status, [each.status for each in seen]) == (204, [410])
        assert (await get(plane, shown_id)).json["cost"] == "0.000005"


async def test_a_result_whose_price_went_back_is_not_told_any_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it in hand when another finds it lost does not get both."""
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        await finish(plane, shown_id, OUTPUT)
        take = plane.vault.get

        async def take_before_it_is_lost(key: str) -> bytes | None:
            value = await take(key)
            assert value is None or await plane.executions.result_is_lost(ids.parse("exec", shown_id))
            return value

        monkeypatch.setattr(plane.vault, "get", take_before_it_is_lost)
        assert (await get(plane, shown_id, "/result")).status == 410
        assert (await get(plane, shown_id)).json["cost"] == "0.00"


async def test_every_answer_about_one_names_it(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        await plane.ask("POST", f"/v1/executions/{shown_id}/cancel")
        for method, rest in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", "/result")):
            answer = await plane.ask(method, f"/v1/executions/{shown_id}{rest}")
            assert answer.headers["x-execution-id"] == shown_id, (method, rest)
        waiting = await made(plane)
        cancelled = await plane.ask("POST", f"/v1/executions/{waiting}/cancel")
        assert cancelled.headers["x-execution-id"] == waiting


async def test_a_path_has_one_spelling_and_nobody_is_sent_elsewhere(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        for method, path in (("POST", "/v1/executions/"), ("GET", "/v1/executions/"), ("GET", "/v1/balance/")):
            answer = await plane.ask(method, path, {} if method == "POST" else None)
            assert (answer.status, answer.json["error"]["code"]) == (404, "NOT_FOUND"), path
            assert "location" not in answer.headers


async def test_its_states_are_streamed_until_the_end_and_taken_up_where_they_were_left(
    database: str, tmp_path: Path
) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        target = f"/v1/executions/{shown_id}/events"
        said: list[bytes] = []
        following = asyncio.ensure_future(plane.ask("GET", target, hear=said.append))
        async with asyncio.timeout(20):
            for state in ("PENDING", "PROCESSING"):
                while state.encode() not in b"".join(said):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if state == "PENDING":
                    await step(plane, shown_id, State.RUNNING)
            await finish(plane, shown_id, OUTPUT)
            answer = await following
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = events(answer)
        assert [(number, each["status"]) for number, each in seen] == [
            (1, "PENDING"),
            (2, "PROCESSING"),
            (3, "COMPLETED"),
        ]

        taken_up = events(await plane.ask("GET", target, headers={"last-event-id": "2"}))
        assert [number for number, _ in taken_up] == [3]
        assert events(await plane.ask("GET", target, headers={"last-event-id": "3"})) == []
        assert [number for number, _ in events(await plane.ask("GET", target, headers={"last-event-id": "x"}))] == [3]


async def test_anothers_execution_is_as_unknown_as_one_that_never_was(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        other = await plane.make_key(await plane.operator.create_org("other", is_unlimited=True))
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        for method, rest in (
            ("GET", ""),
            ("GET", "/result"),
            ("DELETE", "/result"),
            ("POST", "/cancel"),
            ("GET", "/events"),
        ):
            bodies = set()
            for key in (other.text, weak.text):
                for known in (shown_id, ids.text("exec", plane.ids.new()), "exec_x"):
                    answer = await plane.ask(
                        method, f"/v1/executions/{known}{rest}", key=key, headers={"x-request-id": "req_1"}
                    )
                    assert answer.status == 404
                    bodies.add(answer.body)
            assert len(bodies) == 1
        assert (await get(plane, shown_id)).json["status"] == "PENDING"


async def test_filters_that_make_no_sense_are_refused_by_name(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        shown_id = await made(plane)
        day = datetime.now(UTC).date()
        for query in ("status=PENDING", "model=text-1", f"created_after={day}", "created_before=2999-01-01"):
            (found,) = (await plane.ask("GET", f"/v1/executions?{query}")).json["data"]
            assert found["id"] == shown_id
        for query in ("status=FAILED", "model=film-1", "created_after=2999-01-01T00:00:00Z", f"created_before={day}"):
            assert (await plane.ask("GET", f"/v1/executions?{query}")).json["data"] == []
        for query in ("status=done", "created_after=monday", "created_before=", "limit=101"):
            refused = await plane.ask("GET", f"/v1/executions?{query}")
            assert refused.status == 400
            assert refused.json["error"]["details"][0]["field"] == query.partition("=")[0]
