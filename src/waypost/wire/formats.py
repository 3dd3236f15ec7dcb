"""The callers' formats, by name. Each reads requests, converses with providers of other formats, and writes
answers, whole and streamed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from waypost.kit.errors import Refusal
from waypost.wire.anthropic_messages_format import AnthropicMessages
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.gemini_embed_format import GeminiEmbed
from waypost.wire.gemini_generate_format import GeminiGenerate
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_chat_format import OpenAIChat
from waypost.wire.openai_embeddings_format import OpenAIEmbeddings
from waypost.wire.openai_images_format import OpenAIImages
from waypost.wire.openai_responses_format import OpenAIResponses
from waypost.wire.request import Around, ChatRequest


class StreamWriter(Protocol):
    """Writes one streamed answer; every method returns bytes to send now, joined events."""

    @property
    def content_type(self) -> bytes: ...

    @property
    def heartbeat(self) -> bytes:
        """What keeps a connection open while nothing is said."""

    def render(self, chunks: Iterable[Chunk]) -> bytes:
        """b"" when there is nothing to show yet."""

    def finish(self, usage: Usage, cost: str) -> bytes:
        """The end of a complete answer. `cost` is decimal USD text."""

    def fail(self, refusal: Refusal, request_id: str) -> bytes:
        """The end of an answer that broke: an error event, which SDKs raise, and nothing that looks like an end."""


class ChatFormat(Protocol):
    name: str
    dialect: str  # of its errors: see wire.dialects
    answer_prefix: str  # of the ids of its answers

    def read(self, body: bytes, around: Around) -> ChatRequest:
        """The request in `body`. Raises Refusal: 400 naming the field at fault."""

    def converse(self, request: ChatRequest) -> Conversation:
        """The same request in nobody's format. Raises Refusal."""

    def render(
        self, completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
    ) -> bytes:
        """A whole answer as JSON."""

    def stream(self, request: ChatRequest, identity: AnswerIdentity) -> StreamWriter: ...


FORMATS: dict[str, ChatFormat] = {
    each.name: each
    for each in (
        *(OpenAIChat(), OpenAIResponses(), AnthropicMessages(), GeminiGenerate()),
        *(OpenAIImages(), OpenAIEmbeddings(), GeminiEmbed()),
    )
}


def conversation_of(request: ChatRequest) -> Conversation:
    """The request in nobody's format, made once. Raises Refusal."""
    if request.conversation is None:
        request.conversation = FORMATS[request.format].converse(request)
    return request.conversation
