"""Who is calling: the keys known to this process, and the one place that reads a credential from a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waypost.kit.crypto import HmacSha256
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.tenancy.api_key import ApiKey, is_well_formed

_BEARER = b"bearer "
_USUAL = b"Bearer sk_"  # how nearly every request begins, and then nothing is left to be looked for


class Keyring:
    """Every key, by digest. It follows the database by deltas and serves on with the last view when that is away."""

    def __init__(self, pepper: bytes) -> None:
        self._peppered = HmacSha256(pepper)
        self._by_digest: dict[bytes, ApiKey] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._by_digest)

    def adopt(self, api_keys: Sequence[ApiKey], version: int, now_ms: int) -> None:
        """Take in changed keys; those no longer valid go, so that a revoked key is unknown."""
        for api_key in api_keys:
            if api_key.valid_until_ms is not None and api_key.valid_until_ms <= now_ms:
                self._by_digest.pop(api_key.digest, None)
            else:
                self._by_digest[api_key.digest] = api_key
        self.version = version

    def authenticate(self, headers: Mapping[bytes, bytes], now_ms: int) -> ApiKey:
        """The key that a request carries, in whichever of the three ways. Raises Refusal: 401, or 400 for two keys."""
        presented = headers.get(b"authorization", b"")
        if presented.startswith(_USUAL) and b"x-api-key" not in headers and b"x-goog-api-key" not in headers:
            presented = presented[len(_BEARER) :]
        else:
            presented = _presented(headers)
        if not is_well_formed(presented):
            raise Refusal(ErrorCode.UNAUTHENTICATED)
        api_key = self._by_digest.get(self._peppered.digest(presented))
        if api_key is None or (api_key.valid_until_ms is not None and api_key.valid_until_ms <= now_ms):
            raise Refusal(ErrorCode.UNAUTHENTICATED)
        return api_key


def _presented(headers: Mapping[bytes, bytes]) -> bytes:
    authorization = headers.get(b"authorization", b"")
    bearer = authorization[len(_BEARER) :].strip() if authorization[: len(_BEARER)].lower() == _BEARER else b""
    if authorization and not bearer:
        raise Refusal(ErrorCode.UNAUTHENTICATED)
    if b"x-api-key" not in headers and b"x-goog-api-key" not in headers:
        return bearer
    others = (headers.get(b"x-api-key"), headers.get(b"x-goog-api-key"))
    found = {value for value in (bearer or None, *others) if value is not None}
    if len(found) > 1:
        raise invalid(None, "The request carries two different API keys. Send one.")
    return found.pop()
