"""Signatures and encrypted reasoning on their way through the caller's hands, in an envelope of our own.

A provider's signature would tell whose it is, and another provider would refuse it. So callers get it sealed for their
organisation, with who can read it inside. On return it is opened; what was not sealed by us is dropped as foreign.
"""

from __future__ import annotations

import base64
import binascii

from waypost.kit.crypto import Sealer
from waypost.wire.canonical import Signature

# Plain bytes are padded to a multiple. That hides small differences of length; how much longer one provider's
# signatures are than another's still shows.
_STEP_BYTES = 258
# Sealed, they are a multiple of three with this before them: base64 that needs no padding and opens with `wp1A`, for
# SDKs that take a signature for bytes and write it again, in whichever of the two alphabets.
_VERSION = b"\xc2\x9d\x40\0\0"
_SHOWN_VERSION = "wp1A"
_TO_STANDARD = str.maketrans("-_", "+/")


class Envelope:
    """Seals and opens. One per process; `secret` is the deployment's, so every node opens what another sealed."""

    __slots__ = ("_sealer",)

    def __init__(self, secret: bytes) -> None:
        self._sealer = Sealer(secret, "signature envelope 1")

    def seal(self, signature: Signature, org_id: bytes) -> str:
        plain = f"{signature.origin}\0{signature.value}".encode()
        padded = plain + b"\x01" + b"\0" * (-(len(plain) + 1) % _STEP_BYTES)
        sealed = self._sealer.seal(padded, bound_to=org_id)
        return base64.urlsafe_b64encode(_VERSION + sealed).decode()

    def open(self, sealed: str, org_id: bytes) -> Signature | None:
        """What the organisation was given; None for anything else."""
        if not sealed.startswith(_SHOWN_VERSION) or not sealed.isascii():
            return None
        try:
            raw = base64.b64decode(sealed.translate(_TO_STANDARD), validate=True)
        except binascii.Error:
            return None
        if not raw.startswith(_VERSION):
            return None
        plain = self._sealer.open(raw[len(_VERSION) :], bound_to=org_id)
        if plain is None:
            return None
        origin, _, value = plain.rstrip(b"\0")[:-1].decode().partition("\0")
        return Signature(origin, value)
