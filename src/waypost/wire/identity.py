"""What is ours in an answer: ids, times and names that stand where a provider's stood."""

from __future__ import annotations

import msgspec

from waypost.kit.crypto import hmac_sha256
from waypost.wire.canonical import Signature
from waypost.wire.envelope import Envelope

_NONE = Signature("", "")


class AnswerIdentity(msgspec.Struct, frozen=True, gc=False):
    """What is ours in an answer, the same in every chunk of it."""

    completion_id: str  # "chatcmpl-<32 hex>", or as the caller's format spells the id of an answer
    created_s: int
    model: str  # as the caller knows it
    org_id: bytes
    tool_id_secret: bytes
    envelope: Envelope
    wants_logprobs: bool = True  # False: log probabilities that nobody asked for are left out
    uses_functions: bool = False  # calls read as the legacy `function_call`

    def tool_call_id(self, upstream_id: str, *, choice: int, index: int, prefix: str = "call_") -> str:
        """Ours for the upstream's id: the same one for the same organisation, whenever it is shown again."""
        named = f"given|{upstream_id}" if upstream_id else f"made|{self.completion_id}|{choice}|{index}"
        return prefix + hmac_sha256(self.tool_id_secret, self.org_id + b"|" + named.encode()).hex()[:24]

    def audio_id(self, upstream_id: str, *, choice: int) -> str:
        named = f"{upstream_id or self.completion_id}|{choice}"
        return "audio_" + hmac_sha256(self.tool_id_secret, self.org_id + b"|audio|" + named.encode()).hex()[:24]

    def sealed(self, signature: Signature | None) -> str:
        """A signature as this organisation may see it, and send it back. None seals one that nobody gave, where its
        absence would tell who answered; it comes back as foreign to every provider."""
        return self.envelope.seal(signature or _NONE, self.org_id)
