"""Journals of gateways that do not come back: a sibling books them, once, and keeps its hands off those in use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gateway.disk import attempt, kill, opened, sync_at_once, write
from tests.gateway.fake_ledger import FakeLedger
from tests.gateway.test_journal import open_journal
from waypost.app.left_behind import LeftBehind
from waypost.gateway.journal import Journal
from waypost.gateway.recovery import REPLAYED_S
from waypost.kit.clock import SystemClock
from waypost.ledger.record import ClosedAttempt


class Books(FakeLedger):
    """Takes settlements of any lease."""

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        self.settlements |= {each.close.attempt_id: each for each in batch}


async def test_what_a_dead_sibling_had_promised_is_booked_and_its_files_go(tmp_path: Path) -> None:
    dead = open_journal(tmp_path / "gateway-1")
    whole, cut = attempt(), opened()
    write(dead, whole)
    dead.open(cut)
    kill(dead)
    (tmp_path / "gateway-0").mkdir()
    books = Books()

    await LeftBehind(tmp_path / "gateway-0", books, SystemClock()).look()

    assert set(books.settlements) == {whole.open.attempt_id, cut.attempt_id}
    assert list((tmp_path / "gateway-1").glob("*.wal")) == []


@pytest.mark.parametrize("is_promoted", [False, True])
async def test_what_a_dead_sibling_had_booked_is_booked_again_after_a_promotion(
    tmp_path: Path, is_promoted: bool
) -> None:
    dead = open_journal(tmp_path / "gateway-1")
    booked = attempt()
    write(dead, booked)
    dead.acknowledge([booked])
    kill(dead)
    books = Books()
    books.is_promoted = is_promoted

    await LeftBehind(tmp_path / "gateway-0", books, SystemClock()).look()

    assert list(books.settlements) == [booked.open.attempt_id] * is_promoted
    assert list((tmp_path / "gateway-1").glob("*.wal")) == []


def left_in(directory: Path) -> set[str]:
    """The gateways that have a segment there."""
    return {path.parent.name for path in directory.glob("*/*.wal")}


class Clock(SystemClock):
    """Later than it is, by what a test says."""

    ahead_s = 0

    def unix_ns(self) -> int:
        return super().unix_ns() + self.ahead_s * 1_000_000_000


async def test_what_a_sibling_booked_last_is_kept_a_while_for_a_standby_that_has_not_received_it(
    tmp_path: Path,
) -> None:
    stopped, dead = (
        Journal.open_dir(tmp_path / name, segment_bytes=64 << 10, emergency_bytes=16 << 10, kept_segments=2)
        for name in ("gateway-1", "gateway-2")
    )
    sync_at_once(stopped)
    booked, promised = attempt(), attempt()
    write(stopped, booked)
    stopped.acknowledge([booked])
    stopped.shut()
    write(dead, promised)
    kill(dead)
    books, clock = Books(), Clock()
    left_behind = LeftBehind(tmp_path / "gateway-0", books, clock, keeps_booked=True)

    for _ in range(2):
        await left_behind.look()
        assert list(books.settlements) == [promised.open.attempt_id]
        assert left_in(tmp_path) == {"gateway-1", "gateway-2"}

    books.is_promoted = True
    await left_behind.look()
    assert set(books.settlements) == {promised.open.attempt_id, booked.open.attempt_id}
    assert left_in(tmp_path) == set()


async def test_what_a_sibling_booked_goes_when_no_standby_can_lag_behind_it_any_more(tmp_path: Path) -> None:
    dead = open_journal(tmp_path / "gateway-1")
    write(dead, attempt())
    kill(dead)
    books, clock = Books(), Clock()
    left_behind = LeftBehind(tmp_path / "gateway-0", books, clock, keeps_booked=True)

    await left_behind.look()
    clock.ahead_s = REPLAYED_S - 60
    await left_behind.look()
    assert left_in(tmp_path) == {"gateway-1"}
    clock.ahead_s = REPLAYED_S + 1
    await left_behind.look()

    assert left_in(tmp_path) == set()
    assert len(books.settlements) == 1


async def test_a_journal_that_somebody_has_is_left_alone(tmp_path: Path) -> None:
    running = open_journal(tmp_path / "gateway-1")
    write(running, attempt())
    books = Books()

    await LeftBehind(tmp_path / "gateway-0", books, SystemClock()).look()

    assert books.settlements == {}
    running.shut()


async def test_a_journal_that_cannot_be_read_is_told_once_and_keeps_nobody_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable, nameless, whole = (tmp_path / f"gateway-{number}" for number in (1, 2, 3))
    unreadable.mkdir()
    (unreadable / "00000001-000001.wal").mkdir()  # opening it is an OSError, for root as well
    done = []
    for directory in (nameless, whole):
        dead = open_journal(directory)
        done.append(attempt())
        write(dead, done[-1])
        kill(dead)
    (nameless / "node_id").write_bytes(b"damaged")
    books = Books()
    left_behind = LeftBehind(tmp_path / "gateway-0", books, SystemClock())

    await left_behind.look()
    await left_behind.look()

    assert set(books.settlements) == {each.open.attempt_id for each in done}
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "JournalNotTakenOver" in line]
    assert [(each["process"], each["error_type"]) for each in told] == [
        ("gateway-1", "IsADirectoryError"),
        ("gateway-2", "SecretsError"),
    ]
