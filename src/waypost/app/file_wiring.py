"""The file store, put together from the settings."""

from __future__ import annotations

import os
from collections.abc import Callable

from waypost.app.secrets import CredentialReader, Secrets, open_file_keys
from waypost.app.settings import Settings
from waypost.control.file_store import Files
from waypost.control.file_urls import FileUrls
from waypost.kit.clock import Clock
from waypost.kit.ids import Ids
from waypost.storage.pool import Pool
from waypost.stores.objects import LocalObjects, Objects
from waypost.stores.s3 import S3Objects, S3Settings
from waypost.telemetry.metrics import Page

FILES_DIR = "files"


def open_objects(settings: Settings) -> Objects:
    """The store that `[files]` names. Raises LookupError, naming the place, for a credential that cannot be read."""
    files = settings.files
    if files.store == "local":
        return LocalObjects(settings.data_dir / FILES_DIR)
    read = CredentialReader(os.environ)
    return S3Objects(
        S3Settings(
            bucket=files.bucket,
            endpoint=files.endpoint,
            region=files.region,
            access_key_id=read(files.access_key_id),
            secret_access_key=read(files.secret_access_key),
        )
    )


def build_files(
    settings: Settings,
    secrets: Secrets,
    pool: Pool,
    *,
    clock: Clock,
    ids: Ids,
    page: Page | None = None,
    public_url: Callable[[], str | None] | None = None,
) -> Files:
    """`pool` is the app's; `public_url` for whoever takes up changed settings. Raises LookupError and SecretsError."""
    return Files(
        pool=pool,
        objects=open_objects(settings),
        read_keys=lambda: open_file_keys(settings.secrets_dir),
        urls=FileUrls(secrets.signing_key, public_url or (lambda: settings.live.public_url)),
        clock=clock,
        ids=ids,
        bounds=settings.files.bounds,
        page=page,
    )
