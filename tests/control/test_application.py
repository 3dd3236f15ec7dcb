"""What of the control process is for the supervisor alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.plane import Plane

RELAYED = {"x-forwarded-for": "192.0.2.7"}  # as the gateway says of every caller


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
async def test_the_supervisors_pages_are_not_there_for_callers(database: str, tmp_path: Path, path: str) -> None:
    async with Plane(database, tmp_path) as plane:
        assert (await plane.ask("GET", path)).status == 200

        callers = await plane.ask("GET", path, headers=RELAYED)

        assert (callers.status, callers.json["error"]["code"]) == (404, "NOT_FOUND")
