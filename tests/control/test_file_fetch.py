"""Outputs are fetched whole or not at all, from nowhere that nobody may call, and shown when the execution succeeds."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.plane import Plane
from tests.control.uploads import kept, picture
from tests.upstream.test_guarded_session import Serve, names, says, served, session
from tests.upstream.traps import connections
from waypost.control import file_fetch
from waypost.control.file_fetch import FetchFailed, FetchFailure, Outputs
from waypost.kit.ids import Ids
from waypost.storage.files import FileRow, FileState, drop_outputs_on, show_outputs_on
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.telemetry.metrics import Page
from waypost.upstream.guarded_session import Bounds

IDS = Ids()
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HOST = "cdn.provider.example.com"


class Fetching:
    """An execution whose output is at a provider's server."""

    def __init__(self, plane: Plane, outputs: Outputs, port: int, page: Page) -> None:
        self.plane, self.outputs, self.port, self.page = plane, outputs, port, page
        self.execution_id = IDS.new()

    async def rehost(self, source: str | bytes | None = None, index: int = 0) -> FileRow:
        return await self.outputs.rehost(
            org_id=self.plane.org_id,
            execution_id=self.execution_id,
            output_index=index,
            source=f"https://{HOST}:{self.port}/output?signature=x" if source is None else source,
        )

    async def failure(self, source: str | bytes | None = None) -> FetchFailure:
        with pytest.raises(FetchFailed) as caught:
            await self.rehost(source)
        assert kept(self.plane) == []
        assert f'reason="{caught.value.failure.reason}"' in self.page.render().decode()
        return caught.value.failure


@contextlib.asynccontextmanager
async def fetching(database: str, tmp_path: Path, serve: Serve) -> AsyncIterator[Fetching]:
    async with (
        Plane(database, tmp_path) as plane,
        served(serve, certified=HOST) as port,
        session("127.0.0.1/32", lookup=names(["127.0.0.1"])) as guarded,
    ):
        page = Page()
        yield Fetching(plane, Outputs(plane.files, guarded, IDS, page), port, page)


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK", more: bytes = b"") -> Serve:
    return says(head + b"\r\ncontent-length: %d\r\n" % len(body) + more + b"\r\n" + body)


async def test_an_output_is_held_until_its_execution_has_succeeded(database: str, tmp_path: Path) -> None:
    content = picture(300_000, width=1024, height=768)
    async with fetching(database, tmp_path, answer(content, more=b"content-type: text/html\r\n")) as here:
        row = await here.rehost()

        assert (row.state, row.content_type, row.size_bytes) == (FileState.HELD, "image/png", len(content))
        assert (row.width, row.height, row.sha256) == (1024, 768, hashlib.sha256(content).digest())
        assert (await here.plane.ask("GET", "/v1/files")).json["data"] == []
        settling = Pool(database, Role.SETTLE, size=1)
        async with settling.connection() as connection, connection.transaction():
            await show_outputs_on(connection, here.execution_id)
        await settling.close()
        shown = (await here.plane.ask("GET", "/v1/files")).json["data"][0]
        assert (shown["purpose"], shown["status"]) == ("OUTPUT", "READY")
        fetched = await here.plane.ask("GET", f"/v1/files/{shown['id']}/download")
        assert fetched.body == content
        assert b"provider" not in fetched.body + str(fetched.headers).encode()


async def test_an_output_of_an_execution_that_did_not_succeed_is_never_shown(database: str, tmp_path: Path) -> None:
    async with fetching(database, tmp_path, answer(picture())) as here:
        await here.rehost()
        settling = Pool(database, Role.SETTLE, size=1)
        async with settling.connection() as connection:
            await drop_outputs_on(connection, here.execution_id)
        await settling.close()
        here.plane.clock.step_s(1)
        await here.plane.files.sweep()

        assert kept(here.plane) == []
        assert await here.plane.rows("SELECT FROM file") == []
        assert await here.plane.rows("SELECT bytes FROM file_storage") == [(0,)]


