"""Files of organisations by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Waypost
from waypost.app.secrets import open_file_keys

NOBODY = "org_0192f0c4-0000-7000-8000-000000000000"


def test_limits_are_changed_one_by_one_and_shown(waypost: Waypost) -> None:
    org = waypost("org", "create", "acme").line

    none = {"org": org, "stored_bytes": 0, "storage_bytes": None, "ttl_days": None}
    assert waypost("file", "limits", "--org", org, "--json").json == none
    assert waypost("file", "limits", "--org", org, "--ttl-days", "7", "--json").json == none | {"ttl_days": 7}
    changed = waypost("file", "limits", "--org", org, "--storage-bytes", "1000", "--json").json
    assert changed == none | {"ttl_days": 7, "storage_bytes": 1000}
    assert "7" in waypost("file", "limits", "--org", org).out


@pytest.mark.parametrize("words", [("limits", "--ttl-days", "5"), ("audit",)])
def test_an_organisation_that_there_is_not_is_told(waypost: Waypost, words: tuple[str, ...]) -> None:
    done = waypost("file", *words, "--org", NOBODY)
    assert (done.code, done.err) == (1, f"waypost: there is no organisation {NOBODY}\n")


@pytest.mark.parametrize("days", ["0", "366"])
def test_days_are_of_a_year(waypost: Waypost, days: str) -> None:
    assert waypost("file", "limits", "--org", NOBODY, "--ttl-days", days).code == 2


def test_the_trail_of_an_organisation_without_files_is_empty(waypost: Waypost) -> None:
    org = waypost("org", "create", "acme").line
    assert waypost("file", "audit", "--org", org, "--json").json == {"entries": []}


def test_a_new_file_key_stands_beside_the_old_one(waypost: Waypost, tmp_path: Path) -> None:
    done = waypost("file", "rotate-key")
    assert done.code == 0
    (secrets_dir,) = tmp_path.rglob("secrets")
    assert sorted(open_file_keys(secrets_dir)) == [1, 2]
    assert "file_key.2" in done.out


def test_all_files_of_an_organisation_are_erased_by_who_means_it(waypost: Waypost) -> None:
    org = waypost("org", "create", "acme").line
    unsure = waypost("file", "erase", "--org", org)
    assert (unsure.code, "--yes" in unsure.err) == (2, True)
    assert waypost("file", "erase", "--org", org, "--yes").out == f"0 files of {org} are erased\n"
    assert waypost("file", "erase", "--org", NOBODY, "--yes").code == 1
