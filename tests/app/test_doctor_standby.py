"""What the doctor says of standbys: whether promoting one may lose commits, and whether one was promoted just now."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.storage.lagging import promote
from tests.storage.replicated import replicated
from waypost.app.doctor_standby import standby
from waypost.app.finding import Verdict


def test_without_a_standby_there_is_nothing_to_lose(database: str) -> None:
    (finding,) = standby(database)
    assert (finding.verdict, finding.sentence) == (Verdict.FINE, "none is connected")


def test_a_promotion_that_gateways_have_yet_to_make_good_is_told(database: str) -> None:
    promote(database)
    told, _ = standby(database)
    assert told.verdict is Verdict.BAD
    assert "to timeline 1" in told.sentence
    assert "no lease or hold is granted until every gateway has told it" in told.sentence


@pytest.mark.slow
def test_a_standby_that_no_commit_waits_for_is_a_doubt_and_a_synchronous_one_is_none() -> None:
    with replicated() as pair:
        (asynchronous,) = standby(pair.conninfo)
        with psycopg.connect(pair.conninfo, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SELECT current_setting('synchronous_standby_names')").fetchone() != ("*",):
                time.sleep(0.01)
        (synchronous,) = standby(pair.conninfo)

    assert asynchronous.verdict is Verdict.DOUBTFUL
    assert asynchronous.sentence.startswith("1 connected, and no commit waits for one")
    assert synchronous.verdict is Verdict.FINE
    assert "has every commit" in synchronous.sentence
