"""Keys and catalogue versions, and followers who must miss none of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.books import IDS, Books, open_books
from waypost.kit.values import replace
from waypost.metering.price import price_row
from waypost.policy.catalogue import Catalogue, Deployment, Model, Provider
from waypost.policy.snapshot import View
from waypost.storage import catalogues
from waypost.storage.api_keys import (
    Limits,
    Secret,
    api_keys_since,
    create_api_key,
    list_api_keys,
    revoke_api_key,
    rotate_api_key,
)
from waypost.storage.catalogues import (
    EARLIER_VIEWS_MAX,
    apply_catalogue,
    catalogue_history,
    catalogue_since,
    newest_catalogue,
    roll_back_catalogue,
)
from waypost.storage.directory import PostgresDirectory
from waypost.storage.pool import Pool
from waypost.tenancy.api_key import ApiKey, Scope

PRICES = price_row({"input": 1, "output": 2})
CATALOGUE = Catalogue(
    providers=(Provider("alpha", "openai", "http://127.0.0.1:1/v1", ("env:ALPHA",)),),
    models=(Model("swift-1", "chat", 1000, 100, PRICES, (Deployment("alpha/large", "alpha", "large", PRICES),)),),
)


def secret() -> Secret:
    return Secret(digest=IDS.new() * 2, prefix="sk_012345678", last_four="cdef")


async def make_key(books: Books, org_id: bytes, limits: Limits | None = None) -> tuple[bytes, Secret]:
    api_key_id, kept = IDS.new(), secret()
    await create_api_key(
        books.app,
        api_key_id=api_key_id,
        org_id=org_id,
        secret=kept,
        name="for tests",
        scope=Scope.EXECUTION,
        limits=limits or Limits(),
    )
    return api_key_id, kept


async def test_a_key_reaches_followers_and_its_owner_as_it_was_made(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org()
        limits = Limits(60, 1000, frozenset({"swift-1", "grand-1"}))
        api_key_id, kept = await make_key(books, org_id, limits)

        keys, version = await api_keys_since(books.app, 0)
        assert keys == [ApiKey(api_key_id, org_id, kept.digest, Scope.EXECUTION, 60, 1000, limits.models)]
        assert await api_keys_since(books.app, version) == ([], version)
        (listed,) = await list_api_keys(books.app, org_id)
        assert (listed.id, listed.name, listed.limits, listed.prefix) == (
            api_key_id,
            "for tests",
            limits,
            "sk_012345678",
        )
        assert await list_api_keys(books.app, IDS.new()) == []
        with pytest.raises(LookupError):
            await make_key(books, IDS.new())


async def test_a_revoked_key_is_told_to_those_who_know_it_and_to_nobody_else(database: str) -> None:
    async with open_books(database) as books:
        api_key_id, kept = await make_key(books, await books.org())
        _, version = await api_keys_since(books.app, 0)
        await revoke_api_key(books.app, api_key_id)

        (told,), newer = await api_keys_since(books.app, version)
        assert (told.digest, told.valid_until_ms) == (kept.digest, 0)
        await revoke_api_key(books.app, api_key_id)
        assert await api_keys_since(books.app, newer) == ([], newer)
        assert (await api_keys_since(books.app, 0))[0] == []
        with pytest.raises(LookupError):
            await revoke_api_key(books.app, IDS.new())
        with pytest.raises(LookupError):
            await rotate_api_key(books.app, api_key_id, secret())


async def test_a_rotated_key_keeps_its_id_and_its_old_texts_for_an_hour_each(database: str) -> None:
    async with open_books(database) as books:
        api_key_id, first = await make_key(books, await books.org())
        second, third = secret(), secret()
        ends = await rotate_api_key(books.app, api_key_id, second)
        await rotate_api_key(books.app, api_key_id, third)

        keys, _ = await api_keys_since(books.app, 0)
        assert {key.id for key in keys} == {api_key_id}
        until = {key.digest: key.valid_until_ms for key in keys}
        assert until.keys() == {first.digest, second.digest, third.digest}
        assert until[third.digest] is None
        assert until[first.digest] == int(ends.timestamp() * 1000)

        await revoke_api_key(books.app, api_key_id)
        assert (await api_keys_since(books.app, 0))[0] == []


async def test_a_follower_misses_no_key_that_competing_writers_make(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org()
        is_done = asyncio.Event()
        seen: list[bytes] = []

        async def follow() -> None:
            version = 0
            while True:
                is_last = is_done.is_set()
                keys, version = await api_keys_since(books.app, version)
                seen.extend(key.id for key in keys)
                if is_last:
                    return

        follower = asyncio.ensure_future(follow())
        made = await asyncio.gather(*(make_key(books, org_id) for _ in range(40)))
        is_done.set()
        await follower
        assert sorted(seen) == sorted(api_key_id for api_key_id, _ in made)


async def test_a_change_wakes_a_follower(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org()
        directory = PostgresDirectory(database)
        waiting = asyncio.ensure_future(directory.wait_for_change(100.0))
        made = 0
        while not waiting.done():  # the first of them may come before it listens
            await make_key(books, org_id)
            made += 1
        keys, _ = await directory.api_keys_since(0)
        assert len(keys) == made
        await directory.close_connections()


async def test_without_a_database_a_follower_waits_its_time() -> None:
    directory = PostgresDirectory("host=/nonexistent dbname=nothing")
    await directory.wait_for_change(0.01)
    await directory.close_connections()


async def test_a_demo_does_not_hold_against_the_file(database: str) -> None:
    async with open_books(database) as books:
        demo = replace(CATALOGUE, models=(replace(CATALOGUE.models[0], slug="demo"),))
        assert await apply_catalogue(books.app, CATALOGUE, source="file", now_s=1) == 1
        assert await apply_catalogue(books.app, demo, source="demo at 1700000000", now_s=1) == 2

        assert await apply_catalogue(books.app, CATALOGUE, source="file", now_s=1) == 3
        assert await apply_catalogue(books.app, CATALOGUE, source="file", now_s=1) is None


async def test_the_same_content_is_applied_once_and_a_rollback_holds_until_it_changes(database: str) -> None:
    async with open_books(database) as books:
        assert await newest_catalogue(books.app) is None
        assert await apply_catalogue(books.app, CATALOGUE, source="file", now_s=1_700_000_000) == 1
        assert await apply_catalogue(books.app, CATALOGUE, source="file", now_s=1_800_000_000) is None
        cheaper = replace(CATALOGUE, models=(replace(CATALOGUE.models[0], max_output=99),))
        assert await apply_catalogue(books.app, cheaper, source="file", now_s=1_800_000_000) == 2
        assert await roll_back_catalogue(books.app, 1) == 3
        assert await apply_catalogue(books.app, cheaper, source="file", now_s=1_800_000_000) is None

        newest = await catalogue_since(books.app, 2)
        assert newest is not None
        catalogue, version = newest
        assert version == 3
        assert catalogue.models[0].created_s == 1_700_000_000
        assert replace(catalogue.models[0], created_s=0) == CATALOGUE.models[0]
        assert await catalogue_since(books.app, 3) is None
        history = await catalogue_history(books.app)
        assert [(one.version, one.source) for one in history] == [(3, "rollback to 1"), (2, "file"), (1, "file")]
        with pytest.raises(LookupError):
            await roll_back_catalogue(books.app, 9)


async def test_competing_appliers_make_one_version(database: str) -> None:
    async with open_books(database) as books:
        versions = await asyncio.gather(
            *(apply_catalogue(books.app, CATALOGUE, source="file", now_s=1) for _ in range(6))
        )
        assert sorted(version or 0 for version in versions) == [0, 0, 0, 0, 0, 1]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions that are read from the database, one after another."""
    read: list[int] = []
    catalogue_of = catalogues.catalogue_of

    async def noted(pool: Pool, version: int) -> Catalogue:
        read.append(version)
        return await catalogue_of(pool, version)

    monkeypatch.setattr(catalogues, "catalogue_of", noted)
    return read


