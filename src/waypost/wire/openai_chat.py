"""OpenAI chat completions, the caller's request: strict where we bill or route by it, passed through elsewhere."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, NoReturn

import msgspec

from waypost.kit.codec import is_deeper_than, repeated_key
from waypost.kit.errors import invalid

DEPTH_MAX = 64
MESSAGES_MAX = 2_000
CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 2**31 - 1  # far over every model; keeps products of tokens and prices within reason

# A model's name may stand in a path at some providers: nothing that could climb out of it.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
# Two readers may disagree about which of two equal keys counts; these decide what is billed and how.
_SINGLE_KEYS = ("model", "stream", "max_tokens", "max_completion_tokens", "n")
_ESCAPED_ASCII = re.compile(rb"\\u00[4-7]")
_PATH = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_BYTE = re.compile(r"\(byte \d+\)")


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """A valid request. Token bounds are None when the caller gave none."""

    model: str
    is_stream: bool
    include_usage: bool
    n: int
    output_tokens_max: int | None  # per choice
    fields: dict[str, msgspec.Raw]  # every top-level field as it was received
    text_bytes: int  # no text of the request has more tokens than this; base64 of images left out
    image_count: int
    wants_logprobs: bool
    uses_functions: bool  # asked with the legacy `functions`, so calls are answered as `function_call`


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


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_known = msgspec.json.Decoder(_Known).decode
_decode_any = msgspec.json.Decoder().decode
_MEDIA = (b'_url"', b'"image', b'"file')  # one of them stands in every part that names or holds a medium
_MORE_THAN_A_CONTEXT = 1 << 20  # images; no context holds so many


def read_request(body: bytes) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    if not body.isascii():
        _check_utf8(body)
    try:
        fields = _decode_fields(body)
        # One array is the messages. `find` stops where `count` goes on, and a byte costs a nanosecond.
        has_more_arrays = body.find(b"[", body.find(b"[") + 1) >= 0
        arrays = body.count(b"[") if has_more_arrays else 1
        if arrays + body.count(b"{") > DEPTH_MAX and is_deeper_than(body, DEPTH_MAX):
            raise invalid(None, f"The body nests more than {DEPTH_MAX} levels.")
        known = _decode_known(body)
    except msgspec.ValidationError as error:
        _refuse_value(error)
    except ValueError as error:
        where = _BYTE.search(str(error))
        raise invalid(None, f"The body is not valid JSON{' ' + where[0] if where else ''}.") from None
    except RecursionError:
        raise invalid(None, f"The body nests more than {DEPTH_MAX} levels.") from None
    model, is_stream, options = known.model, known.stream is True, known.stream_options
    if not _is_model_name(model):
        raise invalid("model", "'model' is not the name of a model.")
    # `find`, since `in` takes twice as long on bytes.
    has_escapes = body.find(b"\\") >= 0 and _ESCAPED_ASCII.search(body) is not None
    _check_single_keys(body, fields, has_escapes)
    if options is not None and not is_stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    image_count = image_bytes = 0
    # Parts stand in an array of their own, the second at least.
    if has_escapes or (has_more_arrays and any(body.find(word) >= 0 for word in _MEDIA)):
        image_count, image_bytes = _images(fields["messages"])
    return ChatRequest(
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
    )


def _output_tokens_max(known: _Known) -> int | None:
    new, legacy = known.max_completion_tokens, known.max_tokens
    if new is not None and legacy is not None and new != legacy:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' differ: give one of them.")
    return legacy if new is None else new


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise invalid(None, "The body is not valid UTF-8.") from None


def _check_single_keys(body: bytes, fields: dict[str, msgspec.Raw], has_escapes: bool) -> None:
    # The messages are most of the body and none of its keys: look at what stands around them.
    messages = fields["messages"]
    begin = body.find(b"[", body.find(b'"messages"'))
    end = begin + len(messages)
    if not body.startswith(messages, begin):  # the word stands somewhere else first
        begin = end = 0
    count = body.count
    if not has_escapes and count(b":", 0, begin) + count(b":", end) == len(fields):
        return  # as many colons as fields: no key stands twice
    name = repeated_key(b"%b0%b" % (body[:begin], body[end:]) if end else body, _SINGLE_KEYS)
    if name is not None:
        raise invalid(name, f"'{name}' stands twice in the body.")


@lru_cache(maxsize=1024)  # a process sees the same few names all day, and the pattern costs a microsecond
def _is_model_name(model: str) -> bool:
    return _MODEL.fullmatch(model) is not None and ".." not in model


def _refuse_value(error: msgspec.ValidationError) -> NoReturn:
    # The decoder's text names types and bounds only, never a value of the caller's.
    found = _PATH.match(str(error))
    assert found is not None
    text, param = found[1], found[2] or ""
    missing = _MISSING.fullmatch(text)
    if missing is not None:
        param = f"{param}.{missing[1]}" if param else missing[1]
        raise invalid(param, f"'{param}' is missing.") from None
    if not param:
        raise invalid(None, "The body must be a JSON object.") from None
    raise invalid(param, f"'{param}' is not valid: {text[:1].lower()}{text[1:]}.") from None


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
                count += 0 if is_inline else _MORE_THAN_A_CONTEXT
                continue
            image = part.get("image_url")
            if image is None and not (isinstance(kind, str) and "image" in kind):
                continue
            count += 1
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:image/"):
                inline_bytes += len(url)
    return count, inline_bytes
