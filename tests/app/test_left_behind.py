"""Journals of gateways that do not come back: a sibling books them, once, and keeps its hands off those in use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gateway.disk import attempt, kill, opened, write
from tests.gateway.fake_ledger import FakeLedger
from tests.gateway.test_journal import open_journal
from waypost.app.left_behind import LeftBehind
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
