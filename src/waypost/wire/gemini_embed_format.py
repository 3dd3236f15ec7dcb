"""Gemini's embeddings as one of the callers' formats: see `wire.formats.ChatFormat`."""

from __future__ import annotations

from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.gemini_embed import NAME, converse, read_request, render_embeddings
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_chat_stream import StreamRenderer
from waypost.wire.request import Around, ChatRequest


class GeminiEmbed:
    name = NAME
    dialect = "gemini"
    answer_prefix = ""

    def read(self, body: bytes, around: Around) -> ChatRequest:
        return read_request(body, around)

    def converse(self, request: ChatRequest) -> Conversation:
        return converse(request)

    def render(
        self, completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
    ) -> bytes:
        return render_embeddings(completion, request, identity, usage, cost)

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> StreamRenderer:  # noqa: ARG002
        raise AssertionError("embeddings are not streamed")
