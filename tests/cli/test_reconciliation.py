"""`ledger reconcile`: the report that a person reads, its JSON, and files that are refused with the line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Waypost
from tests.policy.samples import FULL
from waypost.storage.retention import kept_from

TODAY = datetime.now(UTC).date()
FIRST_KEPT = kept_from(TODAY).first_day


@pytest.fixture
def provider(waypost: Waypost, nowhere: Path) -> str:
    (nowhere / "catalogue").write_text(FULL)
    assert waypost("catalog", "apply", str(nowhere / "catalogue")).code == 0
    return str(waypost("catalog", "show").json["providers"][0]["id"])


def write(nowhere: Path, *lines: str) -> str:
    (nowhere / "bill.csv").write_text("\n".join(("day,model,cost_usd,id", *lines)))
    return str(nowhere / "bill.csv")


def test_lines_for_nothing_are_told_and_exit_with_1(waypost: Waypost, provider: str, nowhere: Path) -> None:
    bill = write(nowhere, f"{TODAY},large,0.25,one", f"{TODAY},large,0.5,two")

    told = waypost("ledger", "reconcile", provider, bill)
    again = waypost("ledger", "reconcile", provider, bill, "--json")

    assert told.code == again.code == 1
    assert "billed, and belonging to no attempt" in told.out
    assert "2 lines in 1 groups, 2 of them new; the cost of goods changed by 0.75 USD" in told.out
    assert told.out.endswith("1 of them need a look\n")
    assert '"lines_new":0,"corrected_nanos":"0"' in again.out
    assert waypost("ledger", "check", "--json").json["totals"]["cogs_nanos"] == "750000000"


def test_a_bill_of_nothing_is_fine(waypost: Waypost, provider: str, nowhere: Path) -> None:
    told = waypost("ledger", "reconcile", provider, write(nowhere, f"{TODAY},large,0,one"))
    assert told.code == 0, told.err
    assert told.out.endswith("nothing is unexplained\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{TODAY},large,-1,a", "line 2: an amount is zero or more"),
        ("2019-01-01,large,1,a", "line 2: 2019-01-01 is not between"),
        (f"{FIRST_KEPT},large,1,a", f"line 2: {FIRST_KEPT} is not between"),
        (f"{TODAY},large", "line 2: 2 cells under a header of 4"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(
    waypost: Waypost, provider: str, nowhere: Path, line: str, said: str
) -> None:
    told = waypost("ledger", "reconcile", provider, write(nowhere, line))
    assert (told.code, told.out) == (1, "")
    assert said in told.err


def test_what_is_not_there_is_told_with_what_is(waypost: Waypost, provider: str, nowhere: Path) -> None:
    told = waypost("ledger", "reconcile", "nobody", write(nowhere, f"{TODAY},large,1,a"))
    assert (told.code, f"there is no provider nobody; there are: {provider}" in told.err) == (1, True)
    assert waypost("ledger", "reconcile", provider, "absent.csv").code == 2
