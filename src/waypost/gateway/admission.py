"""What a request may use and may cost at most, decided before any money or provider is touched."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from waypost.dispatch.fleet import Fleet, LiveRoute
from waypost.dispatch.ports import Admission
from waypost.gateway.models import may_call, unknown_model
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.money import Nanos
from waypost.metering.estimate import Ceiling, affordable_output_tokens, likely_tokens, upper_bound
from waypost.metering.estimate import ceiling as ceiling_of
from waypost.policy.catalogue import Model
from waypost.policy.routing import draw, order
from waypost.policy.snapshot import ModelView, View
from waypost.tenancy.api_key import ApiKey
from waypost.wire.formats import conversation_of
from waypost.wire.request import ChatRequest

OUTPUT_TOKENS_DEFAULT = 8_192  # held, and asked of the provider, for a caller who sets no maximum
IMAGE_TOKENS_MAX = 4_096  # of input per image; more than the usual tilings come to
SHRUNK_TOKENS_MIN = 16  # a shorter answer than this is of no use to anybody


def admit(
    request: ChatRequest, api_key: ApiKey, view: View, fleet: Fleet, dice: Callable[[], float], now_s: float
) -> Admission:
    """Find the model, its routes in order, and the dearest that the request can come to. Raises Refusal."""
    found = view.find(request.model)
    if found is None or not may_call(api_key, found.model):
        raise unknown_model()
    model = found.model
    if model.modality != "chat":
        raise Refusal(ErrorCode.INPUT_VALIDATION_ERROR, "This model does not take chat completions.", param="model")
    first = fleet.live(model.slug, draw(found, dice))
    if first is None or not first.is_ready(now_s) or first.kind.format != request.format:
        first = _first_of(_able(request, _in_order(found, fleet, dice)), now_s)

    def alternatives() -> tuple[LiveRoute, ...]:
        ordered = _in_order(found, fleet, dice)
        return tuple(live for live in ordered if live is not first and not losses(request, live))

    output_tokens_max = min(request.output_tokens_max or OUTPUT_TOKENS_DEFAULT, model.max_output)
    ceiling = _ceiling(request, model, output_tokens_max)
    return Admission(
        request=request,
        model=model,
        price_version=view.version,
        route=first,
        alternatives=alternatives,
        ceiling=ceiling,
        hold_nanos=upper_bound(ceiling, model.price),
        output_tokens_max=output_tokens_max,
        input_estimate=min(likely_tokens(request.text_bytes), model.context_window),
    )


def _in_order(found: ModelView, fleet: Fleet, dice: Callable[[], float]) -> list[LiveRoute]:
    """Every route that can be called, by priority and weight."""
    ordered = (fleet.live(found.model.slug, route) for route in order(found.routes, dice))
    return [live for live in ordered if live is not None]


def _first_of(routes: list[LiveRoute], now_s: float) -> LiveRoute:
    """The first that is ready, else the first of last resort. Raises Refusal when all rest or have open circuits."""
    for live in routes:
        if live.is_ready(now_s):
            return live
    for live in routes:
        if live.is_last_resort(now_s):
            return live
    if not routes:
        raise Refusal(ErrorCode.MODEL_UNAVAILABLE)
    wait_s = min(live.wait_s(now_s) for live in routes)
    raise Refusal(ErrorCode.MODEL_OVERLOADED, retry_after_s=max(1, math.ceil(wait_s)))


def losses(request: ChatRequest, live: LiveRoute) -> tuple[str, ...]:
    """What of the request this route cannot carry; nothing where the provider speaks the caller's format."""
    return () if live.kind.format == request.format else live.kind.losses(conversation_of(request))


def _able(request: ChatRequest, routes: list[LiveRoute]) -> list[LiveRoute]:
    """The routes that carry all of the request. Raises Refusal 400 when each of them would lose something, naming
    what."""
    lost: tuple[str, ...] = ()
    able = []
    for live in routes:
        lost = losses(request, live)
        if not lost:
            able.append(live)
    if routes and not able:
        raise invalid(lost[0], f"This model cannot be given: {', '.join(lost)}.")
    return able


def shrink(admission: Admission, available_nanos: Nanos) -> Admission:
    """The same request with the longest answer that the balance affords. Raises Refusal 402 when that is none, or when
    the caller asked for a longer one."""
    tokens = affordable_output_tokens(available_nanos, admission.ceiling, admission.model.price)
    tokens //= admission.request.n
    if admission.request.output_tokens_max is not None or tokens < SHRUNK_TOKENS_MIN:
        raise too_dear(admission, available_nanos)
    tokens = min(tokens, admission.output_tokens_max)
    ceiling = _ceiling(admission.request, admission.model, tokens)
    return msgspec.structs.replace(
        admission,
        ceiling=ceiling,
        hold_nanos=upper_bound(ceiling, admission.model.price),
        output_tokens_max=tokens,
    )


def too_dear(admission: Admission, available_nanos: Nanos) -> Refusal:
    """402, telling how long an answer would fit."""
    tokens = affordable_output_tokens(available_nanos, admission.ceiling, admission.model.price)
    tokens //= admission.request.n
    fits = f"It affords at most {tokens} output tokens." if tokens > 0 else "It does not even cover the input."
    return Refusal(ErrorCode.INSUFFICIENT_BALANCE, f"{ErrorCode.INSUFFICIENT_BALANCE.message} {fits} Add credit.")


def _ceiling(request: ChatRequest, model: Model, output_tokens_max: int) -> Ceiling:
    return ceiling_of(
        text_bytes=request.text_bytes,
        image_count=request.image_count,
        image_tokens_max=IMAGE_TOKENS_MAX,
        n=request.n,
        output_tokens_max=output_tokens_max,
        context_window=model.context_window,
    )
