"""OpenAI chat completions, the caller's request: strict where we bill or route by it, passed through elsewhere."""

from __future__ import annotations

from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.request import (
    MESSAGES_MAX,
    MORE_THAN_A_CONTEXT,
    OUTPUT_TOKENS_MAX,
    Around,
    ChatRequest,
    check_model_name,
    read_fields,
)

NAME = "openai_chat"
CHOICES_MAX = 128
# Two readers may disagree about which of two equal keys counts; these decide what is billed and how.
_SINGLE_KEYS = ("model", "stream", "max_tokens", "max_completion_tokens", "n")

_Count = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class _Message(msgspec.Struct, gc=False):
    role: str


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _Known(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = None
    tools: list[_Object] | None = None
    functions: list[_Object] | None = None
    response_format: _Object | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None


_decode_known = msgspec.json.Decoder(_Known).decode
_decode_any = msgspec.json.Decoder().decode
_MEDIA = (b'_url"', b'"image', b'"file')  # one of them stands in every part that names or holds a medium


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    fields, known, has_more_arrays, has_escapes = read_fields(
        body, _decode_known, turns="messages", single=_SINGLE_KEYS
    )
    model, is_stream, options = known.model, known.stream is True, known.stream_options
    check_model_name(model)
    if options is not None and not is_stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    image_count = image_bytes = 0
    # Parts stand in an array of their own, the second at least.
    if has_escapes or (has_more_arrays and any(body.find(word) >= 0 for word in _MEDIA)):
        image_count, image_bytes = _images(fields["messages"])
    return ChatRequest(
        NAME,
        model,
        is_stream,
        options is not None and options.include_usage is True,
        known.n or 1,
        _output_tokens_max(known),
        fields,
        len(body) - image_bytes,
        image_count,
        known.logprobs is True,
        bool(known.functions) and not known.tools,
        around,
    )


def _output_tokens_max(known: _Known) -> int | None:
    new, legacy = known.max_completion_tokens, known.max_tokens
    if new is not None and legacy is not None and new != legacy:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' differ: give one of them.")
    return legacy if new is None else new


def _images(messages: bytes | msgspec.Raw) -> tuple[int, int]:
    """How many image parts there are, and how many bytes their inline data takes up.

    What such data costs is tokens per image, not per byte. Any other inline data keeps counting as bytes; what stands
    elsewhere and is no image could be of any length, so it counts as more images than a context holds.
    """
    count = inline_bytes = 0
    try:
        decoded = _decode_any(messages)
    except ValueError:
        raise invalid("messages", "'messages' holds a number that is out of range.") from None
    for message in decoded:
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for part in content:
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if isinstance(kind, str) and ("video" in kind or "file" in kind):
                file = part.get("file")
                is_inline = isinstance(file, dict) and isinstance(file.get("file_data"), str)
                count += 0 if is_inline else MORE_THAN_A_CONTEXT
                continue
            image = part.get("image_url")
            if image is None and not (isinstance(kind, str) and "image" in kind):
                continue
            count += 1
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:image/"):
                inline_bytes += len(url)
    return count, inline_bytes
