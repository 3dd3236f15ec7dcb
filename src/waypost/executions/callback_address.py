"""Addresses that providers of jobs call: each for one provider, execution and submission, and only we can make them."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from waypost.kit.crypto import hmac_sha256
from waypost.kit.ids import text

CALLBACK_PATH = "/v1/callbacks"
_MAC_BYTES = 16
_PURPOSE = b"provider callbacks"


class CallbackAddresses:
    """`public_url` is where providers reach us, None when they cannot."""

    def __init__(self, secret: bytes, public_url: Callable[[], str | None]) -> None:
        self._key = hmac_sha256(secret, _PURPOSE)
        self._public_url = public_url

    @property
    def can_be_called(self) -> bool:
        return self._public_url() is not None

    def token(self, provider: str, execution_id: bytes, attempt: int) -> str:
        """32 hexadecimal digits: what the job is known by at the provider, and the end of its address."""
        message = b"%b|%b|%d" % (provider.encode(), execution_id.hex().encode(), attempt)
        return hmac_sha256(self._key, message).hex()[: 2 * _MAC_BYTES]

    def is_token(self, given: str, provider: str, execution_id: bytes, attempt: int) -> bool:
        """Whether that is what `token` makes of these."""
        return hmac.compare_digest(given.encode(), self.token(provider, execution_id, attempt).encode())

    def address(self, provider: str, execution_id: bytes, attempt: int) -> str:
        """ "" without a public URL."""
        base = self._public_url()
        if base is None:
            return ""
        token = self.token(provider, execution_id, attempt)
        return f"{base.rstrip('/')}{CALLBACK_PATH}/{provider}/{text('exec', execution_id)}/{attempt}/{token}"

    def event_key(self, provider: str, execution_id: bytes, attempt: int, event: bytes) -> bytes:
        """What a callback is remembered by: 32 bytes that tell nothing of its id or body."""
        message = b"%b|%b|%d|" % (provider.encode(), execution_id.hex().encode(), attempt)
        return hmac_sha256(self._key, b"event|" + message + event)
