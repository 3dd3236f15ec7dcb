"""How large files may be, together too, and how long they stay."""

from __future__ import annotations

import msgspec


class FileBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of one file, and of an organisation that has no bounds of its own."""

    bytes_max: int = 150 * 1024 * 1024
    organisation_bytes: int = 10 * 1024 * 1024 * 1024
    ttl_days: int = 30
