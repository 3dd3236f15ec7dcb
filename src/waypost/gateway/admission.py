"""What a request may use and may cost at most, decided before any money or provider is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.ports import Admission, Candidate, Offer
from waypost.gateway.models import may_call, unknown_model
from waypost.gateway.offering import Offering
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.ledger.record import InsufficientFunds
from waypost.ledger.shortfall import used_up
from waypost.metering.estimate import affordable_output_tokens, likely_tokens, upper_bound
from waypost.metering.tokens import prompt_texts, text_bytes
from waypost.policy.catalogue import Model
from waypost.policy.ceiling import ceiling_of_request, output_tokens_max_of
from waypost.policy.snapshot import ModelView
from waypost.providers import JOB_KINDS
from waypost.tenancy.api_key import ApiKey
from waypost.wire.request import ChatRequest

_ASKED = {"chat": "chat completions", "image": "image generations", "embedding": "embeddings"}
INPUT_BYTES_PER_TOKEN_MOST = 16  # on average over a text; English has 4, and indented code hardly 8
SHRUNK_TOKENS_MIN = 16  # a shorter answer than this is of no use to anybody


def admit(request: ChatRequest, offering: Offering, now_s: float, at_ms: int) -> Admission:
    """A route to try first, and the dearest that the request can come to. Raises Refusal."""
    model = offering.model
    if request.text_bytes > model.context_window * INPUT_BYTES_PER_TOKEN_MOST:
        refuse_too_long(request, model)
    offer = make_offer(request, model, at_ms)
    first = offering.first()
    if first is None or not first.is_ready(now_s) or first.kind.format != request.format:
        _refuse_if_asynchronous(offering.found)
        first = first_of(offering.able(request), now_s)
    return Admission(
        request,
        offering.version,
        Candidate(first, offer),
        (offer,),
        offering.ranked,
        upper_bound(offer.ceiling, offer.prices),
    )


def refuse_too_long(request: ChatRequest, model: Model) -> None:
    """400 for texts of more tokens than the model reads, however few they are: some provider would answer and bill
    them, and the hold is for one context. To be asked where the body could hold so many: escapes, ids and seals are in
    it too."""
    if request.modality != "chat":
        return
    least = text_bytes(prompt_texts(request.fields)) // INPUT_BYTES_PER_TOKEN_MOST
    if least > model.context_window:
        told = f"The input has more than {least:,} tokens, and the model reads at most {model.context_window:,}."
        raise Refusal(ErrorCode.INPUT_VALIDATION_ERROR, told)


def _refuse_if_asynchronous(found: ModelView) -> None:
    """400 where no waiting helps: every provider of the model works asynchronously."""
    if all(route.provider.kind in JOB_KINDS for route in found.routes):
        told = "This model works asynchronously: ask for it by POST /v1/executions."
        raise Refusal(ErrorCode.INPUT_VALIDATION_ERROR, told, param="model")


def first_of(routes: Sequence[LiveRoute], now_s: float) -> LiveRoute:
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


def shrink(admission: Admission, short: InsufficientFunds) -> Admission:
    """The same request with the longest answer that the balance affords, by the models that can give one. Raises
    Refusal 402 when none can, or when the caller asked for a longer one."""
    if admission.request.output_tokens_max is not None:
        raise too_dear(admission, short)
    shorter = _with_shorter_answer(admission, short.available_nanos)
    if shorter is None:
        raise too_dear(admission, short)
    return shorter


def fit_long_hold(admission: Admission, hold_nanos: Nanos) -> Admission:
    """The same request within what was held for it when it was accepted: since then the model may have grown. Its
    answer may then be shorter than asked for; what has no length costs the customer no more than the hold. Raises
    Refusal 402 when there is no room for an answer."""
    if admission.hold_nanos <= hold_nanos or admission.request.modality != "chat":
        return admission
    shorter = _with_shorter_answer(admission, hold_nanos)
    if shorter is None:
        raise Refusal(ErrorCode.INSUFFICIENT_BALANCE)
    return shorter


def _with_shorter_answer(admission: Admission, available_nanos: Nanos) -> Admission | None:
    """By the models that can still give one; None when none can."""
    shrunk = [_shrunk(offer, admission.request, available_nanos) for offer in admission.offers]
    left = tuple(offer for offer in shrunk if offer is not None)
    if not left:
        return None
    first = shrunk[[offer is admission.first.offer for offer in admission.offers].index(True)]
    if first is None:
        first_candidate = admission.ranked(admission.request, left)[0]
    else:
        first_candidate = Candidate(admission.first.live, first)
    return replace(
        admission,
        offers=left,
        first=first_candidate,
        hold_nanos=max(upper_bound(offer.ceiling, offer.prices) for offer in left),
    )


def too_dear(admission: Admission, short: InsufficientFunds) -> Refusal:
    """402, telling how long an answer would fit, and which budget is used up."""
    tokens = _affordable(admission.first.offer, admission.request, short.available_nanos)
    fits = (
        f"It affords at most {tokens} output tokens." if tokens > 0 else "It does not cover what the input may come to."
    )
    if short.budget is None:
        return Refusal(ErrorCode.INSUFFICIENT_BALANCE, f"{ErrorCode.INSUFFICIENT_BALANCE.message} {fits} Add credit.")
    return Refusal(ErrorCode.INSUFFICIENT_BALANCE, f"{used_up(short.budget)} {fits}")


class _Named(Protocol):
    """A `ModelView`, or an `Offering`."""

    @property
    def model(self) -> Model: ...


_Found = TypeVar("_Found", bound=_Named)


def permitted(found: _Found | None, modality: str, api_key: ApiKey) -> _Found:
    """What was found under the name that a caller gave. Raises Refusal when that is nothing, or a model that is not for
    this key, or of another modality."""
    # `may_call` for a key of all models, as most are.
    if found is None or (api_key.models is not None and not may_call(api_key, found.model)):
        raise unknown_model()
    if found.model.modality != modality:
        text = f"This model takes no {_ASKED[modality]}: it is one of modality '{found.model.modality}'."
        raise Refusal(ErrorCode.INPUT_VALIDATION_ERROR, text, param="model")
    return found


def make_offer(request: ChatRequest, model: Model, at_ms: int) -> Offer:
    """What the answer of this model can come to, at the prices of that moment."""
    prices = model.price.in_force(at_ms) if model.price.changes else model.price
    output_tokens_max = output_tokens_max_of(request, model)
    ceiling = ceiling_of_request(request, model, prices, output_tokens_max)
    input_estimate = min(likely_tokens(request.text_bytes), ceiling.input_tokens_max)
    return Offer(model, prices, ceiling, output_tokens_max, input_estimate)


def _shrunk(offer: Offer, request: ChatRequest, available_nanos: Nanos) -> Offer | None:
    tokens = min(_affordable(offer, request, available_nanos), offer.output_tokens_max)
    if tokens < SHRUNK_TOKENS_MIN:
        return None
    ceiling = replace(offer.ceiling, output_tokens_max=min(request.n * tokens, offer.ceiling.output_tokens_max))
    return replace(offer, ceiling=ceiling, output_tokens_max=tokens)


def _affordable(offer: Offer, request: ChatRequest, available_nanos: Nanos) -> int:
    """Output tokens per choice."""
    return affordable_output_tokens(available_nanos, offer.ceiling, offer.prices) // request.n
