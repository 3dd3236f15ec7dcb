"""OpenAI chat completions, the caller's request: strict where we bill or route by it, passed through elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.media_type import inline_bytes, is_inline_text
from waypost.wire.openai_chat_fields import Known
from waypost.wire.request import (
    MORE_THAN_A_CONTEXT,
    Around,
    ChatRequest,
    check_model_name,
    decode_for_media,
    is_model_name,
    read_fields,
)

NAME = "openai_chat"
# Two readers may disagree about which of two equal keys counts; these decide what is billed and how.
_SINGLE_KEYS = ("model", "stream", "max_tokens", "max_completion_tokens", "n", "tools")
# What a provider searches or runs itself, under its relatives' names: it bills that beside the tokens.
_RUN_AT_THE_PROVIDER = frozenset(
    ("web_search_options", "search_parameters", "search_settings", "plugins", "enable_search")
)
_NOT_ASKED = (b"null", b"false")

_decode_known = msgspec.json.Decoder(Known).decode
_MEDIA = (
    b'_url"',
    b'"image',
    b'"file',
    b'"video',
    b'"document',
)  # one of them stands in every part that names or holds a medium


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    fields, known, has_more_arrays, has_escapes = read_fields(
        body, _decode_known, turns="messages", single=_SINGLE_KEYS
    )
    model, is_stream, options = known.model, known.stream is True, known.stream_options
    if not is_model_name(model):  # asked here, and not by a function more: a quarter of a microsecond
        check_model_name(model)
    if options is not None and not is_stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    if known.tools or not _RUN_AT_THE_PROVIDER.isdisjoint(fields):
        _refuse_what_a_provider_runs(fields, known)
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
        known.max_tokens if known.max_completion_tokens is None else _output_tokens_max(known),
        fields,
        len(body) - image_bytes,
        image_count,
        known.logprobs is True,
        bool(known.functions) and not known.tools,
        around,
    )


def _refuse_what_a_provider_runs(fields: Mapping[str, msgspec.Raw], known: Known) -> None:
    """No price and no hold here covers it."""
    for name in fields:
        if name in _RUN_AT_THE_PROVIDER and bytes(fields[name]) not in _NOT_ASKED:
            raise invalid(name, f"'{name}' runs at the provider, which is not available. Declare functions.")
    for at, tool in enumerate(known.tools or ()):
        if tool.type not in ("function", "custom") and (tool.type or tool.function is None):
            raise invalid(
                f"tools[{at}]", f"'tools[{at}]' is neither a function nor a custom tool: others are not available."
            )


def _output_tokens_max(known: Known) -> int | None:
    new, legacy = known.max_completion_tokens, known.max_tokens
    if new is not None and legacy is not None and new != legacy:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' differ: give one of them.")
    return legacy if new is None else new


def _images(messages: bytes | msgspec.Raw) -> tuple[int, int]:
    """How many image parts there are, and how many bytes their inline data takes up.

    What such data costs is tokens per image, not per byte. Inline texts and sounds keep counting as bytes; a document
    of few bytes may have many pages, and what stands elsewhere and is no image could be of any length: they count as
    more images than a context holds.
    """
    count = image_bytes = 0
    try:
        decoded = decode_for_media(messages)
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
            if _is_of_any_length(kind) or any(_is_of_any_length(name) for name in part):
                count += 0 if is_inline_text(part.get("file")) else MORE_THAN_A_CONTEXT
                continue
            image = part.get("image_url")
            if image is None and not (isinstance(kind, str) and "image" in kind):
                continue
            count += 1
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:image/"):
                image_bytes += inline_bytes(url, "messages")
    return count, image_bytes


def _is_of_any_length(word: object) -> bool:
    """Whether a part of this type, or with this field, holds or names what no number of bytes bounds."""
    return isinstance(word, str) and (
        any(each in word for each in ("video", "file", "document")) or (word.endswith("_url") and word != "image_url")
    )
