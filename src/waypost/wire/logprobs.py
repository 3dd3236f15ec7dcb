"""How likely a model found its tokens, and others in their place: as OpenAI writes it, and as it is read from them."""

from __future__ import annotations

import msgspec


class TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Logprobs(msgspec.Struct, gc=False):
    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None
