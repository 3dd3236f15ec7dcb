"""A control process, put together as it is served, on a database that an earlier version has written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.control.plane import Plane
from waypost.app.control import ControlProcess
from waypost.app.webhooks import Webhooks
from waypost.storage.webhook_endpoints import Change, create_endpoint

OWN = "https://own.example.com/token-canary"


@asynccontextmanager
async def served(plane: Plane) -> AsyncIterator[None]:
    """The plane answers as the process does, until it is ready and from then on."""
    process = ControlProcess(plane.settings, plane.settings.database_url or "")
    plane.application = process.application
    async with process.application.router.lifespan_context(process.application), asyncio.timeout(20):
        while (await plane.ask("GET", "/readyz")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        yield


async def is_plain(plane: Plane) -> bool:
    return "canary" in str(await plane.rows("SELECT url FROM webhook_endpoint"))


async def test_it_serves_while_urls_of_before_are_being_sealed(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        await create_endpoint(plane.pool, plane.org_id, plane.ids.new(), Change(url=OWN), secret=b"s", endpoints_max=1)
        async with contextlib.AsyncExitStack() as stack:
            async with plane.pool.system() as connection:
                await connection.execute("SELECT FROM webhook_endpoint FOR UPDATE")  # sealing has to wait
                await stack.enter_async_context(served(plane))
                assert await is_plain(plane)
            async with asyncio.timeout(10):
                while await is_plain(plane):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def test_what_keeps_urls_from_being_sealed_is_told_and_stops_nothing_else(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError(OWN)

    monkeypatch.setattr(Webhooks, "seal_plain_urls", fail)
    async with Plane(database, tmp_path) as plane, served(plane):
        await asyncio.sleep(0.1)
        assert (await plane.ask("GET", "/readyz")).status == 200
    told = capsys.readouterr().err
    assert '"error_type":"ValueError"' in told
    assert "canary" not in told
