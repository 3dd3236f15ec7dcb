"""Secrets, headers and URLs of receivers as they lie in the database: sealed under a key that stands outside it, each
to whom it belongs to. A URL is often a secret itself: chat services make them so."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from waypost.kit.crypto import HmacSha256, Sealer, hmac_sha256

_decode = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode
SEALED_URL = "sealed:"
"""Begins the text of a sealed URL, and never that of a plain one: those of before 0014 may still stand in a row."""


class Unreadable(Exception):
    """It was sealed under another key: the secrets directory is not the one that it was written with."""


class Sealed:
    """`owner_id` is the endpoint's, or the organisation's for its own secret."""

    def __init__(self, envelope_key: bytes) -> None:
        self._secrets = Sealer(envelope_key, "webhook secrets")
        self._headers = Sealer(envelope_key, "webhook headers")
        self._urls = Sealer(envelope_key, "webhook URLs")
        self._lanes = HmacSha256(hmac_sha256(envelope_key, b"webhook lanes"))

    def seal_secret(self, owner_id: bytes, text: str) -> bytes:
        return self._secrets.seal(text.encode(), bound_to=owner_id)

    def secret(self, owner_id: bytes, sealed: bytes) -> str:
        """The text. Raises Unreadable."""
        return _opened(self._secrets, owner_id, sealed).decode()

    def seal_headers(self, owner_id: bytes, headers: Mapping[str, str]) -> bytes | None:
        return self._headers.seal(_encode(headers), bound_to=owner_id) if headers else None

    def headers(self, owner_id: bytes, sealed: bytes | None) -> dict[str, str]:
        """By name. Raises Unreadable."""
        return {} if sealed is None else _decode(_opened(self._headers, owner_id, sealed))

    def seal_url(self, owner_id: bytes, url: str) -> str:
        """As it is stored; one that was sealed before is as it was."""
        if url.startswith(SEALED_URL):
            return url
        sealed = self._urls.seal(url.encode(), bound_to=owner_id)
        return SEALED_URL + base64.urlsafe_b64encode(sealed).decode()

    def url(self, owner_id: bytes, stored: str) -> str:
        """The URL. Raises Unreadable."""
        if not stored.startswith(SEALED_URL):
            return stored
        try:
            sealed = base64.urlsafe_b64decode(stored.removeprefix(SEALED_URL))
        except binascii.Error:
            raise Unreadable from None
        return _opened(self._urls, owner_id, sealed).decode()

    def lane(self, owner_id: bytes, stored: str) -> bytes:
        """What per-request URLs of one organisation and host share, 16 bytes: keyed, as hosts are easily guessed. One
        that cannot be opened has a lane of its own: nobody can send there, and no execution is to fail for it."""
        try:
            host = urlsplit(self.url(owner_id, stored)).netloc.lower()
        except Unreadable:
            host = stored
        return self._lanes.digest(owner_id + host.encode())[:16]


def _opened(sealer: Sealer, owner_id: bytes, sealed: bytes) -> bytes:
    plain = sealer.open(sealed, bound_to=owner_id)
    if plain is None:
        raise Unreadable
    return plain
