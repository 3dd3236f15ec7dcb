"""What a record survives before its request is sent on: the process, or a loss of power too."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.gateway.disk import Disk, opened
from waypost.gateway.journal import Journal


def open_journal(directory: Path, disk: Disk, *, survives_power_loss: bool) -> Journal:
    return Journal.open_dir(
        directory,
        segment_bytes=32 << 10,
        emergency_bytes=32 << 10,
        files=disk,
        survives_power_loss=survives_power_loss,
    )


def test_by_default_a_request_goes_on_at_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, Disk(), survives_power_loss=False)
    sent: list[int] = []
    journal.open(opened())
    journal.when_safe(lambda: sent.append(1))
    assert sent == [1]
    journal.shut()


async def test_where_power_may_be_lost_it_waits_for_one_sync_that_serves_all(tmp_path: Path) -> None:
    disk = Disk()
    sent: list[tuple[int, int]] = []

    def note(number: int) -> None:
        sent.append((number, disk.syncs))

    journal = open_journal(tmp_path, disk, survives_power_loss=True)
    running = asyncio.ensure_future(journal.run())
    await asyncio.sleep(0.05)  # until the first round is over
    before = disk.syncs
    last = asyncio.Event()
    for number in range(5):
        journal.open(opened())
        journal.when_safe(partial(note, number))
    journal.when_safe(last.set)
    assert sent == []
    await last.wait()
    assert [number for number, _ in sent] == list(range(5))
    assert {syncs for _, syncs in sent} == {before + 1}
    running.cancel()
    journal.shut()


async def test_a_disk_that_fails_sends_nothing_on(tmp_path: Path) -> None:
    disk = Disk()
    sent: list[int] = []
    failed: list[int] = []
    journal = Journal.open_dir(
        tmp_path, files=disk, survives_power_loss=True, on_failed=lambda: failed.append(1), segment_bytes=32 << 10
    )
    running = asyncio.ensure_future(journal.run())
    await asyncio.sleep(0.05)
    journal.open(opened())
    journal.when_safe(lambda: sent.append(1))
    disk.is_broken = True
    await running
    assert (sent, failed, journal.is_failed) == ([], [1], True)
    journal.shut()
