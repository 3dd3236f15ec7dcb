"""Follows keys and catalogue: what changed in the database is in force here within a second or so.

Announcements make it faster, polling makes it certain. With the database away the last view serves on.
"""

from __future__ import annotations

from waypost.dispatch.fleet import Fleet
from waypost.gateway.access import Keyring
from waypost.gateway.ports import Directory, LedgerUnavailable
from waypost.kit.clock import Clock
from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import View, build_view
from waypost.telemetry.events import CatalogueAdopted, emit

POLL_S = 1.0


class Following:
    """`view` is the catalogue in force; it is swapped whole."""

    def __init__(self, directory: Directory, keyring: Keyring, fleet: Fleet, clock: Clock) -> None:
        self.view: View = build_view(Catalogue(), 0)
        self.is_database_reachable = True
        self._directory = directory
        self._keyring = keyring
        self._fleet = fleet
        self._clock = clock

    async def catch_up(self) -> None:
        """Take in everything that has changed. Raises LedgerUnavailable."""
        api_keys, version = await self._directory.api_keys_since(self._keyring.version)
        self._keyring.adopt(api_keys, version, self._clock.unix_ns() // 1_000_000)
        newer = await self._directory.catalogue_since(self.view.version)
        if newer is not None:
            catalogue, version = newer
            self.view = build_view(catalogue, version)
            self._fleet.adopt(self.view)
            emit(CatalogueAdopted(version=version))
        elif self._fleet.has_changed_credentials():
            self._fleet.adopt(self.view)

    async def run(self) -> None:
        """Catch up whenever something is announced, and every second. Until cancelled."""
        while True:
            try:
                await self._directory.wait_for_change(POLL_S)
                await self.catch_up()
                self.is_database_reachable = True
            except LedgerUnavailable:
                self.is_database_reachable = False
