"""What a caller says about who may answer: `provider{…}` and `models[…]`, in any chat format's body.

The words are OpenRouter's (https://openrouter.ai/docs/features/provider-routing), with one difference: providers have
no names here. `order`, `only` and `ignore` take classes: `region:EU`, `zdr`, `no_training`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from waypost.kit.errors import Refusal, invalid
from waypost.kit.money import Nanos, parse_usd
from waypost.wire.preferences import Preferences
from waypost.wire.request import ChatRequest, check_model_name, refuse_value

MODELS_MAX = 8
CLASSES_MAX = 16
PRICE_CLASSES = {"prompt": "input", "completion": "output", "request": "request", "image": "image"}
_FIELDS = ("provider", "models", "route")
PREFERENCE_FIELDS = frozenset(_FIELDS)
_CLASS = re.compile(r"region:[A-Za-z0-9-]{1,32}|zdr|no_training")
_SORTS = ("price", "latency", "throughput")


class _Sort(msgspec.Struct, forbid_unknown_fields=True):
    by: str
    partition: str = "model"


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    order: list[str] | None = None
    only: list[str] | None = None
    ignore: list[str] | None = None
    allow_fallbacks: bool | None = None
    sort: str | _Sort | None = None
    max_price: dict[str, str | int | float] | None = None
    require_parameters: bool | None = None
    data_collection: str | None = None
    zdr: bool | None = None
    region: str | list[str] | None = None


_Names = Annotated[list[str], msgspec.Meta(max_length=MODELS_MAX)]
_decode_provider = msgspec.json.Decoder(_Provider | None).decode
_decode_models = msgspec.json.Decoder(_Names | None).decode
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def take_preferences(request: ChatRequest) -> Preferences | None:
    """The preferences of a request, taken out of its fields: they are for us and not for a provider. None when it has
    none. Raises Refusal: 400 naming the field at fault."""
    fields = request.fields
    if PREFERENCE_FIELDS.isdisjoint(fields):
        return None
    provider, models, _ = (fields.pop(name, msgspec.Raw(b"null")) for name in _FIELDS)
    names = _models(models)
    try:
        asked = _decode_provider(provider) or _Provider()
    except msgspec.ValidationError as error:
        raise _refused(error) from None
    return Preferences(
        models=tuple(dict.fromkeys(name for name in names if name != request.model)),
        order=_classes("order", asked.order),
        only=_classes("only", asked.only),
        ignore=_classes("ignore", asked.ignore),
        allows_fallbacks=asked.allow_fallbacks is not False,
        sort=_sort(asked.sort),
        sorts_across_models=isinstance(asked.sort, _Sort) and asked.sort.partition == "none",
        price_max=tuple(_price(name, value) for name, value in (asked.max_price or {}).items()),
        drops_parameters=asked.require_parameters is False,
        forbids_training=_forbids_training(asked.data_collection),
        is_zdr=asked.zdr is True,
        regions=_regions(asked.region),
    )


def _models(sent: msgspec.Raw) -> Sequence[str]:
    try:
        names = _decode_models(sent) or ()
    except msgspec.ValidationError:
        raise invalid("models", f"'models' must be a list of at most {MODELS_MAX} names of models.") from None
    for name in names:
        check_model_name(name)
    return names


def _refused(error: msgspec.ValidationError) -> Refusal:
    if _UNKNOWN.match(str(error)) is not None:
        known = ", ".join(_Provider.__struct_fields__)
        return invalid("provider", f"'provider' has a field that means nothing here; it may have {known}.")
    try:
        refuse_value(error)
    except Refusal as refusal:
        return invalid("provider", refusal.message if refusal.param is None else f"'provider': {refusal.message}")


def _classes(name: str, sent: Sequence[str] | None) -> tuple[str, ...]:
    words = tuple(sent or ())
    if len(words) > CLASSES_MAX or not all(_CLASS.fullmatch(word) for word in words):
        raise invalid(
            f"provider.{name}",
            f"'provider.{name}' takes at most {CLASSES_MAX} classes of providers, such as 'region:EU', 'zdr' or "
            "'no_training'; providers have no names here.",
        )
    return words


def _sort(sent: str | _Sort | None) -> str:
    if sent is None:
        return ""
    by = sent.by if isinstance(sent, _Sort) else sent
    if by not in _SORTS:
        raise invalid("provider.sort", f"'provider.sort' is none of {', '.join(_SORTS)}.")
    if isinstance(sent, _Sort) and sent.partition not in ("model", "none"):
        raise invalid("provider.sort.partition", "'provider.sort.partition' is neither 'model' nor 'none'.")
    return by


def _price(name: str, value: str | float) -> tuple[str, Nanos]:
    if name not in PRICE_CLASSES:
        known = ", ".join(PRICE_CLASSES)
        raise invalid("provider.max_price", f"'provider.max_price' may have {known}.")
    try:
        return PRICE_CLASSES[name], parse_usd(value if isinstance(value, str) else format(value, "f"))
    except ValueError:
        raise invalid(
            f"provider.max_price.{name}", f"'provider.max_price.{name}' is not a price in USD per million."
        ) from None


def _forbids_training(sent: str | None) -> bool:
    if sent not in (None, "allow", "deny"):
        raise invalid("provider.data_collection", "'provider.data_collection' is neither 'allow' nor 'deny'.")
    return sent == "deny"


def _regions(sent: str | list[str] | None) -> tuple[str, ...]:
    if sent is None:
        return ()
    regions = (sent,) if isinstance(sent, str) else tuple(sent)
    if not regions or len(regions) > CLASSES_MAX:
        raise invalid("provider.region", f"'provider.region' is a region or a list of at most {CLASSES_MAX} regions.")
    return regions
