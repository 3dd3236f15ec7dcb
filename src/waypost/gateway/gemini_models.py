"""`GET /v1beta/models` and `/v1beta/models/{slug}`: what can be called, in Gemini's shape. `:countTokens` beside it."""

from __future__ import annotations

import msgspec

from waypost.gateway.admission import permitted
from waypost.gateway.likely_input import likely_input_tokens
from waypost.gateway.models import may_call, unknown_model
from waypost.kit.errors import invalid
from waypost.policy.catalogue import THINKING, Model
from waypost.policy.snapshot import View
from waypost.tenancy.api_key import ApiKey
from waypost.wire.formats import conversation_of
from waypost.wire.gemini_generate import read_request
from waypost.wire.request import Around, check_model_name

_VERBS = {
    "chat": ("generateContent", "streamGenerateContent", "countTokens"),
    "embedding": ("embedContent", "batchEmbedContents"),
}
MEDIUM_TOKENS = 258  # of an image or a page; what Gemini counts for a small one


class GeminiModel(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    version: str
    display_name: str
    description: str
    input_token_limit: int
    output_token_limit: int
    supported_generation_methods: tuple[str, ...]
    thinking: bool


class _List(msgspec.Struct, frozen=True):
    models: list[GeminiModel]


class _Wrapped(msgspec.Struct, rename="camel", gc=False):
    generate_content_request: msgspec.Raw = msgspec.Raw(b"")


_encode = msgspec.json.Encoder().encode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


def list_gemini_models(view: View, api_key: ApiKey) -> bytes:
    """The models that this key may call."""
    return _encode(_List([_entry(each.model) for each in view.models if may_call(api_key, each.model)]))


def show_gemini_model(view: View, api_key: ApiKey, name: str) -> bytes:
    """One model by slug or alias. Raises Refusal NOT_FOUND."""
    found = view.find(name.removeprefix("models/"))
    if found is None or not may_call(api_key, found.model):
        raise unknown_model()
    return _encode(_entry(found.model))


def count_tokens(body: bytes, around: Around, view: View, api_key: ApiKey) -> bytes:
    """An estimate of the input's tokens, made here: no provider is asked, nothing is charged. `contents`, or a whole
    `generateContentRequest`. Raises Refusal."""
    check_model_name(around.path_model)
    permitted(view.find(around.path_model), "chat", api_key)
    try:
        wrapped = bytes(_decode_wrapped(body).generate_content_request)
    except msgspec.DecodeError:
        raise invalid(None, "The body is not a JSON object.") from None
    conversation = conversation_of(read_request(wrapped or body, around))
    return _encode({"totalTokens": likely_input_tokens(conversation, medium_tokens=MEDIUM_TOKENS)})


def _entry(model: Model) -> GeminiModel:
    return GeminiModel(
        name=f"models/{model.slug}",
        version=model.slug,
        display_name=model.slug,
        description="",
        input_token_limit=model.context_window,
        output_token_limit=model.max_output,
        supported_generation_methods=_VERBS.get(model.modality, ()),
        thinking=THINKING in model.features,
    )
