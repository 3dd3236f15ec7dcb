"""The journal on a disk that is full or broken: nothing new is promised, and what was promised is kept."""

from pathlib import Path

import pytest

from tests.gateway.disk import Disk, attempt, kill, opened, write
from tests.gateway.test_journal import fill, open_journal
from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.recovery import read_dir, recover
from waypost.ledger.record import ClosedAttempt, Grant


def test_on_a_full_disk_requests_are_refused_running_ones_close_and_later_all_goes_on(tmp_path: Path) -> None:
    disk = Disk()
    journal = Journal.open_dir(tmp_path, segment_bytes=32 << 10, emergency_bytes=64 << 10, files=disk)
    journal.maintain()
    disk.is_full = True
    running = fill(journal)
    assert journal.is_full
    with pytest.raises(JournalFull):
        journal.grant(Grant(b"l" * 16, b"o" * 16, 1))

    for one in running:
        journal.close(one.close)
    journal.acknowledge(running[:1])
    assert not journal.is_failed
    journal.maintain()
    with pytest.raises(JournalFull):
        journal.open(opened())

    disk.is_full = False
    journal.maintain()
    more = attempt()
    write(journal, more)
    assert list(read_dir(tmp_path))[-2:] == [more.open, more.close]
    kill(journal)
    following = open_journal(tmp_path)
    recovery = recover(following, 0)
    assert recovery.damages == []
    assert {row.open.attempt_id for row in recovery.attempts} >= {one.open.attempt_id for one in running[1:]}
    assert all(row.close.charge_nanos == 400 for row in recovery.attempts)
    following.shut()


def test_a_disk_that_is_full_has_room_where_booked_segments_were_kept(tmp_path: Path) -> None:
    class Small(Disk):
        """Holds three segments and one for emergencies."""

        def create(self, path: Path, size_bytes: int) -> int:
            self.is_full = len(list(tmp_path.glob("*.wal"))) >= 4
            return super().create(path, size_bytes)

    disk = Small()
    journal = Journal.open_dir(tmp_path, segment_bytes=16 << 10, emergency_bytes=8 << 10, files=disk, kept_segments=2)
    written = 0
    while written < 500 and not journal.is_full:
        row = attempt()
        write(journal, row)
        journal.acknowledge([row])
        journal.maintain()
        written += 1

    assert (written, journal.is_running_out) == (500, False)
    journal.shut()


def test_a_file_system_that_is_full_in_the_middle_of_a_record_refuses_and_reads_back_whole(tmp_path: Path) -> None:
    disk = Disk()
    journal = open_journal(tmp_path, disk)
    one = attempt()
    journal.open(one.open)

    disk.is_refusing_writes = True
    with pytest.raises(JournalFull):
        journal.open(opened())
    disk.is_refusing_writes = False
    journal.close(one.close)

    assert list(read_dir(tmp_path)) == [one.open, one.close]
    journal.shut()


def test_when_not_even_a_close_finds_room_the_process_has_to_stop(tmp_path: Path) -> None:
    failures: list[str] = []
    disk = Disk()
    journal = Journal.open_dir(
        tmp_path,
        segment_bytes=32 << 10,
        emergency_bytes=32 << 10,
        files=disk,
        on_failed=lambda: failures.append("failed"),
    )
    one = attempt()
    journal.open(one.open)
    disk.is_refusing_writes = True

    journal.close(one.close)

    assert failures == ["failed"]
    with pytest.raises(JournalFailed):
        journal.open(opened())
    journal.shut()


def test_a_write_error_stops_admission_and_is_told_once(tmp_path: Path) -> None:
    failures: list[str] = []
    disk = Disk()
    journal = Journal.open_dir(tmp_path, files=disk, on_failed=lambda: failures.append("failed"))
    running = attempt()
    journal.open(running.open)
    disk.is_broken = True

    with pytest.raises(JournalFailed):
        journal.open(opened())
    with pytest.raises(JournalFailed):
        journal.open(opened())
    journal.close(running.close)
    journal.acknowledge([running])

    assert failures == ["failed"]
    journal.shut()


async def test_a_failed_sync_is_never_repeated(tmp_path: Path) -> None:
    failures: list[str] = []
    disk = Disk()
    journal = Journal.open_dir(
        tmp_path, segment_bytes=32 << 10, files=disk, on_failed=lambda: failures.append("failed")
    )
    write(journal, attempt())
    disk.is_broken = True

    await journal.run()  # ends by itself

    disk.is_broken = False
    assert failures == ["failed"]
    assert disk.syncs == 0
    with pytest.raises(JournalFailed):
        journal.open(opened())
    journal.shut()
    # The files are there for the next start.
    following = open_journal(tmp_path)
    assert len(recover(following, 0).attempts) == 1
    following.shut()


def acknowledged_later(directory: Path, disk: Disk, failures: list[str]) -> tuple[Journal, ClosedAttempt]:
    """A journal of four segments, of which one long-running execution keeps the first, and an attempt that is booked.
    When the booking is acknowledged, the long-running one is carried forward."""
    journal = Journal.open_dir(
        directory,
        segment_bytes=32 << 10,
        emergency_bytes=32 << 10,
        files=disk,
        on_failed=lambda: failures.append("failed"),
    )
    journal.open(opened())
    while journal.segments < 4:
        journal.maintain()
        last = attempt()
        write(journal, last)
    journal.maintain()
    return journal, last


@pytest.mark.parametrize("fault", ["is_broken", "is_refusing_writes"])
@pytest.mark.parametrize("acknowledged", [0, 1])
def test_an_acknowledgement_never_raises_whatever_the_disk_does(tmp_path: Path, fault: str, acknowledged: int) -> None:
    disk, failures = Disk(), list[str]()
    journal, last = acknowledged_later(tmp_path, disk, failures)
    setattr(disk, fault, True)

    journal.acknowledge([last] * acknowledged)

    assert failures == (["failed"] if fault == "is_broken" else [])
    disk.is_broken = disk.is_refusing_writes = False
    kill(journal)


@pytest.mark.parametrize("acknowledged", [0, 1])
def test_what_only_the_database_needs_does_not_use_the_room_kept_for_ends(tmp_path: Path, acknowledged: int) -> None:
    disk = Disk()
    journal, last = acknowledged_later(tmp_path, disk, [])
    before = journal.segments
    disk.is_refusing_writes = disk.is_full = True

    journal.acknowledge([last] * acknowledged)

    assert journal.segments <= before
    disk.is_refusing_writes = False
    journal.close(last.close)  # the room that was kept
    assert not journal.is_failed
    assert list(read_dir(tmp_path))[-1] == last.close
    kill(journal)
