"""The one place where commands open the database: the one that is named, or the embedded one, started if need be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from waypost.app.secrets import has_secrets
from waypost.app.settings import Settings, SettingsError
from waypost.storage.embedded import EmbeddedPostgres
from waypost.storage.health import is_migrated

EMBEDDED_DIR = "postgres"  # below the data directory


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The PostgreSQL of this data directory, running or not."""
    return EmbeddedPostgres(settings.data_dir / EMBEDDED_DIR)


def refuse_absent(settings: Settings, *, needs_secrets: bool = False) -> None:
    """Raises SettingsError when the database would be the embedded one, and was never made; and for a command that
    needs the secrets of a deployment with another database, when there are none where they should be."""
    if settings.database_url is None and not embedded_postgres(settings).exists:
        raise SettingsError(
            f"there is no deployment in {settings.data_dir}: check --data-dir (WAYPOST_DATA_DIR), name the database "
            "with --database-url if it is elsewhere, or make a deployment with `waypost up` or `waypost org create`"
        )
    if settings.database_url is not None and needs_secrets and not has_secrets(settings.secrets_dir):
        raise SettingsError(no_secrets(settings))


def no_secrets(settings: Settings) -> str:
    """What to say when the secrets of a deployment are not where they should be."""
    return (
        f"there are no secrets in {settings.secrets_dir}: check --data-dir (WAYPOST_DATA_DIR) or secrets_dir of "
        "waypost.toml, bring them back from a backup, or make a deployment with `waypost up` or `waypost org create`"
    )


@contextmanager
def open_database(settings: Settings, *, may_migrate: bool = True) -> Iterator[str]:
    """Conninfo of the migrated database, good for as long as the context lasts. Raises DatabaseUnfit when it is not
    migrated and may not be.

    The embedded server is shared with a running `up`; whoever leaves last stops it."""
    if settings.database_url is not None:
        _migrate(settings.database_url, may_migrate=may_migrate)
        yield settings.database_url
        return
    server = embedded_postgres(settings)
    try:
        conninfo = server.start()
        _migrate(conninfo, may_migrate=may_migrate)
        yield conninfo
    finally:
        server.stop()


def _migrate(conninfo: str, *, may_migrate: bool) -> None:
    if is_migrated(conninfo):
        return
    from waypost.storage.database import DatabaseUnfit, migrate  # noqa: PLC0415  Alembic and SQLAlchemy take a second to import

    if not may_migrate:
        raise DatabaseUnfit("answers, but holds no schema of this version: `waypost up` makes it")
    migrate(conninfo)
