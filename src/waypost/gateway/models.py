"""`GET /v1/models` and `/v1/models/{slug}`: what can be called, with prices and features, in OpenAI's shape."""

from __future__ import annotations

import msgspec

from waypost.executions.input_schemas import Schema, schema_of
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.money import format_usd
from waypost.kit.values import replace
from waypost.metering.price import PARENTS
from waypost.policy.catalogue import Model
from waypost.policy.snapshot import View
from waypost.tenancy.api_key import ApiKey


class Pricing(msgspec.Struct, frozen=True):
    """USD per million units, as decimal strings."""

    input: str
    output: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str
    audio_input: str
    audio_output: str
    image_input: str
    image: str
    request: str
    second: str
    character: str


class ModelEntry(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    owned_by: str
    modality: str
    context_window: int
    max_output: int
    features: tuple[str, ...]
    aliases: tuple[str, ...]
    pricing: Pricing
    input_schema: Schema | msgspec.UnsetType = msgspec.UNSET  # of an execution's input


class ModelList(msgspec.Struct, frozen=True):
    object: str
    data: list[ModelEntry]


_encode = msgspec.json.Encoder().encode


def list_models(view: View, api_key: ApiKey) -> bytes:
    """The models that this key may call."""
    entries = [_entry(v.model) for v in view.models if may_call(api_key, v.model)]
    return _encode(ModelList(object="list", data=entries))


def show_model(view: View, api_key: ApiKey, name: str) -> bytes:
    """One model by slug or alias. Raises Refusal NOT_FOUND."""
    found = view.find(name)
    if found is None or not may_call(api_key, found.model):
        raise unknown_model()
    schema = schema_of(found.model.modality, found.model.input_schema)
    return _encode(replace(_entry(found.model), input_schema=schema))


def may_call(api_key: ApiKey, model: Model) -> bool:
    return api_key.models is None or model.slug in api_key.models


def unknown_model() -> Refusal:
    """404; also for a model that exists and is not for this key, so that nobody learns which."""
    return Refusal(ErrorCode.NOT_FOUND, "There is no such model. GET /v1/models lists them.", param="model")


def _entry(model: Model) -> ModelEntry:
    price = model.price
    return ModelEntry(
        id=model.slug,
        object="model",
        created=model.created_s,
        owned_by="waypost",
        modality=model.modality,
        context_window=model.context_window,
        max_output=model.max_output,
        features=model.features,
        aliases=model.aliases,
        pricing=Pricing(**{name: format_usd(getattr(price, name)) for name in PARENTS}),
    )
