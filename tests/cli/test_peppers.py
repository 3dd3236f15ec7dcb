"""The peppers by command: rotated, retired with a word of what it breaks, and brought back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Waypost
from waypost.app.secrets import open_peppers
from waypost.storage.directory import PostgresDirectory


@pytest.fixture
def secrets_dir(waypost: Waypost, tmp_path: Path) -> Path:
    return tmp_path / "data" / "secrets"


def make_key(waypost: Waypost, org: str) -> str:
    return waypost("key", "create", "--org", org).out.strip()


def use(database: str, secrets_dir: Path, *texts: str) -> None:
    """What a gateway does in the second after they were used under the pepper before."""

    async def move() -> None:
        directory, peppers = PostgresDirectory(database), open_peppers(secrets_dir)
        assert peppers.before is not None
        moved = {peppers.before.digest(text): peppers.newest.digest(text) for text in texts}
        try:
            await directory.move_digests(moved, peppers.newest.version)
            await directory.move_digests(moved, peppers.newest.version)  # as another gateway does
        finally:
            await directory.close_connections()

    asyncio.run(move())


def known(database: str) -> set[bytes]:
    async def ask() -> set[bytes]:
        directory = PostgresDirectory(database)
        try:
            return {each.digest for each in (await directory.api_keys_since(0))[0]}
        finally:
            await directory.close_connections()

    return asyncio.run(ask())


def peppers(waypost: Waypost) -> dict[int, tuple[str, int, int]]:
    listed: list[dict[str, Any]] = waypost("pepper", "list", "--json").json["peppers"]
    return {each["version"]: (each["state"], each["keys"], each["only_here"]) for each in listed}


def test_keys_that_are_used_move_and_the_old_pepper_goes_without_anybody_noticing(
    waypost: Waypost, org: str, database: str, secrets_dir: Path
) -> None:
    used = make_key(waypost, org)
    assert peppers(waypost) == {1: ("newest", 1, 1)}
    assert str(secrets_dir / "pepper.2") in waypost("pepper", "rotate").line
    new = make_key(waypost, org)
    assert peppers(waypost) == {2: ("newest", 1, 1), 1: ("before", 1, 1)}
    use(database, secrets_dir, used)
    assert peppers(waypost) == {2: ("newest", 2, 1), 1: ("before", 1, 0)}

    done = waypost("pepper", "retire", "1")
    assert (done.code, "0 keys with it" in done.out) == (0, True)
    assert peppers(waypost) == {2: ("newest", 2, 2), 1: ("retired", 0, 0)}
    (newest,) = open_peppers(secrets_dir).all
    assert known(database) == {newest.digest(text) for text in (used, new)}
    listed = waypost("key", "list", "--org", org, "--json").json["keys"]
    assert [each["key"] for each in listed] == [f"{text[:12]}…{text[-4:]}" for text in (used, new)]


def test_who_retires_a_pepper_is_told_how_many_keys_need_it_and_can_take_it_back(
    waypost: Waypost, org: str, database: str, secrets_dir: Path
) -> None:
    needing = [make_key(waypost, org) for _ in range(2)]
    moved = make_key(waypost, org)
    waypost("pepper", "rotate")
    use(database, secrets_dir, moved)
    unsure = waypost("pepper", "retire", "1")
    assert (unsure.code, unsure.out) == (1, "")
    assert unsure.err.startswith("waypost: 2 valid keys, of 1 organisations, are known under pepper 1 alone")
    assert peppers(waypost)[1] == ("before", 3, 2), "nothing has changed"

    assert "and 2 keys with it" in waypost("pepper", "retire", "1", "--yes").line
    assert peppers(waypost)[1] == ("retired", 2, 2)
    warned = waypost("doctor")
    assert "version 1 is retired, and 2 keys that are known under it alone are refused" in warned.out
    assert "for 2 keys" in waypost("pepper", "restore", "1").line
    assert peppers(waypost) == {2: ("newest", 1, 0 + 1), 1: ("before", 2, 2)}
    before = open_peppers(secrets_dir).before
    assert before is not None
    assert {before.digest(text) for text in needing} <= known(database)


def test_a_rotation_is_undone_by_retiring_the_new_pepper(
    waypost: Waypost, org: str, database: str, secrets_dir: Path
) -> None:
    key = make_key(waypost, org)
    waypost("pepper", "rotate")
    use(database, secrets_dir, key)
    assert waypost("pepper", "retire", "2").code == 0
    (newest,) = open_peppers(secrets_dir).all
    assert known(database) == {newest.digest(key)}
    assert str(secrets_dir / "pepper.3") in waypost("pepper", "rotate").line, "a version means one secret"
    assert waypost("pepper", "retire", "3").code == 0
    waypost("pepper", "restore", "2")
    use(database, secrets_dir, key)
    assert peppers(waypost)[2] == ("newest", 1, 0), "what had ended with it is known again"


def test_a_revoked_or_rotated_key_needs_no_pepper(waypost: Waypost, org: str, database: str, secrets_dir: Path) -> None:
    key_id = waypost("key", "create", "--org", org, "--json").json["id"]
    other = waypost("key", "create", "--org", org, "--json").json
    waypost("pepper", "rotate")
    use(database, secrets_dir, other["key"])
    waypost("key", "revoke", key_id)
    waypost("key", "rotate", other["id"])
    assert peppers(waypost)[1] == ("before", 1, 0)  # the text before it, for an hour
    assert waypost("pepper", "retire", "1").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("retire", "1"), "is the only one in force"),
        (("retire", "7"), "is not in force"),
        (("restore", "7"), "there is no retired pepper 7"),
    ],
)
def test_what_cannot_be_is_told(waypost: Waypost, words: tuple[str, ...], told: str) -> None:
    done = waypost("pepper", *words)
    assert (done.code, told in done.err) == (1, True)


def test_two_peppers_are_in_force_at_most(waypost: Waypost, secrets_dir: Path) -> None:
    waypost("pepper", "rotate")
    third = waypost("pepper", "rotate")
    assert (third.code, "waypost pepper retire 1" in third.err) == (1, True)
    assert waypost("pepper", "retire", "1").code == 0
    waypost("pepper", "rotate")
    refused = waypost("pepper", "restore", "1")
    assert (refused.code, "retire one of them first" in refused.err) == (1, True)
    (secrets_dir / "retired_pepper.1").rename(secrets_dir / "pepper")
    assert "at most 2 peppers" in waypost("pepper", "list").err


def test_a_machine_that_was_not_given_the_newest_pepper_is_told_by_its_doctor(
    waypost: Waypost, org: str, secrets_dir: Path
) -> None:
    waypost("pepper", "rotate")
    make_key(waypost, org)
    assert "version 2 is newest; version 1 before it, which 0 keys still need" in waypost("doctor").out
    (secrets_dir / "pepper.2").unlink()
    done = waypost("doctor")
    assert done.code == 1
    assert f"version 2 is not in {secrets_dir}: 1 keys are known under it, and 1 of them are refused here" in done.out
    assert peppers(waypost)[2] == ("missing", 1, 1)
