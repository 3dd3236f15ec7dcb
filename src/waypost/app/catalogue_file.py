"""From a file to a version of the catalogue: read, checked as a whole, freed of secrets, applied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psycopg

from waypost.app.operator import Operator, act
from waypost.app.secrets import CredentialReader, absolute_reference, open_secrets, with_references
from waypost.app.settings import Settings, SettingsError, read_settings, read_toml
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import CatalogueError, read_catalogue
from waypost.policy.provider_document import PLAIN

FROM_FILE = "file"  # the configuration file that `up` watches


def read_document(path: Path) -> Catalogue:
    """The catalogue of a file, as it stands there. Raises CatalogueError, each mistake beginning with the file's path,
    and SettingsError when it cannot be read at all."""
    try:
        return read_catalogue(read_toml(path))
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {mistake}" for mistake in error.mistakes) from None


def read_catalogue_file(settings: Settings, path: Path) -> Catalogue:
    """The same, ready to be stored. Makes the secrets when they are not there; raises SecretsError, too."""
    document = read_document(path)
    return with_references(document, open_secrets(settings.secrets_dir), document_dir=path.absolute().parent)


def check_catalogue(settings: Settings) -> None:
    """Raises CatalogueError when the configuration file's catalogue would be refused."""
    if settings.config_path is not None:
        read_document(settings.config_path)


def apply_watched_file(settings: Settings, conninfo: str) -> Sequence[str]:
    """Apply the configuration file if its content changed since it was last applied; the mistakes for which it was
    refused whole. Raises psycopg.OperationalError when the database does not answer."""
    if settings.config_path is None:
        return ()
    try:
        # The file counts as a whole: a catalogue beside a mistake in `[server]` is not applied either.
        read_settings(environment=os.environ, data_dir=settings.data_dir, config_path=settings.config_path)
        catalogue = read_catalogue_file(settings, settings.config_path)
    except (CatalogueError, SettingsError) as error:
        return error.mistakes
    mistakes = unreadable_credentials(catalogue, settings.config_path)
    if mistakes:
        return [f"{mistake}; set it, and start again" for mistake in mistakes]

    async def work(operator: Operator) -> None:
        await operator.follow_catalogue(catalogue, source=FROM_FILE)

    try:
        act(settings, conninfo, work)
    except LedgerUnavailable:
        raise psycopg.OperationalError from None
    return ()


def apply_first(settings: Settings, conninfo: str) -> Sequence[str]:
    """As `apply_watched_file`, at the start: the mistakes, with what serves on. Raises CatalogueError with them when
    nothing could serve, because there is no earlier version."""
    mistakes = apply_watched_file(settings, conninfo)
    if not mistakes:
        return ()

    async def newest(operator: Operator) -> int | None:
        history = await operator.catalogue_history()
        return max((entry.version for entry in history), default=None)

    try:
        version = act(settings, conninfo, newest)
    except LedgerUnavailable:
        raise psycopg.OperationalError from None
    if version is None:
        raise CatalogueError([*mistakes, "There is no earlier version to serve: correct this and start again."])
    return [*mistakes, f"Version {version} of the catalogue serves on."]


def unreadable_credentials(catalogue: Catalogue, path: Path) -> list[str]:
    """What of the file at `path` refers to a credential that cannot be read; one that stands in the file itself is
    there. The gateways read credentials from the same places as this process, whose children they are."""
    read_credential = CredentialReader(os.environ)
    mistakes = []
    for i, provider in enumerate(catalogue.providers):
        for name, references in (("api_keys", provider.api_keys), ("webhook_secrets", provider.jobs.webhook_secrets)):
            for j, reference in enumerate(references):
                try:
                    if not reference.startswith(PLAIN):
                        read_credential(absolute_reference(reference, document_dir=path.absolute().parent))
                except LookupError as error:
                    mistakes.append(f"{path}: providers[{i}].{name}[{j}]: {error.args[0]}")
    return mistakes
