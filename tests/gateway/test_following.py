"""Following keys and the catalogue: whatever one of them does, the other is followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from waypost.dispatch.fleet import Fleet
from waypost.gateway.following import Following
from waypost.gateway.ports import LedgerUnavailable
from waypost.kit.clock import SystemClock
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import CatalogueError
from waypost.policy.snapshot import View, build_view
from waypost.tenancy.api_key import ApiKey
from waypost.tenancy.keyring import Keyring
from waypost.tenancy.pepper import Pepper, Peppers


class FakeDirectory:
    """Every look finds a newer version, unless an error is set for it."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.keys = 0
        self.catalogues = 0
        self._round = asyncio.Event()

    async def api_keys_since(self, version: int) -> tuple[Sequence[ApiKey], int]:
        self._fail("keys")
        self.keys += 1
        return (), version + 1

    async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
        self._fail("catalogue")
        self.catalogues += 1
        return Catalogue(), version + 1

    async def move_digests(self, moved: Mapping[bytes, bytes], pepper_version: int) -> None:
        raise AssertionError((moved, pepper_version))

    async def wait_for_change(self, timeout_s: float) -> None:
        self._round.set()
        await asyncio.sleep(0)
        self._fail("announcements")

    async def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            self._round.clear()
            await self._round.wait()

    def _fail(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]


class NoSecrets:
    def __call__(self, reference: str) -> str:
        raise KeyError(reference)

    def has_changed(self) -> bool:
        return False


class SamePeppers:
    def changed(self) -> None:
        pass


@asynccontextmanager
async def follow(directory: FakeDirectory) -> AsyncIterator[tuple[Following, Keyring]]:
    keyring = Keyring(Peppers(Pepper(1, b"pepper")))
    following = Following(directory, keyring, Fleet(NoSecrets(), lambda: 0.5), SystemClock(), SamePeppers())
    task = asyncio.ensure_future(following.run())
    try:
        yield following, keyring
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def told(following: Following) -> tuple[bool, tuple[str, ...]]:
    return following.is_database_reachable, following.unreadable


async def test_keys_are_followed_while_the_catalogue_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    directory = FakeDirectory()
    directory.errors["catalogue"] = CatalogueError("from a newer version")
    async with follow(directory) as (following, keyring):
        await directory.rounds()

        assert keyring.version >= 2
        assert told(following) == (True, ("catalogue",))
        directory.errors.clear()
        await directory.rounds()
        assert told(following) == (True, ())
        assert following.view.version > 0
    assert capsys.readouterr().err.count('"error_type":"CatalogueError"') == 1


async def test_the_catalogue_is_followed_while_keys_cannot_be_read() -> None:
    directory = FakeDirectory()
    directory.errors["keys"] = ValueError("a key of a newer version")
    async with follow(directory) as (following, _):
        await directory.rounds()
        assert following.unreadable == ("keys",)
        assert following.view.version > 0


async def test_a_database_that_is_away_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    directory = FakeDirectory()
    directory.errors["keys"] = directory.errors["catalogue"] = LedgerUnavailable()
    async with follow(directory) as (following, _):
        await directory.rounds()
        assert told(following) == (False, ())
        directory.errors.clear()
        await directory.rounds()
        assert told(following) == (True, ())
    assert "BugCaught" not in capsys.readouterr().err


async def test_a_catalogue_that_is_read_anew_is_read_until_it_was_adopted() -> None:
    class Behind(FakeDirectory):
        """Promoted without the newest versions."""

        async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
            return (Catalogue(), 1) if version < 1 else None

    class Unwilling:
        is_able = False

        def adopt(self, view: View) -> None:
            if not self.is_able:
                raise RuntimeError

        def has_changed_credentials(self) -> bool:
            return False

    fleet = Unwilling()
    keyring = Keyring(Peppers(Pepper(1, b"pepper")))
    following = Following(Behind(), keyring, fleet, SystemClock(), SamePeppers())
    following.view = build_view(Catalogue(), 5)
    following.begin_anew()
    with pytest.raises(RuntimeError):
        await following.catch_up()
    fleet.is_able = True
    await following.catch_up()
    assert following.view.version == 1
