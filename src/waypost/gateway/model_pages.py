"""What can be called, in the shape that the caller's SDK expects."""

from __future__ import annotations

from collections.abc import Mapping

from waypost.gateway.anthropic_models import list_anthropic_models, show_anthropic_model
from waypost.gateway.endpoints import GEMINI_MODELS, is_anthropic
from waypost.gateway.gemini_models import list_gemini_models, show_gemini_model
from waypost.gateway.models import list_models, show_model
from waypost.policy.snapshot import View
from waypost.tenancy.api_key import ApiKey


def model_page(
    view: View, api_key: ApiKey, *, root: str, name: str, headers: Mapping[bytes, bytes], query: str
) -> bytes:
    """The model of that name, or all of them for "". Raises Refusal: 404."""
    if root == GEMINI_MODELS or b"x-goog-api-key" in headers:
        # The SDK's default version of the API is v1, where OpenAI's models stand too: its header tells.
        return show_gemini_model(view, api_key, name) if name else list_gemini_models(view, api_key)
    if is_anthropic(headers):
        return show_anthropic_model(view, api_key, name) if name else list_anthropic_models(view, api_key, query)
    return show_model(view, api_key, name) if name else list_models(view, api_key)
