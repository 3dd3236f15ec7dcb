"""Requests of the Gemini format, and answers written in it, as several tests use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.genai import types

from tests.wire.samples import AROUND, ENVELOPE
from waypost.wire.canonical import Signature
from waypost.wire.conversation import Conversation
from waypost.wire.formats import conversation_of
from waypost.wire.gemini_generate import read_request
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around, ChatRequest

SAID = [{"role": "user", "parts": [{"text": "hi"}]}]


def read(
    body: Mapping[str, Any] | bytes, *, model: str = "swift-1", is_stream: bool = False, query: str = ""
) -> ChatRequest:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(data, Around(AROUND.open_sealed, model, is_stream, query=query))


def converse(*contents: dict[str, Any], **fields: Any) -> Conversation:
    return conversation_of(read({"contents": contents or SAID} | fields))


def sealed(signature: Signature) -> str:
    return ENVELOPE.seal(signature, b"o" * 16)


def identity_for(request: ChatRequest) -> AnswerIdentity:
    return AnswerIdentity(
        completion_id="0123456789abcdef" * 2,
        created_s=1_800_000_000,
        model=request.model,
        org_id=b"o" * 16,
        tool_id_secret=b"s" * 32,
        envelope=ENVELOPE,
        wants_logprobs=request.wants_logprobs,
    )


def parsed(answer: bytes) -> types.GenerateContentResponse:
    """The answer as the SDK's own type takes it; the cost, which is ours, is taken out before."""
    document = json.loads(answer)
    assert isinstance(document.get("usageMetadata", {}).pop("cost", ""), str)
    for candidate in document["candidates"]:
        if "citationMetadata" in candidate:  # as the SDK renames it for this API
            candidate["citationMetadata"] = {"citations": candidate["citationMetadata"]["citationSources"]}
    return types.GenerateContentResponse.model_validate(document)


def events_of(stream: bytes) -> list[bytes]:
    return [event.removeprefix(b"data: ") for event in stream.split(b"\r\n\r\n") if event]
