"""MixRoute's video tasks: both generations of the request become an execution, and the answer has both ones' fields."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import StreamingResponse

from tests.control.execution_plane import executing
from tests.control.plane import Plane
from waypost.control import video_generations
from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import input_key
from waypost.executions.video_tasks import input_of_task
from waypost.kit import ids
from waypost.kit.errors import Refusal
from waypost.kit.values import replace
from waypost.storage.asynchronous_executions import Ending
from waypost.storage.asynchronous_rows import OutputFile
from waypost.storage.files import hold_output, show_outputs_on
from waypost.wire.canonical import Usage

PATH = "/v1/video/generations"
KNOWN = frozenset(("prompt", "duration", "resolution", "aspect_ratio", "image", "seed"))


async def submit(plane: Plane, **fields: Any) -> Any:
    return await plane.ask("POST", PATH, {"model": "film-1", "prompt": "a fox"} | fields)


async def input_of(plane: Plane, task_id: str) -> Any:
    kept = await plane.vault.get(input_key(ids.parse("exec", task_id)))
    assert kept is not None
    return msgspec.json.decode(kept)


async def end(plane: Plane, task_id: str, state: State, *files: OutputFile, error_code: str = "") -> None:
    row = await plane.executions.find(ids.parse("exec", task_id))
    assert row is not None
    now = datetime.now(UTC)
    running = replace(row, state=State.RUNNING, mode=Mode.CALLBACK, attempt=1, started_at=now)
    stepped = await plane.executions.step(row, running)
    assert stepped is not None
    after = replace(stepped, state=state, ended_at=now, output_files=files, error_code=error_code)
    charge = 400_000 if state is State.SUCCEEDED else 0
    assert await plane.executions.step(stepped, after, ending=Ending(charge, Usage(duration_ms=4_000))) is not None


async def test_a_task_is_an_execution(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        made = await submit(plane, seconds="4", size="1280x720", generateAudio=False, seed=7)
        assert made.status == 200
        assert made.json["status"] == "pending"
        assert isinstance(made.json["created_at"], int)
        task_id = made.json["task_id"]
        assert await input_of(plane, task_id) == {
            "prompt": "a fox",
            "duration": 4,
            "width": 1280,
            "height": 720,
            "generate_audio": False,
            "seed": 7,
        }
        asked = await plane.ask("GET", f"{PATH}/{task_id}")
        assert (asked.json["status"], asked.json["url"]) == ("queued", None)
        assert (asked.json["code"], asked.json["data"]["status"]) == ("success", "QUEUED")
        assert (await plane.ask("GET", f"/v1/executions/{task_id}")).json["status"] == "PENDING"


async def test_the_newer_generation_says_the_same_elsewhere(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        metadata = {
            "input": {"prompt": "a hare"},
            "parameters": {"resolution": "720P", "ratio": "16:9", "duration": 5, "watermark": False, "audio": True},
        }
        made = await plane.ask("POST", PATH, {"model": "film-1", "metadata": metadata})
        assert await input_of(plane, made.json["task_id"]) == {
            "prompt": "a hare",
            "resolution": "720P",
            "aspect_ratio": "16:9",
            "duration": 5,
            "generate_audio": True,
        }


async def test_a_film_is_shown_by_an_address_that_needs_no_key_and_downloaded(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        task_id = (await submit(plane)).json["task_id"]
        early = await plane.ask("GET", f"{PATH}/download?id={task_id}")
        assert (early.status, early.json["error"]["code"]) == (409, "CONFLICT")

        film = b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2mp41" + b"\0" * 100
        file_id = await kept(plane, ids.parse("exec", task_id), film)
        await end(plane, task_id, State.SUCCEEDED, OutputFile(file_id, "video/mp4", len(film)))
        told = (await plane.ask("GET", f"{PATH}/{task_id}")).json
        assert (told["status"], told["format"]) == ("succeeded", "mp4")
        assert told["data"]["status"] == "SUCCESS"
        assert told["data"]["result_url"] == told["url"]
        assert told["data"]["data"]["usage"] == {"duration": 4.0, "cost": "0.0004"}
        loaded = await plane.ask("GET", told["url"].partition("/v1/")[1] + told["url"].partition("/v1/")[2], key=None)
        assert (loaded.status, loaded.body) == (200, film)

        inside = (await plane.ask("GET", f"{PATH}/download?id={task_id}")).json
        assert (inside["success"], inside["size"]) == (True, len(film))
        assert inside["data_url"] == f"data:video/mp4;base64,{inside['base64']}"
        assert base64.b64decode(inside["base64"], validate=True) == film


async def test_a_film_inside_of_json_is_sent_in_parts(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large, no more of it than a part is held; parts have any lengths."""
    sent: list[int] = []

    class Noting(StreamingResponse):
        def __init__(self, parts: AsyncIterator[bytes], **how: Any) -> None:
            async def noted() -> AsyncIterator[bytes]:
                async for part in parts:
                    sent.append(len(part))
                    yield part

            super().__init__(noted(), **how)

    monkeypatch.setattr(video_generations, "StreamingResponse", Noting)
    async with executing(database, tmp_path) as plane:
        task_id = (await submit(plane)).json["task_id"]
        film = b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2mp41" + bytes(range(256)) * 12_000
        file_id = await kept(plane, ids.parse("exec", task_id), film)
        await end(plane, task_id, State.SUCCEEDED, OutputFile(file_id, "video/mp4", len(film)))
        inside = (await plane.ask("GET", f"{PATH}/download?id={task_id}")).json
        assert base64.b64decode(inside["base64"], validate=True) == film
        assert inside["data_url"] == f"data:video/mp4;base64,{inside['base64']}"
        assert max(sent) < len(film)


