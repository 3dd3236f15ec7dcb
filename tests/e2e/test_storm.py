"""The proofs with real processes, small; `docs/operating/prove-the-money.md` tells how to run them large."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.exact_balance import spend
from tests.e2e.storm import storm
from tests.e2e.supervised import Supervised


@pytest.mark.slow
async def test_a_storm_leaves_no_nano_unexplained(database: str, tmp_path: Path) -> None:
    async with Supervised(database, tmp_path, workers=2, credit_usd=1000) as stack:
        report = await storm(stack, kills=4, callers=8, seed=5, pause_s=(0.1, 0.5))
    assert report.is_clean, report
    assert report.crashed, "no kill hit a running request"


@pytest.mark.slow
async def test_two_gateways_serve_exactly_what_a_balance_covers(database: str, tmp_path: Path) -> None:
    async with Supervised(database, tmp_path, workers=2, credit_usd=0) as stack:
        report = await spend(stack, clients=40, covered=30, slow_ms=2000)
    assert report.is_exact, report
    assert report.refused, "everybody was served"
