"""The planted mistakes still have their places, and a few of them are noticed here; all are by
`python -m tests.seeded_bugs`.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.conftest import _DIR
from tests.seeded_bugs.bugs import BUGS
from tests.seeded_bugs.planting import ROOT, Bug, Copy

QUICK = ("a crash costs nothing", "a bill line serves two attempts", "events are not numbered")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.name))
def test_a_mistake_can_still_be_planted(bug: Bug) -> None:
    text = (ROOT / "src" / "waypost" / bug.file).read_text()
    assert bug.applied(text) != text


def test_each_mistake_has_a_name_of_its_own_and_tests_that_exist() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25
    assert [bug.name for bug in BUGS if not (ROOT / bug.tests[0]).exists()] == []


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_mistake_is_noticed(name: str, tmp_path: Path) -> None:
    [bug] = [bug for bug in BUGS if bug.name == name]
    assert Copy(tmp_path).notices(bug)


def test_those_who_look_for_mistakes_share_a_server_that_none_of_them_stops(
    postgres: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    [bug] = [bug for bug in BUGS if bug.name == "double refund"]

    assert Copy(tmp_path, pytestconfig.stash[_DIR]).notices(bug)

    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT datname FROM pg_database WHERE datname = 'waypost_template'").fetchone()


def test_without_a_mistake_nothing_is_noticed(tmp_path: Path) -> None:
    sound = Bug("none", "metering/price.py", "def amount(", "def amount(", ("tests/ledger/test_replay.py", "-n", "0"))
    assert not Copy(tmp_path).notices(sound)