async def versions_of(books: Books, count: int) -> None:
    for number in range(1, count + 1):
        model = replace(CATALOGUE.models[0], max_output=number)
        applied = replace(CATALOGUE, models=(model,))
        assert await apply_catalogue(books.app, applied, source="file", now_s=1) == number


async def test_an_earlier_version_is_read_once_for_all_who_ask_at_the_same_time(
    database: str, loaded: list[int]
) -> None:
    async with open_books(database) as books:
        await versions_of(books, 2)
        directory = PostgresDirectory(database)
        views = await asyncio.gather(*(directory.view_at(1 + number % 2) for number in range(64)))
        assert sorted(loaded) == [1, 2]
        assert [view.version for view in views if view is not None] == [1, 2] * 32
        await directory.close_connections()


async def test_one_who_stops_waiting_for_an_earlier_version_takes_it_from_nobody(
    database: str, loaded: list[int]
) -> None:
    async with open_books(database) as books:
        await versions_of(books, 1)
        directory = PostgresDirectory(database)
        first, second = (asyncio.ensure_future(directory.view_at(1)) for _ in range(2))
        await asyncio.sleep(0)  # both ask
        first.cancel()
        view = await second
        assert isinstance(view, View)
        assert (view.version, first.cancelled(), loaded) == (1, True, [1])
        await directory.close_connections()


async def test_of_earlier_versions_those_that_were_used_last_are_kept(database: str, loaded: list[int]) -> None:
    async with open_books(database) as books:
        await versions_of(books, EARLIER_VIEWS_MAX + 2)
        directory = PostgresDirectory(database)
        for version in range(1, EARLIER_VIEWS_MAX + 1):
            await directory.view_at(version)
        assert await directory.view_at(EARLIER_VIEWS_MAX + 9) is None
        loaded.clear()
        for version in (1, EARLIER_VIEWS_MAX + 1, 1, EARLIER_VIEWS_MAX + 2, 1, 2, 5):
            await directory.view_at(version)
        assert loaded == [EARLIER_VIEWS_MAX + 1, EARLIER_VIEWS_MAX + 2, 2]
        await directory.close_connections()
