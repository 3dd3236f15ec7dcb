"""Provider kinds: how a call is built, an answer read, an error mapped. Sans-io."""

from __future__ import annotations

from waypost.providers.anthropic import Anthropic
from waypost.providers.gemini import Gemini
from waypost.providers.gemini_embed import GeminiEmbed
from waypost.providers.gemini_images import GeminiImages
from waypost.providers.kind import ProviderKind
from waypost.providers.openai import OpenAIChat
from waypost.providers.openai_embeddings import OpenAIEmbeddings
from waypost.providers.openai_images import OpenAIImages
from waypost.providers.openai_responses import OpenAIResponses

KINDS: dict[str, ProviderKind] = {
    "openai": OpenAIChat(),
    "openai-responses": OpenAIResponses(),
    "anthropic": Anthropic(),
    "gemini": Gemini(),
}
_IMAGES, _EMBEDDINGS = OpenAIImages(), OpenAIEmbeddings()
MODALITIES: dict[str, dict[str, ProviderKind]] = {
    "chat": KINDS,
    "image": {"openai": _IMAGES, "openai-responses": _IMAGES, "gemini": GeminiImages()},
    "embedding": {"openai": _EMBEDDINGS, "openai-responses": _EMBEDDINGS, "gemini": GeminiEmbed()},
}
"""By modality of a model, the kinds whose providers have an endpoint for it."""
