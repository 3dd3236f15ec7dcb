"""Follows the configuration file: what of `[server]` and `[egress]` can change is in force within two seconds.

The file counts by its content, and as a whole: with a mistake anywhere in it, the settings before it stay. So do they
while the certificate and its key do not fit together, as in the moment in which they are replaced one after the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from waypost.app.catalogue_file import check_catalogue
from waypost.app.front import SettingUnusable
from waypost.app.live_settings import LiveSettings
from waypost.app.settings import Settings, SettingsError, read_settings
from waypost.policy.document import CatalogueError
from waypost.telemetry.events import SettingNeedsRestart, SettingsAdopted, SettingsRefused, emit
from waypost.transport.tls import TlsFilesUnusable

POLL_S = 1.0


class Reloading:
    """`live` is in force. `adopt` is given what is new; it may refuse by SettingUnusable or TlsFilesUnusable."""

    def __init__(
        self, settings: Settings, adopt: Callable[[LiveSettings], None], *, process: str, tells_why: bool
    ) -> None:
        """`tells_why`: say the mistakes on stderr, which under `up` its own process does."""
        self.live = settings.live
        self._settings = settings
        self._adopt = adopt
        self._process = process
        self._tells_why = tells_why
        self._seen = self._look()

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.look()

    def look(self) -> None:
        """Take over what has changed since the last look."""
        found = self._look()
        if found == self._seen:
            return
        self._seen = found
        try:
            self._take_over(self._read())
        except (SettingsError, CatalogueError) as error:
            self._refuse(error.mistakes)
        except TlsFilesUnusable as error:
            self._refuse([f"server.tls: {error}"])
        except SettingUnusable as error:
            self._refuse([str(error)])

    def _read(self) -> Settings:
        given = self._settings
        settings = read_settings(
            environment=os.environ,
            data_dir=given.data_dir,
            database_url=given.database_url,
            config_path=given.config_path,
        )
        check_catalogue(settings)
        return settings

    def _take_over(self, settings: Settings) -> None:
        live = settings.live
        for name in ("secrets_dir", "valkey_url", "valkey_wait_s", "vault_bytes", "vault_share"):
            if getattr(settings, name) != getattr(self._settings, name):
                emit(SettingNeedsRestart(process=self._process, setting=f"server.{name}"))
        if settings.files != self._settings.files:
            emit(SettingNeedsRestart(process=self._process, setting="files"))
        if live.tls_mode != self.live.tls_mode:
            emit(SettingNeedsRestart(process=self._process, setting="server.tls"))
            live = live.with_tls_of(self.live)
        self._adopt(live)
        self.live = live
        emit(SettingsAdopted(process=self._process))

    def _refuse(self, mistakes: Sequence[str]) -> None:
        emit(SettingsRefused(process=self._process))
        if self._tells_why:
            for mistake in mistakes:
                sys.stderr.write(f"waypost: {mistake}\n")

    def _look(self) -> list[bytes | None]:
        """What each file holds, as digests: of the configuration, and of what it names in force."""
        tls = self.live.tls
        paths = [self._settings.config_path, None if tls is None else tls.certificate]
        paths += [None if tls is None else tls.private_key, self.live.egress.ca_bundle or None]
        return [_digest(path) for path in paths]


def _digest(path: Path | str | None) -> bytes | None:
    try:
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""
