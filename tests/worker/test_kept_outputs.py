"""What jobs made becomes files of the organisation when the execution succeeds, and nothing at all when it does not."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.control.plane import Plane
from tests.control.test_file_fetch import answer
from tests.control.uploads import picture
from tests.storage.asynchronous import ended, received
from tests.storage.books import IDS
from tests.upstream.test_guarded_session import served, session
from tests.wire.test_media_duration import FILM, sound
from waypost.control.file_fetch import Outputs
from waypost.executions.lifecycle import State
from waypost.kit import ids
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.storage.files import drop_outputs_on, show_outputs_on
from waypost.worker.job_steps import OutputNotKept, OutputsAway, OutputUnfit
from waypost.worker.kept_outputs import KeptOutputs


@asynccontextmanager
async def keeping(database: str, tmp_path: Path, *allow: str) -> AsyncIterator[tuple[Plane, KeptOutputs]]:
    async with Plane(database, tmp_path) as plane, session(*allow) as guarded:
        yield plane, KeptOutputs(Outputs(plane.files, guarded, IDS))


async def settle(plane: Plane, execution: AsynchronousExecution) -> list[str]:
    """End it; the files that its organisation has then."""
    async with plane.books.connection() as connection, connection.transaction():
        settle_on = show_outputs_on if execution.state is State.SUCCEEDED else drop_outputs_on
        await settle_on(connection, execution.id)
    return [row["id"] for row in (await plane.ask("GET", "/v1/files")).json["data"]]


async def test_what_is_at_an_address_and_what_came_inside_the_answer_are_shown_on_success(
    database: str, tmp_path: Path
) -> None:
    inline = "data:image/png;base64," + base64.b64encode(picture(300, width=3, height=4)).decode()
    async with served(answer(picture(500))) as port, keeping(database, tmp_path, f"127.0.0.1:{port}") as (plane, kept):
        execution = received(plane.org_id)
        first = await kept.rehost(execution, 0, f"http://127.0.0.1:{port}/x")
        second = await kept.rehost(execution, 1, inline)

        assert (first.content_type, first.bytes, first.width, first.height) == ("image/png", 500, 640, 480)
        assert (second.bytes, second.width, second.height) == (300, 3, 4)
        assert await kept.rehost(execution, 1, inline) == second
        assert (await plane.ask("GET", "/v1/files")).json["data"] == []
        shown = await settle(plane, ended(execution, State.SUCCEEDED))
        assert shown == [ids.text("file", second.id), ids.text("file", first.id)]


async def test_how_long_a_film_or_a_sound_lasts_is_measured_and_known_again(database: str, tmp_path: Path) -> None:
    async with served(answer(sound(2.5))) as port, keeping(database, tmp_path, f"127.0.0.1:{port}") as (plane, kept):
        execution = received(plane.org_id)
        heard = await kept.rehost(execution, 0, f"http://127.0.0.1:{port}/x")
        seen = await kept.rehost(execution, 1, "data:video/mp4;base64," + base64.b64encode(FILM).decode())

        assert [(each.content_type, each.duration_ms) for each in (heard, seen)] == [
            ("audio/wav", 2_500),
            ("video/mp4", 4_040),
        ]
        assert await kept.rehost(execution, 0, f"http://127.0.0.1:{port}/x") == heard
        await settle(plane, ended(execution, State.SUCCEEDED))
        assert [row["duration_ms"] for row in (await plane.ask("GET", "/v1/files")).json["data"]] == [4_040, 2_500]


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELED, State.EXPIRED])
async def test_what_was_kept_for_an_execution_that_did_not_succeed_is_dropped(
    database: str, tmp_path: Path, state: State
) -> None:
    async with keeping(database, tmp_path) as (plane, kept):
        execution = received(plane.org_id)
        await kept.rehost(execution, 0, "data:image/png;base64," + base64.b64encode(picture()).decode())

        assert await settle(plane, ended(execution, state)) == []
        plane.clock.step_s(1)
        await plane.files.sweep()
        assert await plane.rows("SELECT FROM file") == []


@pytest.mark.parametrize(
    "address",
    [
        "data:image/png;base64,@@@@",
        "data:image/png,plain",
        "data:image/png;base64," + base64.b64encode(b"no picture").decode(),
        "http://127.0.0.1:9/x",
        "https://169.254.169.254/x",
    ],
)
async def test_what_cannot_be_kept_is_told(database: str, tmp_path: Path, address: str) -> None:
    async with keeping(database, tmp_path) as (plane, kept):
        with pytest.raises(OutputNotKept):
            await kept.rehost(received(plane.org_id), 0, address)
        assert await plane.rows("SELECT FROM file") == []


async def test_what_would_be_the_same_another_time_is_told_apart(database: str, tmp_path: Path) -> None:
    async with keeping(database, tmp_path) as (plane, kept):
        with pytest.raises(OutputUnfit) as unfit:
            await kept.rehost(received(plane.org_id), 0, "data:image/png;base64," + base64.b64encode(b"<p>").decode())
        assert unfit.value.tries_max == 3, "an error page may stand in its place for a moment"
        with pytest.raises(OutputNotKept) as caught:
            await kept.rehost(received(plane.org_id), 0, "data:image/png;base64,@@@@")
        assert not isinstance(caught.value, OutputUnfit)


async def test_where_nobody_is_may_be_somebody_later(database: str, tmp_path: Path) -> None:
    async with keeping(database, tmp_path, "127.0.0.1:9") as (plane, kept):
        with pytest.raises(OutputsAway):
            await kept.rehost(received(plane.org_id), 0, "http://127.0.0.1:9/x")
