"""OpenAI Responses, the caller's request: strict where we bill or route by it, passed through elsewhere.

Nothing of a response is stored, so what would need storage is refused by its name: `previous_response_id`,
`conversation`, `background`, `prompt`, references to earlier items, and files by id. `store` is taken for false. Tools
that a provider runs itself are refused too: it bills them beside the tokens, and no price of ours covers them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.media_type import inline_bytes, is_inline_text
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

NAME = "openai_responses"
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")
# Two readers may disagree about which of two equal keys counts; these decide what is billed and how.
_SINGLE_KEYS = ("model", "stream", "max_output_tokens", "tools", "background", "previous_response_id", "conversation")
_STORED = ("previous_response_id", "conversation", "prompt")

_Count = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class SentTool(msgspec.Struct, gc=False):
    """A tool, as it is shown again. Only a function has a name."""

    type: str = ""
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw(b"null")
    strict: bool | None = None


class SentFormat(msgspec.Struct, gc=False, omit_defaults=True):
    type: Annotated[str, msgspec.Meta(pattern="^(text|json_object|json_schema)$")]
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    strict: bool | None = None


class SentText(msgspec.Struct, gc=False):
    format: SentFormat | None = None
    verbosity: str | None = None


class SentReasoning(msgspec.Struct, gc=False):
    effort: str | None = None
    summary: str | None = None


class _Choice(msgspec.Struct, gc=False):
    type: str


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    role: str | None = None
    encrypted_content: str | None = None


class _Known(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    input: (
        Annotated[str, msgspec.Meta(min_length=1)]
        | Annotated[list[_Item], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    )
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _Object | None = None
    max_output_tokens: _Count | None = None
    tools: list[SentTool] | None = None
    tool_choice: str | _Choice | None = None
    text: SentText | None = None
    reasoning: SentReasoning | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    background: bool | None = None
    truncation: str | None = None
    previous_response_id: str | None = None
    conversation: str | _Object | None = None
    prompt: _Object | None = None


_decode_known = msgspec.json.Decoder(_Known).decode
_MEDIA = (b'"input_image"', b'"input_file"', b'"image', b'"file')
_TOOL_CHOICES = ("auto", "none", "required")


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    fields, known, has_more_arrays, has_escapes = read_fields(body, _decode_known, turns="input", single=_SINGLE_KEYS)
    check_model_name(known.model)
    _refuse_what_is_stored(known)
    _check_tools(known)
    image_count = image_bytes = 0
    if not isinstance(known.input, str):
        _check_items(known.input)
        # Parts stand in an array of their own, the second at least.
        if has_escapes or (has_more_arrays and any(body.find(word) >= 0 for word in _MEDIA)):
            image_count, image_bytes = _images(fields["input"])
    return ChatRequest(
        NAME,
        known.model,
        known.stream is True,
        True,
        1,
        known.max_output_tokens,
        fields,
        len(body) - image_bytes,
        image_count,
        LOGPROBS in (known.include or ()),
        False,
        around,
    )


def _refuse_what_is_stored(known: _Known) -> None:
    for name in _STORED:
        if getattr(known, name) is not None:
            raise invalid(name, f"'{name}' needs what nobody stores here: send the whole conversation in 'input'.")
    if known.background:
        raise invalid("background", "'background' needs a stored response: nothing is stored here. Use 'stream'.")


def _check_tools(known: _Known) -> None:
    for at, tool in enumerate(known.tools or ()):
        if tool.type != "function":
            raise invalid(f"tools[{at}]", f"'tools[{at}]' is not a function: only functions can be called here.")
        if not tool.name:
            raise invalid(f"tools[{at}].name", f"'tools[{at}].name' is missing.")
    choice = known.tool_choice
    if isinstance(choice, _Choice) and choice.type not in ("function", "allowed_tools"):
        raise invalid("tool_choice", "'tool_choice' names a tool that is not a function.")
    if isinstance(choice, str) and choice not in _TOOL_CHOICES:
        raise invalid("tool_choice", f"'tool_choice' is none of {', '.join(_TOOL_CHOICES)}.")
    if known.truncation not in (None, "auto", "disabled"):
        raise invalid("truncation", "'truncation' is neither auto nor disabled.")


def _check_items(items: list[_Item]) -> None:
    for at, item in enumerate(items):
        kind = item.type or ("message" if item.role is not None else "")
        if kind == "item_reference":
            raise invalid(
                f"input[{at}]",
                f"'input[{at}]' refers to an item that nobody stores here: send the item itself.",
            )
        if kind not in ITEM_TYPES:
            raise invalid(f"input[{at}]", f"'input[{at}]' is none of {', '.join(ITEM_TYPES)}.")


def _images(items: bytes | msgspec.Raw) -> tuple[int, int]:
    """How many images there are, and how many bytes their inline data takes up: see `openai_chat`. A file that is no
    inline text could be of any length."""
    count = image_bytes = 0
    try:
        decoded = decode_for_media(items)
    except ValueError:
        raise invalid("input", "'input' holds a number that is out of range.") from None
    for item in decoded:
        for parts in (item.get("content"), item.get("output")):
            if not isinstance(parts, list):
                continue
            for part in parts:
                if not isinstance(part, dict):
                    continue
                url = part.get("image_url")
                if url is not None or part.get("type") == "input_image":
                    count += 1
                    if isinstance(url, str) and url.startswith("data:image/"):
                        image_bytes += inline_bytes(url, "input")
                elif part.get("type") == "input_file" and not is_inline_text(part):
                    count += MORE_THAN_A_CONTEXT
    return count, image_bytes
