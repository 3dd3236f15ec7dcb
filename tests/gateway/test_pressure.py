"""Whether a process keeps up, as its timer sees it."""

from __future__ import annotations

import asyncio
import time

import pytest

from waypost.gateway.pressure import Pressure, read_resident_bytes
from waypost.kit.errors import ErrorCode, Refusal
from waypost.telemetry.metrics import Counter


async def test_a_queue_at_the_port_is_a_reason_to_shed_although_the_loop_is_in_time() -> None:
    shed = Counter("shed", "")
    pressure = Pressure(lambda: 0.0, shed, memory_bytes_max=1 << 50)
    accepted = 0

    def callers() -> tuple[int, int]:
        nonlocal accepted
        accepted += 100  # a tenth of a second
        return 500, accepted

    pressure.callers = callers
    pressure.admit()
    async with asyncio.timeout(20):
        while not pressure.shedding.is_active:  # noqa: ASYNC110  the timer tells nobody
            await asyncio.sleep(0.05)
    run_for(0.1)
    pressure.admit()
    run_for(0.01)
    with pytest.raises(Refusal) as caught:
        pressure.admit()
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.SERVICE_UNAVAILABLE, 1)
    assert shed.counts == {(): 1}
    await asyncio.sleep(0)
    pressure.admit()  # in the next turn
    pressure.close()


def run_for(seconds: float) -> None:
    """Be busy within a turn of the loop."""
    ends_s = time.thread_time() + seconds
    while time.thread_time() < ends_s:
        pass


async def test_who_waits_for_it_is_told_when_it_sheds_and_when_it_does_no_more() -> None:
    told: list[bool] = []
    pressure = Pressure(lambda: 0.0, Counter("shed", ""), memory_bytes_max=1)
    pressure.on_shedding = told.append
    async with asyncio.timeout(20):
        while not told:  # noqa: ASYNC110  the timer tells nobody else
            await asyncio.sleep(0.05)
        assert pressure.is_full()
        pressure.memory_bytes_max = 1 << 50
        while pressure.shedding.is_active:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert told == [True, False]
    pressure.close()


async def test_a_burst_at_an_idle_port_is_no_reason_to_shed() -> None:
    pressure = Pressure(lambda: 0.0, Counter("shed", ""), memory_bytes_max=1 << 50)
    looks = 0

    def callers() -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return (500, 0) if looks == 1 else (0, 500)

    pressure.callers = callers
    while looks < 5:
        pressure.admit()
        await asyncio.sleep(0.02)
    pressure.close()


async def test_a_queue_because_other_processes_have_the_processor_is_not_one_of_ours() -> None:
    pressure = Pressure(lambda: 0.0, Counter("shed", ""), memory_bytes_max=1 << 50, kept_waiting_s=time.monotonic)
    looks = 0

    def callers() -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return 50, looks

    pressure.callers = callers
    while looks < 20:  # two seconds, twice as long as it takes to shed
        pressure.admit()
        await asyncio.sleep(0.05)
    assert not pressure.shedding.is_active
    pressure.close()


async def test_memory_in_use_is_measured() -> None:
    pressure = Pressure(lambda: 0.0, Counter("shed", ""))
    assert 0 < read_resident_bytes() < pressure.memory_bytes_max
    pressure.close()


@pytest.mark.parametrize(("others_s", "is_late"), [(0.0, True), (10.0, False)])
async def test_late_because_of_other_processes_is_not_late(others_s: float, is_late: bool) -> None:
    waits_s = iter((0.0, others_s))
    pressure = Pressure(lambda: 0.0, Counter("shed", ""), kept_waiting_s=lambda: next(waits_s, others_s))
    time.sleep(0.4)  # noqa: ASYNC251  the loop is late
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while not pressure.memory_bytes:  # noqa: ASYNC110  until the timer has looked
            await asyncio.sleep(0)
    assert (pressure.shedding.lag_s > 0.1) is is_late
    pressure.close()


@pytest.mark.parametrize(("ran_s", "is_late"), [(0.3, True), (0.0, False)])
async def test_who_runs_whenever_it_may_and_is_late_has_too_little_of_the_processor(
    ran_s: float, is_late: bool
) -> None:
    """As under a quota: for 0.3 s it was kept waiting, and otherwise it ran, or slept for as long."""
    waits_s = iter((0.0, 0.3))
    pressure = Pressure(lambda: 0.0, Counter("shed", ""), kept_waiting_s=lambda: next(waits_s, 0.3))
    began_s = time.monotonic()
    run_for(ran_s)
    time.sleep(max(0.0, began_s + 0.35 - time.monotonic()))  # noqa: ASYNC251  the loop is late
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while not pressure.memory_bytes:  # noqa: ASYNC110  until the timer has looked
            await asyncio.sleep(0)
    assert (pressure.shedding.lag_s > 0.1) is is_late
    pressure.close()
