"""A defect of ours between the hold and the attempt frees what the request had taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.inside import InsideStack
from tests.e2e.stack import ask


def _fail(*_: object) -> None:
    raise RuntimeError


@pytest.mark.interpreted_only("plants its defect in the pipeline's namespace, where compiled code does not look")
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "one"}], ids=["at once", "after a grant"])
async def test_a_defect_before_the_attempt_frees_hold_and_place(
    headers: dict[str, str], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with InsideStack(database, tmp_path) as stack:
        assert (await stack.chat(ask())).status == 200  # from now on the lease has room
        monkeypatch.setattr("waypost.gateway.pipeline.PlainRelay", _fail)
        assert (await stack.chat(ask(), headers=headers)).status == 500
        await stack.at_rest()
        assert stack.gateway.gateway.allowances.under_way == 0
