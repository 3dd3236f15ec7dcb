"""OpenAI chat completions as one of the callers' formats: see `wire.formats.ChatFormat`."""

from __future__ import annotations

from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_chat import NAME, read_request
from waypost.wire.openai_chat_answer import render_completion
from waypost.wire.openai_chat_conversation import converse
from waypost.wire.openai_chat_stream import StreamRenderer
from waypost.wire.request import ChatRequest


class OpenAIChat:
    name = NAME
    dialect = "openai"
    answer_prefix = "chatcmpl-"

    read = staticmethod(read_request)  # not a call more for each request

    def converse(self, request: ChatRequest) -> Conversation:
        return converse(request)

    def render(
        self,
        completion: Completion,
        request: ChatRequest,  # noqa: ARG002  other formats echo parts of it
        identity: AnswerIdentity,
        usage: Usage,
        cost: str,
    ) -> bytes:
        return render_completion(completion, identity, usage, cost)

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> StreamRenderer:
        return StreamRenderer(identity, request.include_usage)
