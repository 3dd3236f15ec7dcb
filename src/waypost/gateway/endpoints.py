"""Which path is what: the chat formats by the paths that their SDKs call, and the dialect in which a path's errors are
told.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.formats import FORMATS, ChatFormat

MODELS = "/v1/models"
GEMINI_MODELS = "/v1beta/models"
COUNT_TOKENS = "countTokens"
COUNT_MESSAGE_TOKENS = "/v1/messages/count_tokens"
EXECUTED = ("/v1/executions", "/v1/video/generations")  # where control accepts executions
_GEMINI = {  # the format of each verb, and whether it streams
    "generateContent": ("gemini_generate", False),
    "streamGenerateContent": ("gemini_generate", True),
    "embedContent": ("gemini_embed", False),
    "batchEmbedContents": ("gemini_embed", False),
}
_WITHOUT_IMAGES = ("openai_embeddings", "gemini_embed")
_GEMINI_VERBS = (*_GEMINI, COUNT_TOKENS)
# Also where nothing is, as by the id of a response.
_CREDENTIALS = ("key", "api_key", "access_token")


class ChatEndpoint(msgspec.Struct, frozen=True, gc=False):
    """A path that takes chat requests. `path_model` and `is_stream` where the path says them."""

    format: ChatFormat
    path_model: str = ""
    is_stream: bool = False


_CHAT = {
    "/v1/chat/completions": ChatEndpoint(FORMATS["openai_chat"]),
    "/v1/embeddings": ChatEndpoint(FORMATS["openai_embeddings"]),
    "/v1/images/generations": ChatEndpoint(FORMATS["openai_images"]),
    "/v1/responses": ChatEndpoint(FORMATS["openai_responses"]),
    "/v1/messages": ChatEndpoint(FORMATS["anthropic_messages"]),
}


def chat_endpoint(path: str) -> ChatEndpoint | None:
    return _CHAT.get(path) or (_gemini_chat(path) if path.startswith("/v1") else None)


@lru_cache(maxsize=1024)  # a process sees the same few paths all day
def _gemini_chat(path: str) -> ChatEndpoint | None:
    called = gemini_call(path)
    if called is None or called[1] not in _GEMINI:
        return None
    slug, verb = called
    name, is_stream = _GEMINI[verb]
    return ChatEndpoint(FORMATS[name], slug, is_stream)


@lru_cache(maxsize=1024)
def gemini_call(path: str) -> tuple[str, str] | None:
    """Slug and verb of `/v1beta/models/{slug}:{verb}`, also under `/v1`; None for any other path. A slug may contain
    slashes and colons, and be percent-encoded."""
    for root in (GEMINI_MODELS, MODELS):
        if path.startswith(root + "/"):
            name, _, verb = unquote(path[len(root) + 1 :]).rpartition(":")
            return (name.removeprefix("models/"), verb) if name and verb in _GEMINI_VERBS else None
    return None


def check_query(query: str) -> None:
    """Raises Refusal: 400 for a credential in the address, where it would be written to logs on its way."""
    if query and any(name in _CREDENTIALS for name, _ in parse_qsl(query, keep_blank_values=True)):
        text = (
            "A key in the address gets into logs on its way. Send it in a header: 'x-goog-api-key' or 'Authorization'."
        )
        raise invalid("key", text)


def is_anthropic(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the caller speaks Anthropic's API at a path that others have too."""
    return b"anthropic-version" in headers


def takes_images(path: bytes) -> bool:
    """`transport.http1_request.TakesImages`: whether what is asked there may hold images."""
    endpoint = chat_endpoint(path.decode("latin-1"))
    return endpoint is not None and endpoint.format.name not in _WITHOUT_IMAGES


def dialect_of(path: str, headers: Mapping[bytes, bytes]) -> str:
    """Of the errors at this path. Models are listed there for several formats, and a header tells which."""
    endpoint = chat_endpoint(path)
    if endpoint is not None:
        return endpoint.format.dialect
    if path.startswith(GEMINI_MODELS) or (path.startswith(MODELS) and gemini_call(path) is not None):
        return "gemini"
    if path == COUNT_MESSAGE_TOKENS or (path.startswith(MODELS) and is_anthropic(headers)):
        return "anthropic"
    return "openai" if path.startswith(MODELS) else "canonical"
