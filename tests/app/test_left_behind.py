"""Journals of gateways that do not come back: a sibling books them, once, and keeps its hands off those in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


async def test_a_journal_that_somebody_has_is_left_alone(tmp_path: Path) -> None:
    running = open_journal(tmp_path / "gateway-1")
    write(running, attempt())
    books = Books()

    await LeftBehind(tmp_path / "gateway-0", books, SystemClock()).look()

    assert books.settlements == {}
    running.shut()
