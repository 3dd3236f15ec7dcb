"""What a worker finds of its own past: booked once, however often it dies on the way."""

from pathlib import Path

import pytest

from tests.gateway.disk import Disk, Killed, attempt, closed, kill, opened, write
from tests.gateway.test_journal import open_journal
from waypost.gateway.journal import DAMAGED_SUFFIX
from waypost.gateway.recovery import REPLAYED_S, recover
from waypost.kit.values import replace
from waypost.ledger.record import Close, ClosedAttempt, Extend, Open, Outcome, Progress


def test_a_death_at_any_byte_of_a_record_costs_that_record_alone(tmp_path: Path) -> None:
    record = opened()
    one = ClosedAttempt(record, closed(record))
    for budget in range(0, 330, 11):
        disk = Disk()
        journal = open_journal(tmp_path / str(budget), disk)
        disk.bytes_until_death = budget
        survived: list[Open | Close] = []
        try:
            journal.open(one.open)
            survived.append(one.open)
            journal.close(one.close)
            survived.append(one.close)
        except Killed:
            pass
        kill(journal)

        following = open_journal(tmp_path / str(budget))
        recovery = recover(following, 0)

        assert recovery.damages == []
        assert len(recovery.attempts) == (1 if survived else 0)
        if survived:
            assert recovery.attempts[0].open == one.open
            # A CLOSE that lacks only zeros at its end is whole.
            is_crashed = recovery.attempts[0].close.outcome is Outcome.CRASHED
            assert is_crashed or recovery.attempts[0].close == one.close
            assert not (is_crashed and len(survived) == 2)
        following.acknowledge(recovery.attempts)
        following.shut()
        assert not list((tmp_path / str(budget)).glob("*.wal"))


def test_a_death_during_recovery_changes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    write(journal, attempt())
    journal.open(opened())
    write(journal, attempt(is_final=False))
    kill(journal)

    first = open_journal(tmp_path)
    found = recover(first, 7).attempts
    kill(first)
    second = open_journal(tmp_path)
    again = recover(second, 7).attempts

    assert len(found) == 3
    assert again == found
    second.acknowledge(again)
    second.maintain()
    second.shut()
    third = open_journal(tmp_path)
    assert recover(third, 7).attempts == []
    third.shut()


def test_the_files_of_the_past_stay_until_all_of_it_is_acknowledged(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(150):
        write(journal, attempt())
    kill(journal)
    past = set(tmp_path.glob("*.wal"))
    following = open_journal(tmp_path)
    found = recover(following, 0).attempts

    following.acknowledge(found[:-1])
    following.maintain()
    assert past <= set(tmp_path.glob("*.wal"))

    following.acknowledge(found[-1:])
    following.maintain()
    assert not past & set(tmp_path.glob("*.wal"))
    following.shut()


def test_nobody_lets_go_of_the_past_before_recovery_has_read_it(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    write(journal, attempt())
    kill(journal)

    hasty = open_journal(tmp_path)
    hasty.maintain()
    hasty.shut()

    following = open_journal(tmp_path)
    assert len(recover(following, 0).attempts) == 1
    following.shut()


def test_acknowledgements_of_one_run_count_for_the_records_of_an_earlier_one(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(3):
        write(journal, attempt())
    kill(journal)
    first = open_journal(tmp_path)
    found = recover(first, 0).attempts
    first.acknowledge(found[:2])
    kill(first)

    second = open_journal(tmp_path)

    assert recover(second, 0).attempts == found[2:]
    second.shut()


def test_as_a_whole_it_tells_what_was_booked_in_the_last_minutes_and_nothing_older(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    reopened = opened()
    journal.open(reopened)
    first = closed(reopened, is_final=False)
    journal.close(replace(first, closed_at_ms=2))
    journal.acknowledge([ClosedAttempt(reopened, first)])
    journal.close(replace(first, closed_at_ms=3, is_final=True))
    rows = []
    for at_s in (0, 60, REPLAYED_S, REPLAYED_S + 60):
        row = attempt()
        row = replace(row, close=replace(row.close, closed_at_ms=1_000_000 + 1000 * at_s))
        write(journal, row)
        journal.acknowledge([row])
        rows.append(row)
    unbooked = attempt()
    write(journal, replace(unbooked, close=replace(unbooked.close, closed_at_ms=1)))
    kill(journal)

    found = recover(open_journal(tmp_path), 0, is_whole=True).attempts

    told = [unbooked.open.attempt_id, reopened.attempt_id, *(row.open.attempt_id for row in rows[1:])]
    assert [one.open.attempt_id for one in found] == told


def test_a_damaged_segment_is_put_aside_with_an_alarm_and_what_is_readable_counts(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    written = [attempt() for _ in range(10)]
    for one in written:
        write(journal, one)
    kill(journal)
    [path] = [path for path in tmp_path.glob("*.wal") if any(path.read_bytes()[8:])]
    data = path.read_bytes()
    open_at = data.index(written[4].open.attempt_id)
    close_at = data.index(written[4].close.attempt_id, open_at + 1)
    with path.open("r+b") as file:
        file.seek(close_at + 40)
        file.write(b"\xa5\x5a")

    following = open_journal(tmp_path)
    recovery = recover(following, 0)

    assert [damage.segment for damage in recovery.damages] == [path.name]
    assert {row.open.attempt_id for row in recovery.attempts} == {one.open.attempt_id for one in written}
    crashed = [row.open for row in recovery.attempts if row.close.outcome is Outcome.CRASHED]
    assert crashed == [written[4].open]
    following.acknowledge(recovery.attempts)
    following.maintain()
    assert not path.exists()
    assert path.with_suffix(DAMAGED_SUFFIX).exists()
    following.shut()


def test_records_missing_between_two_segments_raise_the_alarm(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(300):
        write(journal, attempt())
    kill(journal)
    used = sorted(path for path in tmp_path.glob("*.wal") if any(path.read_bytes()[8:]))
    used[1].unlink()

    following = open_journal(tmp_path)
    recovery = recover(following, 0)

    assert [(damage.segment, damage.offset) for damage in recovery.damages] == [(used[2].name, -1)]
    following.shut()


@pytest.mark.parametrize("torn_at", [0, 3])
def test_a_file_that_was_being_made_when_the_process_died_is_nothing(tmp_path: Path, torn_at: int) -> None:
    (tmp_path / "00000001-000001.wal").write_bytes(bytes(torn_at))

    journal = open_journal(tmp_path)

    assert recover(journal, 0).damages == []
    journal.shut()
    assert list(tmp_path.glob("*.wal")) == []


def test_progress_and_a_raised_hold_survive_a_death_also_when_they_are_carried_forward(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    long = opened()
    journal.open(long)
    assert journal.extend(Extend(long.attempt_id, long.hold_nanos + 500))
    for tokens in range(1, 4):
        journal.progress(Progress(long.attempt_id, 5, tokens, 400 * tokens))
    for _ in range(200):  # until the segment with the first records is gone
        one = attempt()
        write(journal, one)
        journal.acknowledge([one])
        journal.maintain()
    journal.progress(Progress(b"of-nobody-known-", 5, 5, 5))
    assert not journal.extend(Extend(b"of-nobody-known-", 5))
    kill(journal)

    (row,) = recover(open_journal(tmp_path), 7).attempts

    assert row.open == long
    assert (row.close.charge_nanos, row.close.usage.output_tokens) == (1_200, 3)
