"""What providers that speak OpenAI's chat format send, as loosely as they do, and how each oddity is read.

Known from the wild: calls without ids, without an index, with the name late or in every piece, arguments as an object,
the legacy `function_call`, reasoning under two names, finish reasons of other vendors, numbers as floats or strings.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers.error_map import ERROR_BYTES_MAX
from waypost.wire.canonical import Audio, Usage
from waypost.wire.logprobs import Logprobs

ABSENT = msgspec.Raw(b"")
_decode_text = msgspec.json.Decoder(str).decode
_NO_FIELDS: dict[str, msgspec.Raw] = {}
_NULL = msgspec.Raw(b"null")
UNREADABLE = -1
"""Stands for a count that is no whole number; metering refuses it as it does any negative one."""


def text_of(sent: msgspec.Raw) -> str:
    """A text; "" for whatever else was sent in its place."""
    try:
        return _decode_text(sent)
    except ValueError:  # not JSON's text, or not UTF-8
        return ""


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, msgspec.Raw] | None = None


class Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class SentAudio(msgspec.Struct, gc=False):
    id: str | None = None
    data: str | None = None
    transcript: str | None = None


class Said(msgspec.Struct, gc=False):
    """A message, or a delta of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    audio: SentAudio | None = None


class SentChoice(msgspec.Struct, gc=False):
    message: Said
    index: int | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class SentAnswer(msgspec.Struct, gc=False):
    choices: list[SentChoice] | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    id: msgspec.Raw = ABSENT


class StreamedChoice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Said | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class StreamedEvent(msgspec.Struct, gc=False):
    choices: list[StreamedChoice] | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class NamedAnswer(msgspec.Struct, gc=False):
    id: msgspec.Raw = ABSENT


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    """A usage object as it should be."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


SAID_FIELDS = frozenset((*Said.__struct_fields__, "role"))
COMPLETION_FIELDS = frozenset(("id", "object", "created", "model", "choices", "usage", "service_tier"))

_decode_any = msgspec.json.Decoder().decode
_decode_counts = msgspec.json.Decoder(_Counts).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_decode_said = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode

_FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
}
# The provider's way of saying that it broke: passing these off as "stop" would invent a success.
_BROKEN = frozenset(("error", "abort", "cancelled", "insufficient_system_resource", "network_error"))


def is_broken(finish_reason: str | None) -> bool:
    return finish_reason is not None and finish_reason.lower() in _BROKEN


def finish_reason_of(sent: str | None, *, has_calls: bool) -> str:
    """Ours for the provider's; "" while there is none. Whether calls were made is read from the calls."""
    if not sent or sent == "null":
        return ""
    ours = _FINISH_REASONS.get(sent.lower(), "stop")
    return "tool_calls" if has_calls and ours == "stop" else ours


def calls_of(said: Said) -> Sequence[Call]:
    """The calls, the legacy one as the first and only."""
    if said.tool_calls:
        return said.tool_calls
    return () if said.function_call is None else (Call(0, None, said.function_call),)


def arguments_of(function: Function) -> str:
    """Arguments as JSON text; some providers send the object itself."""
    sent = function.arguments
    if isinstance(sent, dict):
        return _encode(sent).decode()
    return sent or ""


def audio_of(sent: SentAudio | None) -> Audio | None:
    if sent is None:
        return None
    return Audio(sent.id or "", sent.data or "", sent.transcript or "")


def logprobs_of(sent: Logprobs | None) -> Logprobs | None:
    """None for the older layouts, which have neither list."""
    return sent if sent is not None and (sent.content is not None or sent.refusal is not None) else None


def is_null(sent: msgspec.Raw) -> bool:
    return len(sent) == 4 and bytes(sent) == b"null"


def is_error(sent: msgspec.Raw) -> bool:
    """Whether a top-level `error` is more than null, false or empty."""
    return len(sent) > ERROR_BYTES_MAX or (bool(len(sent)) and bool(_decode_any(sent)))


def usage_of(sent: msgspec.Raw) -> Usage | None:
    """The usage object in disjoint classes; None when absent, null or without any count."""
    if not len(sent):
        return None
    try:
        counts = _decode_counts(sent)
    except (ValueError, RecursionError):
        return _loose_usage_of(sent)
    prompt, completion = counts.prompt_tokens, counts.completion_tokens
    if prompt is None or completion is None:
        return _loose_usage_of(sent)
    of_input, of_output = counts.prompt_tokens_details, counts.completion_tokens_details
    cached = written = reasoning = audio = images = spoken = 0
    if of_input is not None:
        cached, written = of_input.cached_tokens or 0, of_input.cache_write_tokens or 0
        audio, images = of_input.audio_tokens or 0, of_input.image_tokens or 0
    if of_output is not None:
        reasoning, spoken = of_output.reasoning_tokens or 0, of_output.audio_tokens or 0
    total = counts.total_tokens or 0
    if audio or images or spoken:
        return _with_media(prompt, completion, cached, written, reasoning, total, audio, images, spoken)
    return _in_classes(prompt, completion, cached, written, reasoning, total)


