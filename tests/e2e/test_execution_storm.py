"""The storm over executions, small; `docs/operating/prove-the-money.md` tells how to run it large."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.execution_storm import storm
from tests.e2e.test_executions import Executing


@pytest.mark.slow
async def test_executions_end_well_whoever_kills_the_control_process(database: str, tmp_path: Path) -> None:
    async with Executing(database, tmp_path, workers=1, credit_usd=100) as stack:
        report = await storm(stack, executions=60, pause_s=0.5, seed=7, kills_max=2)
    assert report.is_clean, report
    assert report.kills
