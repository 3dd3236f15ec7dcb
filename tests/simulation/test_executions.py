"""Seeded schedules of executions, from acceptance to money; `python -m tests.simulation.executions 50000` for more."""

from __future__ import annotations

import os

import pytest

from tests.simulation.executions import simulate

SHARDS = 16
SCHEDULES = int(os.environ.get("WAYPOST_TEST_SCHEDULES", "512"))


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_whatever_goes_wrong_there_is_one_end_one_charge_and_one_job(database: str, shard: int) -> None:
    happened = await simulate(database, range(shard, SCHEDULES, SHARDS))
    assert happened["COMPLETED"] > 0
    assert happened["callback"] > 0
