"""Organisations, keys and money by command."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Waypost
from waypost.app.secrets import open_secrets
from waypost.kit import ids
from waypost.storage.api_keys import api_keys_since
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.tenancy.api_key import ApiKey, Scope, is_well_formed

NOBODY = "org_0192f0c4-0000-7000-8000-000000000000"
NO_KEY = "key_0192f0c4-0000-7000-8000-000000000000"

NO_OTHERS = {"images": 0, "duration_ms": 0, "characters": 0, "estimated": 0}


def keys_of_gateways(conninfo: str) -> dict[bytes, ApiKey]:
    """Digest → key, as a gateway would learn them."""

    async def ask() -> dict[bytes, ApiKey]:
        pool = Pool(conninfo, Role.APP, size=1)
        try:
            return {key.digest: key for key in (await api_keys_since(pool, 0))[0]}
        finally:
            await pool.close()

    return asyncio.run(ask())


def digest_of(key: str, data_dir: Path) -> bytes:
    return open_secrets(data_dir / "secrets").peppers.newest.digest(key)


def test_an_organisation_is_made_and_its_id_stands_alone(waypost: Waypost) -> None:
    assert ids.parse("org", waypost("org", "create", "acme").line)
    made = waypost("org", "create", "acme", "--unlimited", "--json").json
    assert made == {"id": made["id"], "name": "acme", "unlimited": True}


def test_an_unlimited_organisation_holds_against_the_house(waypost: Waypost) -> None:
    org = waypost("org", "create", "ours", "--unlimited").line
    assert int(waypost("balance", "--org", org, "--json").json["available_nanos"]) == 10**18


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201])
def test_a_name_that_people_cannot_read_is_refused(waypost: Waypost, name: str) -> None:
    done = waypost("org", "create", name)
    assert (done.code, done.out) == (1, "")
    assert done.err == "waypost: a name is 1 to 200 printable characters\n"


def test_a_key_stands_alone_on_stdout_and_only_its_digest_is_kept(
    waypost: Waypost, org: str, database: str, tmp_path: Path
) -> None:
    done = waypost("key", "create", "--org", org)
    assert is_well_formed(done.line.encode())
    assert re.fullmatch(r"waypost: key_[0-9a-f-]{36}; the key is shown this once\n", done.err)
    assert digest_of(done.line, tmp_path / "data") in keys_of_gateways(database)


def test_a_key_gets_the_limits_it_was_given(waypost: Waypost, org: str, database: str, tmp_path: Path) -> None:
    words = ["--requests-per-minute", "60", "--tokens-per-minute", "2000", "--models", "swift-1, large", "--json"]
    words += ["--in-flight", "7"]
    made = waypost("key", "create", "--org", org, "--name", "batch", "--scope", "execution", *words).json
    assert made == {
        "id": made["id"],
        "key": made["key"],
        "org": org,
        "name": "batch",
        "scope": "execution",
        "requests_per_minute": 60,
        "tokens_per_minute": 2000,
        "in_flight": 7,
        "models": ["large", "swift-1"],
        "project": None,
        "budget_usd": None,
        "window": None,
    }
    found = keys_of_gateways(database)[digest_of(made["key"], tmp_path / "data")]
    assert (found.requests_per_minute, found.tokens_per_minute, found.scope) == (60, 2000, Scope.EXECUTION)
    assert found.models == frozenset({"large", "swift-1"})
    assert (found.in_flight_max, found.org_in_flight_max) == (7, None)


def test_an_organisation_may_have_a_bound_of_its_own(waypost: Waypost, database: str, tmp_path: Path) -> None:
    org = waypost("org", "create", "Small", "--in-flight", "3").line
    key = waypost("key", "create", "--org", org).line
    assert keys_of_gateways(database)[digest_of(key, tmp_path / "data")].org_in_flight_max == 3


def test_a_project_and_its_keys_have_budgets(waypost: Waypost, org: str) -> None:
    words = ("--org", org, "--budget-usd", "200", "--window", "month")
    project = waypost("project", "create", "search", *words).line
    (listed,) = waypost("project", "list", "--org", org, "--json").json["projects"]
    assert (listed["id"], listed["name"], listed["budget_usd"], listed["window"]) == (
        project, "search", "200.00", "month"
    )  # fmt: skip

    waypost("key", "create", "--org", org, "--project", project, "--budget-usd", "0.5", "--window", "day")
    (key,) = waypost("key", "list", "--org", org, "--json").json["keys"]
    assert (key["project"], key["budget_usd"], key["window"]) == (project, "0.50", "day")

    unknown = "proj_00000000-0000-7000-8000-000000000000"
    done = waypost("key", "create", "--org", org, "--project", unknown)
    assert done.err == f"waypost: the organisation has no project {unknown}: see `waypost project list`\n"


def test_budgets_are_given_and_changed(waypost: Waypost, org: str, database: str) -> None:
    project = waypost("project", "create", "search", "--org", org, "--budget-usd", "200", "--window", "month").line
    key = waypost("key", "create", "--org", org, "--project", project, "--name", "mine", "--json").json

    assert waypost("budget", "set", project, "--usd", "50", "--window", "month").line.startswith(project)
    chain_before = next(iter(keys_of_gateways(database).values())).chain
    for owner, usd in ((org, "300"), (key["id"], "0.5")):
        waypost("budget", "set", owner, "--usd", usd, "--window", "day")

    assert waypost("budget", "list", "--org", org, "--json").json["budgets"] == [
        {"owner": project, "name": "search", "budget_usd": "50.00", "window": "month", "taken_usd": "0.00"},
        {"owner": org, "name": "acme", "budget_usd": "300.00", "window": "day", "taken_usd": "0.00"},
        {"owner": key["id"], "name": "mine", "budget_usd": "0.50", "window": "day", "taken_usd": "0.00"},
    ]
    (told,) = keys_of_gateways(database).values()
    assert told.chain is not None
    assert chain_before is not None
    assert told.chain.owners == tuple(
        ids.parse(kind, text) for kind, text in (("key", key["id"]), ("proj", project), ("org", org))
    )
    assert told.chain.id != chain_before.id  # a lease that was cut without the new budgets is spent from no more


def test_a_budget_that_cannot_be_set_is_refused(waypost: Waypost, org: str) -> None:
    waypost("budget", "set", org, "--usd", "5", "--window", "week")
    other = waypost("budget", "set", org, "--usd", "5", "--window", "day")
    assert (other.code, other.err) == (
        1, "waypost: its budget is of the window 'week', which stays: say --window week\n"
    )  # fmt: skip
    assert waypost("budget", "set", NO_KEY, "--usd", "5").err == "waypost: there is no such key\n"
    assert waypost("budget", "set", "gateway", "--usd", "5").code == 2
    assert waypost("budget", "set", org, "--usd", "-5", "--window", "week").code == 2
    assert [row["budget_usd"] for row in waypost("budget", "list", "--org", org, "--json").json["budgets"]] == ["5.00"]


def test_a_listed_key_cannot_be_used(waypost: Waypost, org: str) -> None:
    key = waypost("key", "create", "--org", org, "--name", "mine").line
    (listed,) = waypost("key", "list", "--org", org, "--json").json["keys"]
    assert (listed["name"], listed["key"]) == ("mine", f"{key[:12]}…{key[-4:]}")
    assert key not in waypost("key", "list", "--org", org).out


def test_a_revoked_key_is_no_longer_valid(waypost: Waypost, org: str, database: str, tmp_path: Path) -> None:
    made = waypost("key", "create", "--org", org, "--json").json
    assert waypost("key", "revoke", made["id"]).line == f"{made['id']} is revoked"
    assert digest_of(made["key"], tmp_path / "data") not in keys_of_gateways(database)
    assert waypost("key", "revoke", made["id"]).code == 0
    assert waypost("key", "rotate", made["id"]).code == 1


def test_a_rotated_key_stays_valid_for_an_hour(waypost: Waypost, org: str, database: str, tmp_path: Path) -> None:
    made = waypost("key", "create", "--org", org, "--json").json
    done = waypost("key", "rotate", made["id"])
    keys = keys_of_gateways(database)
    old = keys[digest_of(made["key"], tmp_path / "data")]
    assert keys[digest_of(done.line, tmp_path / "data")].valid_until_ms is None
    assert old.valid_until_ms is not None
    left = datetime.fromtimestamp(old.valid_until_ms / 1000, UTC) - datetime.now(UTC)
    assert timedelta(minutes=55) < left <= timedelta(hours=1)
    assert f"{made['id']}; the key before it stays valid until 20" in done.err


def test_a_payment_is_credited_once(waypost: Waypost, org: str) -> None:
    words = ("credit", "add", "--org", org, "--usd", "2.50", "--reference", "invoice 7")
    assert waypost(*words).line == f"credited 2.50 USD to {org}"
    assert waypost(*words).line == "this reference was credited before; nothing changed"
    assert waypost("credit", "add", "--org", org, "--usd", "1").code == 0
    assert waypost("balance", "--org", org, "--json").json == {
        "available_nanos": "3500000000",
        "held_nanos": "0",
        "suspense_nanos": "0",
        "usd": "3.500000",
    }
    assert waypost("balance", "--org", org).line == "3.500000 USD: 3.500000 available, 0.000000 held, 0.000000 suspense"
    done = waypost(*words[:5], "3", *words[6:])
    assert (done.code, done.err) == (
        1,
        "waypost: this reference was credited with another amount or to another organisation\n",
    )


def test_usage_of_nothing_is_an_empty_list(waypost: Waypost, org: str) -> None:
    assert waypost("usage", "--org", org, "--json", "--since", "2026-01-01").json == {
        "rows": [],
        "total": {
            "requests": 0,
            "input_tokens": 0,
            "output_tokens": 0,
            **NO_OTHERS,
            "charge_nanos": "0",
            "refunded_nanos": "0",
        },
    }
    assert waypost("usage", "--org", org).line == "total: 0 requests, 0.00 USD"


@pytest.mark.parametrize(
    "words",
    [
        ("balance", "--org", NOBODY),
        ("usage", "--org", NOBODY),
        ("key", "list", "--org", NOBODY),
        ("key", "create", "--org", NOBODY),
        ("credit", "add", "--org", NOBODY, "--usd", "1"),
    ],
)
def test_an_organisation_that_does_not_exist_is_told_so(waypost: Waypost, words: tuple[str, ...]) -> None:
    done = waypost(*words)
    assert (done.code, done.out, done.err) == (1, "", f"waypost: there is no organisation {NOBODY}\n")


def test_a_key_that_does_not_exist_is_told_so(waypost: Waypost) -> None:
    assert waypost("key", "revoke", NO_KEY).err == f"waypost: there is no key {NO_KEY}: see `waypost key list`\n"
    done = waypost("key", "rotate", NO_KEY)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"waypost: there is no key {NO_KEY}, or it is revoked: see `waypost key list`\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("balance",), "Missing option '--org'"),
        (("balance", "--org", "acme"), "not an id of the form org_<uuid>"),
        (("key", "revoke", NOBODY), "not an id of the form key_<uuid>"),
        (("key", "create", "--org", NOBODY, "--scope", "all"), "full or execution"),
        (("key", "create", "--org", NOBODY, "--models", ","), "slugs with commas between them"),
        (("key", "create", "--org", NOBODY, "--requests-per-minute", "0"), "should be greater than or equal to 1"),
        (("key", "create", "--org", NOBODY, "--budget-usd", "-1"), "an amount in USD is digits"),
        (("key", "create", "--org", NOBODY, "--budget-usd", "1", "--window", "year"), "day, week, month or lifetime"),
        (("project", "create", "p", "--org", NOBODY, "--window", "day"), "Give --budget-usd too"),
        (("credit", "add", "--org", NOBODY, "--usd", "1e3"), "an amount in USD is digits"),
        (("credit", "add", "--org", NOBODY, "--usd", "-1"), "an amount in USD is digits"),
        (("credit", "add", "--org", NOBODY, "--usd", "1", "--reference", ""), "1 to 255 characters"),
        (("usage", "--org", NOBODY, "--since", "monday"), "a date such as 2026-11-01"),
        (("catalog", "rollback", "x"), "should be a valid integer"),
        (("up", "--workers", "0"), "should be greater than or equal to 1"),
        (("credit", "add", "--org", NOBODY, "--usd", "0.0000000001"), "at most nine decimals"),
        (("credit", "add", "--org", NOBODY, "--usd", "99999999999"), "an amount in USD is digits"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_started(
    run: Waypost, nowhere: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert sentence in " ".join(done.err.split())
    assert done.err.startswith(f"Usage: waypost {words[0]} ")
    assert not (nowhere.parent / "xdg").exists()


def test_all_organisations_are_listed_the_oldest_first(waypost: Waypost) -> None:
    made = [waypost("org", "create", name).line for name in ("first", "second")]
    listed = [each for each in waypost("org", "list", "--json").json["orgs"] if each["id"] in made]
    assert [(each["id"], each["name"], each["unlimited"]) for each in listed] == [
        (made[0], "first", False),
        (made[1], "second", False),
    ]
    assert "second" in waypost("org", "list").out
