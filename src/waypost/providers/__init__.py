"""Provider kinds: how a call is built, an answer read, an error mapped. Sans-io."""

from __future__ import annotations

from waypost.providers.anthropic import Anthropic
from waypost.providers.fal import Fal
from waypost.providers.gemini import Gemini
from waypost.providers.gemini_embed import GeminiEmbed
from waypost.providers.gemini_images import GeminiImages
from waypost.providers.http_job import HttpJob
from waypost.providers.job import JobKind
from waypost.providers.kind import ProviderKind
from waypost.providers.openai import OpenAIChat
from waypost.providers.openai_embeddings import OpenAIEmbeddings
from waypost.providers.openai_images import OpenAIImages
from waypost.providers.openai_responses import OpenAIResponses
from waypost.providers.replicate import Replicate

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

JOB_KINDS: dict[str, JobKind] = {"replicate": Replicate(), "fal": Fal(), "http-job": HttpJob()}
"""Kinds whose providers work asynchronously: they are given jobs, by executions alone."""
UPLOADING = ("replicate",)
"""Of these, those that files can be uploaded to."""
JOB_MODALITIES = ("image", "video", "audio")


def kinds_of(modality: str) -> tuple[str, ...]:
    """The kinds that have models of a modality."""
    return (*MODALITIES.get(modality, ()), *(JOB_KINDS if modality in JOB_MODALITIES else ()))
