"""A claim on an idempotency key: the call that may spend under it, and what a second call under it is told."""

from __future__ import annotations

import msgspec

from waypost.kit.money import Nanos


class Claim(msgspec.Struct, frozen=True, gc=False):
    """`key_digest` and `fingerprint` are HMACs of the caller's key and of the request's body."""

    org_id: bytes
    endpoint: str
    key_digest: bytes
    fingerprint: bytes
    execution_id: bytes


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The key is this call's."""


class Earlier(msgspec.Struct, frozen=True, gc=False):
    """The key belongs to an earlier call, which is under way while its charge is None."""

    is_same: bool  # the body is the same
    execution_id: bytes
    charge_nanos: Nanos | None
    input_tokens: int = 0
    output_tokens: int = 0