def _loose_usage_of(sent: msgspec.Raw) -> Usage | None:
    """The same, of an object whose counts are of other types, or not there."""
    try:
        usage = _decode_any(sent)
    except (ValueError, RecursionError):
        return Usage(UNREADABLE)
    if usage is None or usage == {}:
        return None
    if not isinstance(usage, dict):
        return Usage(UNREADABLE)
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if prompt is None and completion is None:
        return None
    input_tokens, output_tokens = _count(prompt, UNREADABLE), _count(completion, UNREADABLE)
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    written = _detail(usage, "prompt_tokens_details", "cache_write_tokens")
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    total = _count(usage.get("total_tokens"), 0)
    media = [
        _detail(usage, group, name)
        for group, name in (
            ("prompt_tokens_details", "audio_tokens"),
            ("prompt_tokens_details", "image_tokens"),
            ("completion_tokens_details", "audio_tokens"),
        )
    ]
    if any(media):
        return _with_media(input_tokens, output_tokens, cached, written, reasoning, total, *media)
    return _in_classes(input_tokens, output_tokens, cached, written, reasoning, total)


def _with_media(
    input_tokens: int,
    output_tokens: int,
    cached: int,
    written: int,
    reasoning: int,
    total_tokens: int,
    audio: int,
    images: int,
    spoken: int,
) -> Usage:
    """Audio and images taken out of the classes of text. What a provider counts as cached as well is cached, and no
    input class comes out below zero while the whole is enough for all of them."""
    usage = _in_classes(input_tokens, output_tokens, cached, written, reasoning, total_tokens)
    if min(usage.input_tokens, audio, images, spoken) < 0 or spoken > usage.output_tokens:
        return Usage(UNREADABLE)
    audio = min(audio, usage.input_tokens)
    images = min(images, usage.input_tokens - audio)
    return replace(
        usage,
        input_tokens=usage.input_tokens - audio - images,
        output_tokens=usage.output_tokens - spoken,
        audio_input_tokens=audio,
        image_input_tokens=images,
        audio_output_tokens=spoken,
    )


def _in_classes(
    input_tokens: int, output_tokens: int, cached: int, written: int, reasoning: int, total_tokens: int
) -> Usage:
    # A few providers count reasoning beside the completion instead of inside it; their total gives them away.
    if reasoning > 0 and (reasoning > output_tokens >= 0 or total_tokens == input_tokens + output_tokens + reasoning):
        output_tokens += reasoning
    if min(input_tokens, output_tokens, cached, written, reasoning) < 0:
        return Usage(UNREADABLE)
    return Usage(input_tokens - cached - written, cached, written, 0, output_tokens, reasoning)


def unknown_and_exposed(
    document: bytes, inner: str, expose: Sequence[str]
) -> tuple[int, dict[str, bytes], list[dict[str, bytes]]]:
    """How many fields of a valid answer are outside the closed set; those to let through, at the top and per choice
    (in its `inner` object: `message` or `delta`), as JSON spelled our way."""
    top = _decode_object(document)
    unknown = len(top.keys() - COMPLETION_FIELDS)
    exposed: list[dict[str, bytes]] = []
    for choice in _decode_choices(top.get("choices", _NULL)) or ():
        said = _decode_said(choice.get(inner, _NULL)) or _NO_FIELDS
        unknown += len(said.keys() - SAID_FIELDS)
        exposed.append(_selected(said, expose, SAID_FIELDS) if expose else {})
    return unknown, _selected(top, expose, COMPLETION_FIELDS) if expose else {}, exposed


def _selected(fields: dict[str, msgspec.Raw], expose: Sequence[str], closed: frozenset[str]) -> dict[str, bytes]:
    return {name: _encode(_decode_any(fields[name])) for name in expose if name in fields and name not in closed}


def _detail(usage: dict[str, object], group: str, name: str) -> int:
    details = usage.get(group)
    return _count(details.get(name), 0) if isinstance(details, dict) else 0


def _count(value: object, missing: int) -> int:
    if value is None:
        return missing
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else UNREADABLE
