"""Who is calling: the keys known to this process, and the one place that reads a credential from a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.tenancy.api_key import ApiKey, is_well_formed
from waypost.tenancy.pepper import Peppers

_BEARER = b"bearer "
_USUAL = b"Bearer sk_"  # how nearly every request begins, and then nothing is left to be looked for
AGED_MAX = 500  # keys to be moved at a time: what one transaction writes; the others are met again


class Keyring:
    """Every key, by digest. It follows the database by deltas and serves on with the last view when that is away."""

    def __init__(self, peppers: Peppers) -> None:
        self._by_digest: dict[bytes, ApiKey] = {}
        self._aged: dict[bytes, bytes] = {}
        self.use(peppers)

    def __len__(self) -> int:
        return len(self._by_digest)

    def use(self, peppers: Peppers) -> None:
        """Look keys up under these from now on, and next adopt all of them, at once: what is remembered of a pepper
        that was away may have been revoked in the meantime, under another digest."""
        self.peppers = peppers
        self._peppered = peppers.newest.hmac
        self._peppered_before = None if peppers.before is None else peppers.before.hmac
        self._aged.clear()
        self.version = 0

    def adopt(self, api_keys: Sequence[ApiKey], version: int, now_ms: int) -> None:
        """Take in changed keys, or all of them where none were known or the peppers have changed; those no longer valid
        go, so that a revoked key is unknown."""
        by_digest = self._by_digest if self.version else {}
        for api_key in api_keys:
            if api_key.valid_until_ms is not None and api_key.valid_until_ms <= now_ms:
                by_digest.pop(api_key.digest, None)
            else:
                by_digest[api_key.digest] = api_key
        self._by_digest = by_digest
        self.version = version

    def take_aged(self) -> Mapping[bytes, bytes]:
        """Of keys that were used under the pepper before: their digest under it to that under the newest. Each is told
        once, and again when it is used again before it has moved."""
        aged, self._aged = self._aged, {}
        return aged

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
        if api_key is None and self._peppered_before is not None:
            api_key = self._by_digest.get(self._peppered_before.digest(presented))
            if api_key is not None and len(self._aged) < AGED_MAX:
                self._aged[api_key.digest] = self._peppered.digest(presented)
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
