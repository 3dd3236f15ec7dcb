"""Keyed hashes. Of a secret only an HMAC is stored, under a key that stands outside the database."""

from __future__ import annotations

import hmac


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    """32 bytes. One-shot, which is the fast path of the standard library."""
    return hmac.digest(secret, message, "sha256")


def same(a: bytes, b: bytes) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(a, b)
