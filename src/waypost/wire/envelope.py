"""Signatures and encrypted reasoning on their way through the caller's hands, in an envelope of our own.

A provider's signature would tell whose it is, and another provider would refuse it. So callers get it sealed for their
organisation, with who can read it inside. On return it is opened; what was not sealed by us is dropped as foreign.
"""

from __future__ import annotations

import base64
import binascii

from waypost.kit.crypto import Sealer
from waypost.wire.canonical import Signature

_STEP_BYTES = 256  # plain bytes are padded to a multiple, so that the length does not tell providers apart
_VERSION = "wp1"


class Envelope:
    """Seals and opens. One per process; `secret` is the deployment's, so every node opens what another sealed."""

    __slots__ = ("_sealer",)

    def __init__(self, secret: bytes) -> None:
        self._sealer = Sealer(secret, "signature envelope 1")

    def seal(self, signature: Signature, org_id: bytes) -> str:
        plain = f"{signature.origin}\0{signature.value}".encode()
        padded = plain + b"\x01" + b"\0" * (-(len(plain) + 1) % _STEP_BYTES)
        sealed = self._sealer.seal(padded, bound_to=org_id)
        return _VERSION + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, sealed: str, org_id: bytes) -> Signature | None:
        """What the organisation was given; None for anything else."""
        if not sealed.startswith(_VERSION) or not sealed.isascii():
            return None
        text = sealed[len(_VERSION) :]
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            return None
        plain = self._sealer.open(raw, bound_to=org_id)
        if plain is None:
            return None
        origin, _, value = plain.rstrip(b"\0")[:-1].decode().partition("\0")
        return Signature(origin, value)
