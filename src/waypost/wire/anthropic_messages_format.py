"""Anthropic Messages as one of the callers' formats: see `wire.formats.ChatFormat`."""

from __future__ import annotations

from waypost.wire.anthropic_messages import NAME, read_request
from waypost.wire.anthropic_messages_answer import render_message
from waypost.wire.anthropic_messages_conversation import converse
from waypost.wire.anthropic_messages_stream import StreamRenderer
from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around, ChatRequest


class AnthropicMessages:
    name = NAME
    dialect = "anthropic"
    answer_prefix = "msg_"

    def read(self, body: bytes, around: Around) -> ChatRequest:
        return read_request(body, around)

    def converse(self, request: ChatRequest) -> Conversation:
        return converse(request)

    def render(
        self, completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
    ) -> bytes:
        return render_message(completion, identity, usage, cost, shows=request.shows_reasoning)

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> StreamRenderer:
        return StreamRenderer(identity, shows=request.shows_reasoning)
