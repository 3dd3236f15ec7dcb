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


@pytest.mark.parametrize("path", ["/v1/balance", "/v1/executions", "/v1/callbacks/alpha/exec_1/1/00"])
async def test_a_process_that_does_not_know_the_keys_yet_refuses_nobody_for_good(
    database: str, tmp_path: Path, path: str
) -> None:
    async with Plane(database, tmp_path) as plane:
        plane.is_ready = False
        early = await plane.ask("GET", path, headers=RELAYED)
        assert (early.status, early.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert early.headers["retry-after"] == "1"
        plane.is_ready = True
        assert (await plane.ask("GET", "/v1/balance", headers=RELAYED)).status == 200
