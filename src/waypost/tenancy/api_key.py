"""API keys: `sk_<64 hex>_<8 hex>`, where the last part is the CRC-32 of the 64 hex characters.

The checksum lets a client, and our first line of defence, refuse a mistyped key without any look-up. Of a key only
HMAC-SHA256(pepper, key) is stored, beside its first twelve and last four characters for people to recognise it by.
"""

from __future__ import annotations

import zlib
from enum import Enum

import msgspec

from waypost.tenancy.budget import Chain

_HEX_DIGITS = b"0123456789abcdef"


class Scope(Enum):
    FULL = "full"
    EXECUTION = "execution"


class ApiKey(msgspec.Struct, frozen=True):
    """What a gateway knows of a key. Limits are per minute, None = unlimited; `models` None = all."""

    id: bytes
    org_id: bytes
    digest: bytes  # HMAC-SHA256(pepper, key text)
    scope: Scope
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: frozenset[str] | None = None
    valid_until_ms: int | None = None  # Unix ms; set on revocation and, one hour ahead, on rotation
    project_id: bytes | None = None
    in_flight_max: int | None = None  # requests under way at one time; None = as the gateway's settings say
    org_in_flight_max: int | None = None  # the same of its organisation
    chain: Chain | None = None  # the budgets that it spends from, if there are any

    @property
    def has_own_budget(self) -> bool:
        return self.chain is not None and self.id in self.chain.owners


def assemble(random_bytes: bytes) -> str:
    """The text of a key made from 32 random bytes."""
    assert len(random_bytes) == 32
    body = random_bytes.hex()
    return f"sk_{body}_{zlib.crc32(body.encode()):08x}"


def is_well_formed(candidate: bytes) -> bool:
    """Whether it has a key's form and its checksum is right."""
    body = candidate[3:67]
    is_right = candidate[67:] == b"_%08x" % zlib.crc32(body) and candidate.startswith(b"sk_")
    return is_right and not body.translate(None, _HEX_DIGITS)


def shown(key: str) -> tuple[str, str]:
    """The first twelve and the last four characters: what people see of a key afterwards."""
    return key[:12], key[-4:]