async def kept(plane: Plane, execution_id: bytes, content: bytes) -> bytes:
    async def source() -> Any:
        yield content

    file_id = plane.ids.new()
    written = await plane.files.write(file_id, source(), bytes_max=10_000_000)
    row = await hold_output(
        plane.pool,
        written,
        file_id=file_id,
        org_id=plane.org_id,
        execution_id=execution_id,
        output_index=0,
        region="US",
        ttl_days_default=30,
        now=plane.files.now(),
    )
    async with plane.pool.system() as connection:
        await show_outputs_on(connection, execution_id)
    return row.id


@pytest.mark.parametrize(
    ("state", "code", "newer"),
    [(State.FAILED, "CONTENT_MODERATION_REJECTED", "FAILURE"), (State.EXPIRED, "GENERATION_TIMEOUT", "EXPIRED")],
)
async def test_a_task_that_failed_says_why(database: str, tmp_path: Path, state: State, code: str, newer: str) -> None:
    async with executing(database, tmp_path) as plane:
        task_id = (await submit(plane)).json["task_id"]
        await end(plane, task_id, state, error_code=code)
        told = (await plane.ask("GET", f"{PATH}/{task_id}")).json
        assert (told["status"], told["error"]["code"]) == ("failed", code)
        assert told["data"]["status"] == newer
        assert told["data"]["fail_reason"] == told["error"]["message"]
        download = await plane.ask("GET", f"{PATH}/download?id={task_id}")
        assert (download.status, "retry-after" in download.headers) == (409, False)
        assert code in download.json["error"]["message"]


async def test_a_cancelled_task_has_failed(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        task_id = (await submit(plane)).json["task_id"]
        assert (await plane.ask("POST", f"/v1/executions/{task_id}/cancel")).status == 200
        told = (await plane.ask("GET", f"{PATH}/{task_id}")).json
        assert (told["status"], told["data"]["status"], told["error"]["code"]) == ("failed", "CANCELED", "CANCELLED")


async def test_errors_are_in_openais_envelope(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        answers = [
            await submit(plane, model="text-1"),
            await submit(plane, model="nobody"),
            await submit(plane, seconds=10_000),
            await submit(plane, image="https://169.254.169.254/latest"),
            await submit(plane, size="large"),
            await plane.ask("POST", PATH, {"model": "film-1", "metadata": {"input": {"media": [{"type": "x"}]}}}),
            await plane.ask("POST", PATH, ["film-1"]),
        ]
        assert [each.status for each in answers] == [400] * len(answers)
        for each in answers:
            assert each.json["error"]["type"] == "invalid_request_error"
            assert "169.254" not in each.body.decode()
        assert answers[2].json["error"]["param"] == "seconds"
        assert answers[2].json["error"]["message"].startswith("'seconds' is at most")
        below = await plane.ask("POST", PATH, {"model": "film-1", "metadata": {"parameters": {"durationSeconds": -2}}})
        assert below.json["error"]["param"] == "prompt"
        below = await submit(plane, durationSeconds=-2)
        assert below.json["error"]["param"] == "durationSeconds"
        nameless = await plane.ask("GET", f"{PATH}/download")
        assert (nameless.status, nameless.json["error"]["param"]) == (400, "id")
        missing = await plane.ask("GET", f"{PATH}/{ids.text('exec', plane.ids.new())}")
        assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")
        nobody = await plane.ask("GET", f"{PATH}/x", key="")
        assert (nobody.status, nobody.json["error"]["type"]) == (401, "authentication_error")
        assert plane.vault.values == {}


async def test_a_task_is_made_once_under_one_idempotency_key(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        made = [
            await plane.ask("POST", PATH, {"model": "film-1", "prompt": "a"}, headers={"idempotency-key": "k"})
            for _ in range(2)
        ]
        assert made[0].json["task_id"] == made[1].json["task_id"]
        assert made[1].headers["idempotent-replayed"] == "true"


async def test_other_executions_are_no_tasks(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        body = {"model": "text-1", "input": {"messages": [{"role": "user", "content": "hi"}]}}
        made = await plane.ask("POST", "/v1/executions", body)
        assert (await plane.ask("GET", f"{PATH}/{made.json['id']}")).status == 404


def test_what_a_model_names_itself_is_left_as_it_is() -> None:
    task = {"model": "m", "prompt": "", "ratio": "adaptive", "seconds": 5, "watermark": True, "image": None}
    assert input_of_task(task, KNOWN) == {"prompt": "", "duration": 5}
    own = frozenset(("prompt", "seconds", "watermark", "size"))
    assert input_of_task(task | {"size": "big"}, own) == {"prompt": "", "seconds": 5, "watermark": True, "size": "big"}
    media = [{"type": "reference_image", "url": "file_1"}, {"type": "last_frame", "url": "file_2"}]
    assert input_of_task({"metadata": {"input": {"media": media}}}, KNOWN) == {
        "reference_images": ["file_1"],
        "last_frame": "file_2",
    }
    wrong: list[dict[str, Any]] = [{"metadata": []}, {"metadata": {"input": []}}, {"size": 7}]
    for broken in (*wrong, {"metadata": {"input": {"media": {}}}}):
        with pytest.raises(Refusal):
            input_of_task(broken, KNOWN)