async def test_of_one_output_there_is_one_file_however_often_it_is_asked_for(database: str, tmp_path: Path) -> None:
    async with fetching(database, tmp_path, answer(picture())) as here:
        first = await here.rehost()
        with connections() as record:
            again = await here.rehost()
        other = await here.rehost(picture(), index=1)

        assert again == first
        assert record == []
        assert other.id != first.id
        assert len(kept(here.plane)) == 2


async def test_an_output_may_come_as_bytes(database: str, tmp_path: Path) -> None:
    async with fetching(database, tmp_path, answer(b"")) as here:
        assert (await here.rehost(picture())).content_type == "image/png"
        here.execution_id = IDS.new()
        with pytest.raises(FetchFailed):
            await here.rehost(b"no picture")


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.provider.example.com/x.png",
        "https://[::1]/x.png",
        "https://169.254.169.254/latest/meta-data",
        "https://cdn.provider.example.com@evil.example.net/",
        "file:///etc/passwd",
        "ftp://cdn.provider.example.com/x.png",
        "x.png",
        "",
    ],
)
async def test_an_address_where_nobody_may_call_is_not_called(database: str, tmp_path: Path, url: str) -> None:
    async with fetching(database, tmp_path, answer(picture())) as here:
        with connections() as record:
            assert await here.failure(url) is FetchFailure.FORBIDDEN
        assert record == []


async def test_what_the_operator_allows_may_be_fetched_wherever_it_is(database: str, tmp_path: Path) -> None:
    async with (
        Plane(database, tmp_path) as plane,
        served(answer(picture())) as port,
        session(f"127.0.0.1:{port}") as guarded,
    ):
        here = Fetching(plane, Outputs(plane.files, guarded, IDS), port, Page())
        assert (await here.rehost(f"http://127.0.0.1:{port}/x")).content_type == "image/png"


@pytest.mark.parametrize(
    ("serve", "failure"),
    [
        (answer(b"gone", b"HTTP/1.1 403 Forbidden"), FetchFailure.EXPIRED),
        (answer(b"gone", b"HTTP/1.1 404 Not Found"), FetchFailure.EXPIRED),
        (answer(b"gone", b"HTTP/1.1 410 Gone"), FetchFailure.EXPIRED),
        (answer(b"", b"HTTP/1.1 302 Found", b"location: https://169.254.169.254/\r\n"), FetchFailure.FORBIDDEN),
        (answer(b"busy", b"HTTP/1.1 503 Unavailable"), FetchFailure.UNAVAILABLE),
        (answer(b"slow", b"HTTP/1.1 429 Too Many"), FetchFailure.UNAVAILABLE),
        (answer(picture(), b"HTTP/1.1 206 Partial"), FetchFailure.UNAVAILABLE),
        (answer(picture(), more=b"content-encoding: gzip\r\n"), FetchFailure.UNAVAILABLE),
        (says(b"HTTP/1.1 200 OK\r\n\r\n" + picture()), FetchFailure.UNAVAILABLE),
        (says(b"HTTP/1.1 200 OK\r\ncontent-length: 4999\r\n\r\n" + picture()), FetchFailure.UNAVAILABLE),
        (says(b"no HTTP at all\r\n\r\n"), FetchFailure.UNAVAILABLE),
        (answer(b"<!DOCTYPE html><p>Sorry"), FetchFailure.TYPE_UNSUPPORTED),
        (answer(b""), FetchFailure.TYPE_UNSUPPORTED),
        (answer(picture(5001)), FetchFailure.TOO_LARGE),
        (
            says(CHUNKED + b"1389\r\n" + picture(5001)),
            FetchFailure.TOO_LARGE,
        ),
    ],
)
async def test_why_there_is_no_output_is_told_and_nothing_is_kept(
    database: str, tmp_path: Path, serve: Serve, failure: FetchFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_fetch, "BOUNDS", Bounds(answer_bytes=5000))
    async with fetching(database, tmp_path, serve) as here:
        assert await here.failure() is failure
