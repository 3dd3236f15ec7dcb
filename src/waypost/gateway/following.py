"""Follows keys and catalogue: what changed in the database is in force here within a second or so.

Announcements make it faster, polling makes it certain. With the database away the last view serves on, and so does the
last catalogue when a newer one cannot be read: keys are followed all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from waypost.gateway.ports import Directory, LedgerUnavailable
from waypost.kit.clock import Clock
from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import View, build_view
from waypost.telemetry.events import CatalogueAdopted, emit, report_bug
from waypost.tenancy.keyring import Keyring
from waypost.tenancy.pepper import Peppers

POLL_S = 1.0
_ANNOUNCEMENTS = "announcements"


class CatalogueUser(Protocol):
    """What a new catalogue is made live in; a gateway's `dispatch.fleet.Fleet`."""

    def adopt(self, view: View) -> None: ...
    def has_changed_credentials(self) -> bool: ...


class PepperSource(Protocol):
    """The secrets directory; `app.secrets.PepperReader`."""

    def changed(self) -> Peppers | None:
        """Those in force when they are others than at the last look."""


class Following:
    """`view` is the catalogue in force; it is swapped whole."""

    def __init__(
        self, directory: Directory, keyring: Keyring, fleet: CatalogueUser, clock: Clock, peppers: PepperSource
    ) -> None:
        self.view: View = build_view(Catalogue(), 0)
        self.is_database_reachable = True
        self._directory = directory
        self._keyring = keyring
        self._fleet = fleet
        self._clock = clock
        self._peppers = peppers
        self._new_peppers: Peppers | None = None  # until the keys were read that they are for
        self._failing: dict[str, type[Exception]] = {}
        self._begins_anew = False

    @property
    def unreadable(self) -> tuple[str, ...]:
        """What is not followed at the moment although the database answers: "catalogue", "digests", "keys",
        "peppers"."""
        return tuple(sorted(self._failing.keys() - {_ANNOUNCEMENTS}))

    async def catch_up(self) -> None:
        """Take in everything that has changed. Raises LedgerUnavailable, CatalogueError."""
        await self._take_keys()
        await self._take_catalogue()

    def begin_anew(self) -> None:
        """Read everything again: the database may have lost its newest versions, and will use their numbers again."""
        self._new_peppers = self._new_peppers or self._keyring.peppers
        self._begins_anew = True

    async def _take_keys(self) -> None:
        peppers = self._new_peppers
        api_keys, version = await self._directory.api_keys_since(0 if peppers is not None else self._keyring.version)
        if peppers is not None:
            self._keyring.use(peppers)
            self._new_peppers = None
        self._keyring.adopt(api_keys, version, self._clock.unix_ns() // 1_000_000)

    async def _look_at_peppers(self) -> None:
        self._new_peppers = self._peppers.changed() or self._new_peppers

    async def _move_keys(self) -> None:
        """Those used since the last look, to the newest pepper. What fails is asked for by their next use."""
        aged = self._keyring.take_aged()
        if aged:
            await self._directory.move_digests(aged, self._keyring.peppers.newest.version)

    async def _take_catalogue(self) -> None:
        begins_anew = self._begins_anew
        newer = await self._directory.catalogue_since(0 if begins_anew else self.view.version)
        if newer is not None:
            catalogue, version = newer
            view = build_view(catalogue, version)
            self._fleet.adopt(view)
            self.view = view  # last: what could not be adopted is tried again
            emit(CatalogueAdopted(version=version))
        elif self._fleet.has_changed_credentials():
            self._fleet.adopt(self.view)
        if begins_anew:
            self._begins_anew = False

    async def run(self) -> None:
        """Catch up whenever something is announced, and every second. Until cancelled."""
        while True:
            if not await self._survive(_ANNOUNCEMENTS, self._wait):
                await asyncio.sleep(POLL_S)
            await self._survive("peppers", self._look_at_peppers)
            await self._survive("digests", self._move_keys)
            has_keys = await self._survive("keys", self._take_keys)
            has_catalogue = await self._survive("catalogue", self._take_catalogue)
            self.is_database_reachable = has_keys and has_catalogue

    async def _wait(self) -> None:
        await self._directory.wait_for_change(POLL_S)

    async def _survive(self, what: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether the database answered. An error of any other kind is told once and leaves the rest to go on."""
        try:
            await call()
        except LedgerUnavailable:
            return False
        except Exception as error:  # noqa: BLE001  the edge of a task: without it revoked keys would go on working
            if self._failing.get(what) is not type(error):
                report_bug(error)
            self._failing[what] = type(error)
            return what != _ANNOUNCEMENTS
        self._failing.pop(what, None)
        return True
