"""OpenAI Responses as one of the callers' formats: see `wire.formats.ChatFormat`."""

from __future__ import annotations

from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_responses import NAME, read_request
from waypost.wire.openai_responses_answer import render_response
from waypost.wire.openai_responses_conversation import converse
from waypost.wire.openai_responses_stream import ResponsesStream
from waypost.wire.request import Around, ChatRequest


class OpenAIResponses:
    name = NAME
    dialect = "openai"
    answer_prefix = "resp_"

    def read(self, body: bytes, around: Around) -> ChatRequest:
        return read_request(body, around)

    def converse(self, request: ChatRequest) -> Conversation:
        return converse(request)

    def render(
        self, completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
    ) -> bytes:
        return render_response(completion, request, identity, usage, cost)

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> ResponsesStream:
        return ResponsesStream(request, identity)
