"""Which path is what: the chat formats by the paths that their SDKs call, and the dialect in which a path's errors are
told.
"""

from __future__ import annotations

import msgspec

from waypost.wire.formats import FORMATS, ChatFormat

MODELS = "/v1/models"


class ChatEndpoint(msgspec.Struct, frozen=True, gc=False):
    """A path that takes chat requests. `path_model` and `is_stream` where the path says them."""

    format: ChatFormat
    path_model: str = ""
    is_stream: bool = False


_CHAT = {"/v1/chat/completions": ChatEndpoint(FORMATS["openai_chat"])}


def chat_endpoint(path: str) -> ChatEndpoint | None:
    return _CHAT.get(path)


def dialect_of(path: str) -> str:
    """Of the errors at this path."""
    endpoint = chat_endpoint(path)
    if endpoint is not None:
        return endpoint.format.dialect
    return "openai" if path.startswith(MODELS) else "canonical"
