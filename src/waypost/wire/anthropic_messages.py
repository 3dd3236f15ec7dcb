"""Anthropic Messages, the caller's request: strict where we bill or route by it, passed through elsewhere.

https://platform.claude.com/docs/en/api/messages. What changes the price of a request in ways that the catalogue has no
price for (`speed`, `inference_geo`, tools that run at the provider) is refused, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
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
)

NAME = "anthropic_messages"
VERSIONS = (b"2023-06-01", b"2026-10-21")
"""Of the API. Answers are alike in both; sampling parameters, which the later one has no more, are taken in both."""

BETAS_MAX = 32
CLIENT_TOOLS = ("bash_", "text_editor_", "memory_", "computer_")
"""What the types of tools begin with that Anthropic describes and the caller runs."""

CLIENT_TOOL_BYTES = 2_048  # what it adds to a prompt for each of them, at most, in tokens and so in bytes
_SINGLE_KEYS = ("model", "stream", "max_tokens")
_BETA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PRICED_BETAS = ("context-1m-", "fast-mode-")
# Fields that cost or reach something that we cannot price or answer for, and what to do instead.
_REFUSED = {
    "inference_geo": "Where a model runs is chosen with 'provider.region'.",
    "container": "Nothing is kept between requests.",
    "mcp_servers": "Tools run at the caller's.",
    "diagnostics": "Nothing is kept between requests.",
    "user_profile_id": "Say whose request it is in 'metadata.user_id'.",
    "workspace_id": "The API key says whose request it is.",
    "fallbacks": "Name models to fall back to in 'models'.",
}
_MEDIA = (b'"image"', b'"document"', b'"file"', b"_url")
_Count = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]


class _Message(msgspec.Struct, gc=False):
    role: str


class _Tool(msgspec.Struct, gc=False):
    name: str
    type: str | None = None


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class _Thinking(msgspec.Struct, gc=False):
    type: str
    display: str | None = None


class _Metadata(msgspec.Struct, gc=False):
    user_id: Annotated[str, msgspec.Meta(max_length=512)] | None = None


class _Known(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_tokens: _Count
    stream: bool | None = None
    tools: list[_Tool] | None = None
    thinking: _Thinking | None = None
    output_config: _Object | None = None
    metadata: _Metadata | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    speed: str | None = None


class _Counted(_Known, gc=False, kw_only=True):
    """What `count_tokens` takes: the same without a length."""

    max_tokens: _Count = 1


_decode_known = msgspec.json.Decoder(_Known).decode
_decode_counted = msgspec.json.Decoder(_Counted).decode


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    fields, known, has_more_arrays, has_escapes = read_fields(
        body, _decode_known, turns="messages", single=_SINGLE_KEYS
    )
    return _request(fields, known, body, around, looks_for_media=has_more_arrays or has_escapes)


def read_counted(body: bytes, around: Around) -> ChatRequest:
    """What `count_tokens` is asked about, as a request of one token. Raises Refusal."""
    fields, known, has_more_arrays, has_escapes = read_fields(
        body, _decode_counted, turns="messages", single=_SINGLE_KEYS
    )
    return _request(fields, known, body, around, looks_for_media=has_more_arrays or has_escapes)


def _request(
    fields: dict[str, msgspec.Raw], known: _Known, body: bytes, around: Around, *, looks_for_media: bool
) -> ChatRequest:
    check_model_name(known.model)
    _check_roles(known)
    for name, instead in _REFUSED.items():
        if name in fields and bytes(fields[name]) != b"null":
            raise invalid(name, f"'{name}' is not offered. {instead}")
    if known.speed not in (None, "standard"):
        raise invalid("speed", "'speed' is not offered: every request runs at standard speed.")
    added_bytes = _added_bytes(known)
    image_count = image_bytes = 0
    # An escape may hide any of the words.
    if looks_for_media and (body.find(b"\\u") >= 0 or any(body.find(word) >= 0 for word in _MEDIA)):
        image_count, image_bytes = _media(fields["messages"])
    return ChatRequest(
        format=NAME,
        model=known.model,
        is_stream=known.stream is True,
        include_usage=True,
        n=1,
        output_tokens_max=known.max_tokens,
        fields=fields,
        text_bytes=len(body) - image_bytes + added_bytes,
        image_count=image_count,
        wants_logprobs=False,
        uses_functions=False,
        around=around,
        upstream_headers=_upstream_headers(around.headers),
        shows_reasoning=known.thinking is None or known.thinking.display != "omitted",
    )


def _check_roles(known: _Known) -> None:
    for at, message in enumerate(known.messages):
        if message.role not in ("user", "assistant", "system"):
            raise invalid(f"messages[{at}].role", f"'messages[{at}].role' is none of user, assistant and system.")


def _added_bytes(known: _Known) -> int:
    """Room for what stands in no request: the provider's own description of tools. Raises Refusal for a tool that would
    run at the provider."""
    tools = known.tools or ()
    described = 0
    for at, tool in enumerate(tools):
        if tool.type in (None, "custom"):
            continue
        if not str(tool.type).startswith(CLIENT_TOOLS):
            raise invalid(
                f"tools[{at}].type",
                f"'tools[{at}].type' is not offered: tools run at the caller's. There are custom tools, and "
                f"{', '.join(CLIENT_TOOLS)}… .",
            )
        described += 1
    return described * CLIENT_TOOL_BYTES


def _upstream_headers(headers: Mapping[bytes, bytes]) -> bytes:
    """The lines that a provider of this format gets too. Raises Refusal for a version or a beta that it cannot."""
    if headers.get(b"anthropic-version", VERSIONS[0]).strip() not in VERSIONS:
        known = " or ".join(version.decode() for version in VERSIONS)
        raise invalid("anthropic-version", f"The header 'anthropic-version' must be {known}.")
    sent = headers.get(b"anthropic-beta")
    if not sent:
        return b""
    betas = [beta.strip() for beta in sent.decode("latin-1").split(",") if beta.strip()]
    for beta in betas:
        if _BETA.fullmatch(beta) is None or len(betas) > BETAS_MAX:
            raise invalid("anthropic-beta", f"The header 'anthropic-beta' takes at most {BETAS_MAX} names of betas.")
        if beta.startswith(_PRICED_BETAS):
            raise invalid("anthropic-beta", "A beta named in 'anthropic-beta' changes prices, and is not offered.")
    return f"anthropic-beta: {','.join(betas)}\r\n".encode() if betas else b""


def _media(messages: bytes | msgspec.Raw) -> tuple[int, int]:
    """How many images there are, and how many bytes their inline data takes up.

    What such data costs is tokens per image, not per byte. A document's pages cost tokens of their own, and how many
    pages it has nobody here can tell: it counts as more images than a context holds, and so does what stands elsewhere.
    """
    count = image_bytes = 0
    try:
        waiting: list[object] = [decode_for_media(messages)]
    except ValueError:
        raise invalid("messages", "'messages' holds a number that is out of range.") from None
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        waiting += [value[name] for name in ("content", "source") if name in value]
        kind, source = value.get("type"), value.get("source")
        if kind not in ("image", "document", "container_upload"):
            continue
        origin = source.get("type") if isinstance(source, dict) else None
        if kind == "image" and origin == "base64":
            count += 1
            data = source.get("data") if isinstance(source, dict) else None
            image_bytes += inline_bytes(data, "messages") if isinstance(data, str) else 0
        elif kind == "image" and origin == "url":
            count += 1
        elif origin not in ("text", "content"):
            count += MORE_THAN_A_CONTEXT
    return count, image_bytes
