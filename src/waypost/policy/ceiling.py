"""The most that a request can use of a model, whichever deployment answers."""

from __future__ import annotations

import re

from waypost.kit.values import replace
from waypost.metering.ceiling import Ceiling
from waypost.metering.estimate import ceiling as ceiling_of
from waypost.metering.price import PriceRow
from waypost.policy.catalogue import Model
from waypost.wire.request import MORE_THAN_A_CONTEXT, ChatRequest, contexts

OUTPUT_TOKENS_DEFAULT = 8_192  # held, and asked of the provider, for a caller who sets no maximum
TOOLS_TOKENS = 2_048  # that some providers add to a prompt with tools, at most, in words of their own
# Fields that add to what the words of a request may cost; each is looked at below.
_TELLING = frozenset(("tools", "functions", "audio", "modalities", "generationConfig"))
# The word, or ASCII that stands escaped.
_SOUND = re.compile(rb"audio|\\u00[4-7]", re.IGNORECASE)


def output_tokens_max_of(request: ChatRequest, model: Model) -> int:
    """Per choice."""
    return min(request.output_tokens_max or OUTPUT_TOKENS_DEFAULT, model.max_output)


def ceiling_of_request(request: ChatRequest, model: Model, prices: PriceRow, output_tokens_max: int) -> Ceiling:
    """At these prices, which tell whether sound is dearer than words; for so many tokens of each choice."""
    is_of_words = request.modality == "chat" and not request.image_count and _TELLING.isdisjoint(request.fields)
    if is_of_words and not prices.is_dearer_by_kind:
        # As most requests, which need none of the looks below: a quarter of the time.
        text_bytes, context = request.text_bytes, model.context_window
        return Ceiling(min(context, text_bytes), request.n * output_tokens_max)
    may_speak = _asks_for_sound(request)
    ceiling = ceiling_of(
        text_bytes=request.text_bytes + tools_tokens(request),
        image_count=request.image_count,
        image_tokens_max=model.image_tokens_max,
        n=request.n,
        output_tokens_max=output_tokens_max,
        context_window=model.context_window,
        has_audio=prices.is_dearer_by_kind and (may_speak or _may_hold_sound(request)),
    )
    if may_speak:
        ceiling = replace(ceiling, may_speak=True)
    match request.modality:
        case "image":
            return replace(ceiling, images_max=request.n)
        case "embedding":
            # Each input has the whole context to itself, and nothing is said.
            most = min(request.text_bytes, contexts(request) * model.context_window)
            return replace(ceiling, input_tokens_max=most, output_tokens_max=0)
    return ceiling


def tools_tokens(request: ChatRequest) -> int:
    """Room for what stands in no request: a provider's own words about tools, whichever route is taken."""
    for name in ("tools", "functions"):
        if name in request.fields and bytes(request.fields[name]) not in (b"null", b"[]"):
            return TOOLS_TOKENS
    return 0


def _asks_for_sound(request: ChatRequest) -> bool:
    """Whether the answer may be spoken: by `audio` and `modalities` of OpenAI's, `responseModalities` of Gemini's."""
    fields = request.fields
    if "audio" in fields and bytes(fields["audio"]) != b"null":
        return True
    for name in ("modalities", "generationConfig"):  # `any` would cost every request a microsecond
        if name in fields and _SOUND.search(fields[name]) is not None:
            return True
    return False


def _may_hold_sound(request: ChatRequest) -> bool:
    """Whether the input may be heard. Types are written in either case, and an escape could hide the word; what is of
    any length, such as a video, has its sound with it."""
    return request.image_count >= MORE_THAN_A_CONTEXT or any(
        _SOUND.search(value) is not None for value in request.fields.values()
    )
