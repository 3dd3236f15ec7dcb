"""Secrets and headers of endpoints as they lie in the database: sealed under a key that stands outside it, each to the
row that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waypost.kit.crypto import Sealer

_decode = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """It was sealed under another key: the secrets directory is not the one that it was written with."""


class Sealed:
    """`owner_id` is the endpoint's, or the organisation's for its own secret."""

    def __init__(self, envelope_key: bytes) -> None:
        self._secrets = Sealer(envelope_key, "webhook secrets")
        self._headers = Sealer(envelope_key, "webhook headers")

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


def _opened(sealer: Sealer, owner_id: bytes, sealed: bytes) -> bytes:
    plain = sealer.open(sealed, bound_to=owner_id)
    if plain is None:
        raise Unreadable
    return plain
