"""`[files]`: where files of organisations are kept, and how much and how long unless an organisation has its own
limits. Read at the start of the control process.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from waypost.control.file_bounds import FileBounds
from waypost.policy.table import Table

STORES = ("local", "s3")
_MIB = 1024 * 1024
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ENDPOINT = re.compile(
    r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._/-]*)?|https?://\[[0-9a-f:]+\](?::[0-9]{1,5})?"
)


class FileSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials are references, `env:NAME` or `file:PATH`."""

    store: str = STORES[0]
    bucket: str = ""
    endpoint: str = ""
    region: str = "auto"
    access_key_id: str = ""
    secret_access_key: str = ""
    bounds: FileBounds = FileBounds()

    def shown(self) -> list[tuple[str, str]]:
        """Name and value of each setting that an operator would look for."""
        place = "in the data directory" if self.store == "local" else f"{self.bucket} at {self.endpoint or 'Amazon'}"
        return [
            ("files.store", f"{self.store}: {place}"),
            ("files.bytes_max", str(self.bounds.bytes_max)),
            ("files.organisation_bytes", str(self.bounds.organisation_bytes)),
            ("files.ttl_days", str(self.bounds.ttl_days)),
        ]


def read_files(table: Table, directory: Path) -> FileSettings:
    """Read them; mistakes are noted in the table. Paths are taken from `directory`, where the file stands."""
    store = table.one_of("store", STORES, STORES[0])
    is_remote = store == "s3"
    defaults = FileBounds()
    settings = FileSettings(
        store=store,
        bucket=table.text("bucket", None if is_remote else "", form=_BUCKET, hint="the name of a bucket"),
        endpoint=table.text("endpoint", "", form=_ENDPOINT, hint='an address such as "https://s3.example.org"'),
        region=table.text("region", "auto"),
        access_key_id=_reference(table, "access_key_id", directory, is_required=is_remote),
        secret_access_key=_reference(table, "secret_access_key", directory, is_required=is_remote),
        bounds=FileBounds(
            bytes_max=table.integer("bytes_max", defaults.bytes_max, least=1024, most=2048 * _MIB),
            organisation_bytes=table.integer(
                "organisation_bytes", defaults.organisation_bytes, least=0, most=1_000_000_000_000_000
            ),
            ttl_days=table.integer("ttl_days", defaults.ttl_days, least=1, most=365),
        ),
    )
    if not is_remote:
        for name in ("bucket", "endpoint", "region", "access_key_id", "secret_access_key"):
            if table.raw(name) is not None:
                table.note(name, 'means nothing for the store "local": leave it out, or set store = "s3"')
    table.close()
    return settings


def _reference(table: Table, name: str, directory: Path, *, is_required: bool) -> str:
    hint = '"env:NAME" or "file:PATH"'
    text = table.text(name, None if is_required else "", form=_REFERENCE, hint=hint)
    scheme, _, place = text.partition(":")
    return f"file:{(directory / Path(place).expanduser()).absolute()}" if scheme == "file" else text
