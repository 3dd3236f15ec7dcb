"""Gemini generateContent as one of the callers' formats: see `wire.formats.ChatFormat`."""

from __future__ import annotations

from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.gemini_generate import NAME, read_request
from waypost.wire.gemini_generate_answer import render_answer
from waypost.wire.gemini_generate_conversation import converse
from waypost.wire.gemini_generate_stream import GeminiStream
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around, ChatRequest


class GeminiGenerate:
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
        return render_answer(completion, request, identity, usage, cost)

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> GeminiStream:
        return GeminiStream(request, identity)
