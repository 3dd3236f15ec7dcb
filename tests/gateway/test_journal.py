"""The journal on a healthy disk: order, locks, room, and when files go."""

import asyncio
from pathlib import Path

import pytest

from tests.gateway.disk import Disk, attempt, closed, kill, opened, write
from waypost.gateway.journal import Journal, JournalFull
from waypost.gateway.recovery import read_dir, recover
from waypost.ledger.record import Ack, ClosedAttempt, Grant

SEGMENT_BYTES = 32 << 10  # some 100 attempts


def open_journal(directory: Path, disk: Disk | None = None, *, segments_max: int = 8) -> Journal:
    return Journal.open_dir(
        directory,
        segment_bytes=SEGMENT_BYTES,
        emergency_bytes=SEGMENT_BYTES,
        segments_max=segments_max,
        files=disk or Disk(),
    )


def fill(journal: Journal) -> list[ClosedAttempt]:
    """Open attempts until the journal takes no more; those that it took."""
    running: list[ClosedAttempt] = []
    while True:
        one = attempt()
        try:
            journal.open(one.open)
        except JournalFull:
            return running
        running.append(one)


def segments(directory: Path) -> int:
    return len(list(directory.glob("*.wal")))


def test_every_record_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    one = attempt()
    grant = Grant(b"l" * 16, b"o" * 16, 5_000_000)

    journal.grant(grant)
    assert list(read_dir(tmp_path)) == [grant]
    journal.open(one.open)
    assert list(read_dir(tmp_path)) == [grant, one.open]
    journal.close(one.close)
    assert list(read_dir(tmp_path)) == [grant, one.open, one.close]
    journal.acknowledge([one])
    assert list(read_dir(tmp_path)) == [grant, one.open, one.close, Ack((one.open.attempt_id,))]
    journal.shut()


def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)

    with pytest.raises(BlockingIOError):
        open_journal(tmp_path)

    journal.shut()
    open_journal(tmp_path).shut()


def test_records_run_on_over_segments_in_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    written = [attempt() for _ in range(400)]

    for one in written:
        write(journal, one)

    assert journal.segments > 3
    assert list(read_dir(tmp_path)) == [record for one in written for record in (one.open, one.close)]
    journal.shut()


def test_a_clean_end_leaves_no_record_behind(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    one = attempt()
    write(journal, one)
    journal.acknowledge([one])

    journal.shut()

    assert segments(tmp_path) == 0


def test_booked_segments_are_deleted_and_unbooked_ones_stay(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    early = attempt()
    write(journal, early)
    written = [attempt() for _ in range(300)]
    for one in written:
        write(journal, one)
    journal.acknowledge(written)
    journal.maintain()
    before = journal.segments

    journal.acknowledge([early])
    journal.maintain()

    assert before > 1
    assert journal.segments == 1
    assert early.open not in list(read_dir(tmp_path))
    journal.shut()


def test_a_failed_attempt_stays_until_its_execution_has_ended(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    first = attempt(is_final=False)
    write(journal, first)
    journal.acknowledge([first])
    assert journal.unfinished == 1

    second = opened(first.open.execution_id, number=2)
    write(journal, ClosedAttempt(second, closed(second)))
    journal.acknowledge([ClosedAttempt(second, closed(second))])

    assert journal.unfinished == 0
    journal.shut()


def test_an_execution_may_be_ended_by_a_second_close_of_its_last_attempt(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    failed = attempt(is_final=False)
    write(journal, failed)
    journal.acknowledge([failed])
    ending = ClosedAttempt(failed.open, closed(failed.open))

    journal.close(ending.close)
    journal.acknowledge([ending])

    assert journal.unfinished == 0
    journal.shut()


def test_a_long_running_request_does_not_keep_old_segments_alive(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    long_running = [opened() for _ in range(20)]
    for record in long_running:
        journal.open(record)
    for _ in range(40):
        batch = [attempt() for _ in range(50)]
        for one in batch:
            write(journal, one)
        journal.acknowledge(batch)
        journal.maintain()
        assert journal.segments <= 4

    kill(journal)
    following = open_journal(tmp_path)
    crashed = recover(following, 0).attempts

    assert {row.open.attempt_id for row in crashed} == {record.attempt_id for record in long_running}
    following.shut()


def test_a_journal_that_the_database_does_not_follow_admits_nothing_more_but_closes_what_runs(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, segments_max=2)
    running = fill(journal)

    for one in running:
        journal.close(one.close)
    assert len(list(read_dir(tmp_path))) == 2 * len(running)
    journal.acknowledge(running)

    write(journal, attempt())
    journal.shut()


async def test_what_is_written_is_synced_beside_the_event_loop(tmp_path: Path) -> None:
    disk = Disk()
    journal = open_journal(tmp_path, disk)
    running = asyncio.ensure_future(journal.run())

    write(journal, attempt())
    await asyncio.to_thread(disk.synced.wait, 30)

    assert disk.syncs
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.shut()


def test_the_real_file_system_preallocates_syncs_and_deletes(tmp_path: Path) -> None:
    journal = Journal.open_dir(tmp_path, segment_bytes=SEGMENT_BYTES, emergency_bytes=SEGMENT_BYTES)
    written = [attempt() for _ in range(150)]
    for one in written:
        write(journal, one)
    assert all(path.stat().st_size == SEGMENT_BYTES for path in tmp_path.glob("*.wal"))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.glob("*.wal"))

    journal.acknowledge(written)
    journal.maintain()
    journal.shut()

    assert segments(tmp_path) == 0


def test_an_execution_on_a_long_hold_is_let_go_as_its_attempts_are_booked(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    first = opened(has_long_hold=True)
    for number in (1, 2):
        record = opened(first.execution_id, number=number, has_long_hold=True)
        one = ClosedAttempt(record, closed(record, is_final=False))
        write(journal, one)
        assert journal.unfinished == 1
        journal.acknowledge([one])
        assert journal.unfinished == 0
    journal.shut()
    assert segments(tmp_path) == 0
