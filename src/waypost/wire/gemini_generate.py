"""Gemini generateContent, the caller's request: strict where we bill or route by it, passed through elsewhere.

Model and streaming stand in the path (`wire.request.Around`). Fields are taken in both of their spellings and kept in
the first (`wire.gemini_spelling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.gemini_spelling import CONTENT, GENERATION_CONFIG, REQUEST, TOOL, respell_names
from waypost.wire.media_type import inline_bytes
from waypost.wire.request import (
    MESSAGES_MAX,
    MORE_THAN_A_CONTEXT,
    OUTPUT_TOKENS_MAX,
    Around,
    ChatRequest,
    check_model_name,
    decode_for_media,
    read_fields,
    refuse_value,
)

NAME = "gemini_generate"
CANDIDATES_MAX = 8
# Two readers may disagree about which of two equal keys counts; this one decides what is billed.
_SINGLE_KEYS = ("contents", "generationConfig", "generation_config")
_NULL = b"null"


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class _Known(msgspec.Struct, gc=False):
    contents: Annotated[list[_Object], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]


class _Thinking(msgspec.Struct, gc=False):
    includeThoughts: bool | None = None  # noqa: N815  as the format spells it
    include_thoughts: bool | None = None


class _Generation(msgspec.Struct, rename="camel", gc=False):
    candidate_count: Annotated[int, msgspec.Meta(ge=1, le=CANDIDATES_MAX)] | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    stop_sequences: list[str] | None = None
    thinking_config: _Thinking | None = None


class _Around(msgspec.Struct, rename="camel", gc=False):
    """The configuration with its name, so that an error tells the whole path."""

    generation_config: _Generation


_decode_known = msgspec.json.Decoder(_Known).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_tools = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_decode_generation = msgspec.json.Decoder(_Around).decode
_encode = msgspec.json.Encoder().encode
_OUR_TOOLS = ("functionDeclarations", "computerUse")  # those whose calls the caller answers
_MEDIA = (b'"inline', b'"file')  # one of them stands in every part that holds or names a medium
_SHORT_MEDIA = ("image/",)  # whose tokens are bounded per piece


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    sent, _, _, has_escapes = read_fields(body, _decode_known, turns="contents", single=_SINGLE_KEYS)
    fields = {name: msgspec.Raw(value) for name, value in respell_names(sent, REQUEST).items()}
    check_model_name(around.path_model)
    _refuse_cached_content(fields)
    if "tools" in fields:
        _refuse_tools_of_the_provider(fields["tools"])
    generation = _read_generation(fields)
    is_array = around.is_stream and not is_sse(around.query)
    image_count = image_bytes = 0
    if has_escapes or any(body.find(word) >= 0 for word in _MEDIA):
        image_count, image_bytes = _media(fields)
    thinking = generation.thinking_config
    return ChatRequest(
        NAME,
        around.path_model,
        around.is_stream,
        include_usage=True,
        n=generation.candidate_count or 1,
        output_tokens_max=generation.max_output_tokens,
        fields=fields,
        text_bytes=len(body) - image_bytes,
        image_count=image_count,
        wants_logprobs=generation.response_logprobs is True,
        uses_functions=False,
        around=around,
        shows_reasoning=thinking is not None and (thinking.includeThoughts or thinking.include_thoughts) is True,
        is_array=is_array,
    )


def is_sse(query: str) -> bool:
    """Whether a stream is wanted as server-sent events: `alt=sse`. Raises Refusal for what we cannot write."""
    alt = dict(parse_qsl(query)).get("alt", "json") if query else "json"
    if alt not in ("json", "sse"):
        raise invalid("alt", "'alt' is neither 'sse' nor 'json'.")
    return alt == "sse"


def _refuse_cached_content(fields: Mapping[str, msgspec.Raw]) -> None:
    cached = fields.get("cachedContent")
    if cached is not None and bytes(cached) not in (_NULL, b'""'):
        text = "Nothing is stored here, so no cached content can be named: send the content itself."
        raise invalid("cachedContent", f"'cachedContent' is not available. {text}")


def _refuse_tools_of_the_provider(sent: msgspec.Raw) -> None:
    """Tools that run at the provider cost or read what no price and no hold here covers."""
    try:
        tools = _decode_tools(sent) or ()
    except msgspec.ValidationError:
        raise invalid("tools", "'tools' must be an array of objects.") from None
    for at, tool in enumerate(tools):
        for name in respell_names(tool, TOOL, f"tools[{at}]."):
            if name not in _OUR_TOOLS:
                place = f"tools[{at}].{name}" if name in TOOL.names else f"tools[{at}]"
                raise invalid(place, f"'{place}' runs at the provider, which is not available. Declare functions.")


def _read_generation(fields: dict[str, msgspec.Raw]) -> _Generation:
    """The configuration, which then stands in `fields` once more, each of its fields once and in the first spelling."""
    sent = fields.get("generationConfig")
    if sent is None or bytes(sent) == _NULL:
        fields.pop("generationConfig", None)
        return _Generation()
    try:
        raw = respell_names(_decode_fields(sent), GENERATION_CONFIG, "generationConfig.")
        encoded = _encode(raw)
        generation = _decode_generation(b'{"generationConfig":%b}' % encoded).generation_config
    except msgspec.ValidationError as error:
        if str(error).startswith("Expected `object`"):
            raise invalid("generationConfig", "'generationConfig' must be an object.") from None
        refuse_value(error)
    fields["generationConfig"] = msgspec.Raw(encoded)
    return generation


def _media(fields: Mapping[str, msgspec.Raw]) -> tuple[int, int]:
    """How many media there are, and how many bytes the inline data of images takes up.

    What an image costs is tokens a piece, not a byte. Documents and videos of few bytes may be long, and what a URL
    names is of any length: they count as more images than a context holds. Sounds keep counting as bytes.
    """
    count = image_bytes = 0
    for name in ("contents", "systemInstruction"):
        try:
            decoded = decode_for_media(fields.get(name, msgspec.Raw(_NULL)))
        except ValueError:
            raise invalid(name, f"'{name}' holds a number that is out of range.") from None
        for part in _parts(CONTENT.respell(decoded, name)):
            blob, file = part.get("inlineData"), part.get("fileData")
            if isinstance(file, dict):
                count += 1 if _type_of(file).startswith(_SHORT_MEDIA) else MORE_THAN_A_CONTEXT
            if isinstance(blob, dict):
                data = blob.get("data")
                if _type_of(blob).startswith(_SHORT_MEDIA) and isinstance(data, str):
                    count += 1
                    image_bytes += inline_bytes(data, name)
                elif not _type_of(blob).startswith(("audio/", "text/")):
                    count += MORE_THAN_A_CONTEXT
    return count, image_bytes


def _parts(decoded: object) -> Iterator[dict[str, object]]:
    """Every part of contents, and those of function responses."""
    for content in decoded if isinstance(decoded, list) else [decoded]:
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else [parts]:
            if not isinstance(part, dict):
                continue
            yield part
            result = part.get("functionResponse")
            of_result = result.get("parts") if isinstance(result, dict) else None
            for inner in of_result if isinstance(of_result, list) else ():
                if isinstance(inner, dict):
                    yield inner


def _type_of(medium: Mapping[str, object]) -> str:
    sent = medium.get("mimeType")
    return sent.lower() if isinstance(sent, str) else ""
