"""A Messages request, read as strictly as Anthropic reads it, into the one `ChatRequest` that answers are made from.

An equal conversation gets the same words and tokens as at a provider of any other kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from waypost.simulator.directive import Directives, read_directives
from waypost.simulator.request import (
    ChatRequest,
    Count,
    Function,
    ImageUrl,
    InvalidRequest,
    JsonSchema,
    Message,
    NamedFunction,
    NamedTool,
    Part,
    ResponseFormat,
    StreamOptions,
    Tool,
)

_SECRET = b"the simulator signs its own thinking"
_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_BUDGET_TOKENS_MIN = 1024
_EFFORT_OF_BUDGET = ((1_024, "minimal"), (4_096, "low"), (16_384, "medium"))
_THINKING = ("thinking", "redacted_thinking")
_CLIENT_TOOLS = ("bash_", "text_editor_", "memory_", "computer_")


class _Source(msgspec.Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: str | list[_Block] = ""


class _Cache(msgspec.Struct):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, object] | None = None
    tool_use_id: str = ""
    content: str | list[_Block] = ""
    is_error: bool = False
    source: _Source | str | None = None
    cache_control: _Cache | None = None


class _Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]

    @property
    def blocks(self) -> list[_Block]:
        return [_Block("text", self.content)] if isinstance(self.content, str) else self.content


class _Tool(msgspec.Struct):
    name: str
    type: str = "custom"
    description: str = ""
    input_schema: dict[str, object] = {}
    strict: bool | None = None
    cache_control: _Cache | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class _Thinking(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, object]


class _OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    user_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class _Counted(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What `count_tokens` takes."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[_Block] = ""
    tools: list[_Tool] = []
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    cache_control: _Cache | None = None


class _Asked(_Counted, forbid_unknown_fields=True, kw_only=True):
    max_tokens: Count
    stream: bool = False
    stop_sequences: list[Annotated[str, msgspec.Meta(min_length=1)]] = []
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    context_management: dict[str, object] | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_counted = msgspec.json.Decoder(_Counted).decode


def read_messages(body: bytes) -> tuple[ChatRequest, Directives]:
    """Raises InvalidRequest for anything that Anthropic refuses too, or for an unknown directive."""
    try:
        asked = _decode_asked(body)
        _check(asked)
        _check_thinking(asked, asked.max_tokens, asked.temperature)
        request = _chat_request(asked)
        request.stream = asked.stream
        request.stream_options = StreamOptions(include_usage=True)
        request.max_tokens = asked.max_tokens
        request.stop = list(asked.stop_sequences)
        return request, read_directives(request.last_user_text, request.model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error


def read_counted(body: bytes) -> ChatRequest:
    """What `count_tokens` was asked about. Raises InvalidRequest."""
    try:
        asked = _decode_counted(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error
    _check(asked)
    return _chat_request(asked)


def signature_of(thinking: str) -> str:
    """What proves that the thinking is ours."""
    return base64.b64encode(_mac(b"thinking|" + thinking.encode())).decode()


def redacted_data(thinking: str) -> str:
    """Thinking that only we can read again."""
    payload = hashlib.sha256(thinking.encode()).digest()
    return base64.b64encode(payload + _mac(b"redacted|" + payload)).decode()


def _is_our_data(data: str) -> bool:
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(raw[32:], _mac(b"redacted|" + raw[:32]))


def _mac(said: bytes) -> bytes:
    return hmac.digest(_SECRET, said, "sha256")


# Checks, in Anthropic's words


def _check(asked: _Counted) -> None:
    waiting: set[str] = set()  # calls of the message before, which need their results
    for at, message in enumerate(asked.messages):
        results = {block.tool_use_id for block in message.blocks if block.type == "tool_result"}
        if results - waiting:
            raise InvalidRequest(f"messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks")
        if waiting - results:
            raise InvalidRequest(f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks after")
        waiting = set()
        for of_message, block in enumerate(message.blocks):
            _check_block(block, f"messages.{at}.content.{of_message}", message.role)
            if block.type == "tool_use":
                waiting.add(block.id)
    if waiting:
        raise InvalidRequest("`tool_use` ids were found without `tool_result` blocks after")
    _check_tools(asked)


def _check_block(block: _Block, where: str, role: str) -> None:
    match block.type:
        case "text" if not block.text.strip():
            raise InvalidRequest(f"{where}: text content blocks must contain non-whitespace text")
        case "thinking" if block.signature != signature_of(block.thinking):
            raise InvalidRequest(f"{where}: Invalid `signature` in `thinking` block")
        case "redacted_thinking" if not _is_our_data(block.data):
            raise InvalidRequest(f"{where}: Invalid `data` in `redacted_thinking` block")
        case "tool_use" if role != "assistant" or not _ID.fullmatch(block.id) or block.input is None:
            raise InvalidRequest(f"{where}: not a valid `tool_use` block")
        case "tool_result" if role != "user":
            raise InvalidRequest(f"{where}: `tool_result` blocks can only be in `user` messages")
        case "image" | "document" if block.source is None:
            raise InvalidRequest(f"{where}.source: Field required")
        case "text" | "tool_use" | "tool_result" | "image" | "document" | "search_result":
            return
        case kind if kind in _THINKING and role == "assistant":
            return
        case kind:
            raise InvalidRequest(f"{where}: Input tag '{kind}' does not match any of the expected tags")


def _check_tools(asked: _Counted) -> None:
    names = [tool.name for tool in asked.tools]
    if len(set(names)) != len(names):
        raise InvalidRequest("tools: Tool names must be unique.")
    for at, tool in enumerate(asked.tools):
        is_known = tool.type == "custom" or tool.type.startswith(_CLIENT_TOOLS)
        if not _ID.fullmatch(tool.name) or not is_known:
            raise InvalidRequest(f"tools.{at}: not a valid tool")
        if tool.type == "custom" and tool.input_schema.get("type") != "object":
            raise InvalidRequest(f"tools.{at}.custom.input_schema.type: Field required")
    if asked.tool_choice is not None and not asked.tools:
        raise InvalidRequest("tool_choice may only be specified while providing tools")


def _check_thinking(asked: _Counted, max_tokens: int, temperature: float | None) -> None:
    thinking = asked.thinking
    if thinking is None or thinking.type == "disabled":
        return
    if thinking.type == "enabled":
        budget = thinking.budget_tokens
        if budget is None or budget < _BUDGET_TOKENS_MIN:
            raise InvalidRequest("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if budget >= max_tokens:
            raise InvalidRequest("`max_tokens` must be greater than `thinking.budget_tokens`")
    if temperature not in (None, 1):
        raise InvalidRequest("`temperature` may only be set to 1 when thinking is enabled")
    if asked.tool_choice is not None and asked.tool_choice.type in ("any", "tool"):
        raise InvalidRequest("Thinking may not be enabled when tool_choice forces tool use.")
    calling = next((message for message in reversed(asked.messages) if message.role == "assistant"), None)
    last = asked.messages[-1]
    is_under_way = calling is not None and any(block.type == "tool_result" for block in last.blocks)
    if calling is not None and is_under_way and calling.blocks[0].type not in _THINKING:
        raise InvalidRequest("Expected `thinking` or `redacted_thinking`, but found `tool_use`.")


# The same in the words of chat completions


def _chat_request(asked: _Counted) -> ChatRequest:
    system = [_Block("text", asked.system)] if isinstance(asked.system, str) else asked.system
    system_text = "\n\n".join(block.text for block in system)
    messages = [Message("system", system_text)] if system_text else []
    for message in asked.messages:
        messages += _said(message) if message.role == "assistant" else _heard(message)
    tools = [Tool("function", Function(tool.name, tool.description, tool.input_schema)) for tool in asked.tools]
    choice = asked.tool_choice
    output = asked.output_config or _OutputConfig()
    wanted = output.format
    return ChatRequest(
        model=asked.model,
        messages=messages,
        tools=tools or None,
        tool_choice=None if choice is None else _choice(choice),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        response_format=None if wanted is None else ResponseFormat("json_schema", JsonSchema("answer", wanted.schema)),
        reasoning_effort=_effort(asked.thinking, output.effort),
    )


def _said(message: _Message) -> Iterator[Message]:
    calls = [
        msgspec.Raw(
            msgspec.json.encode(
                {
                    "id": block.id,
                    "type": "function",
                    "function": {"name": block.name, "arguments": msgspec.json.encode(block.input).decode()},
                }
            )
        )
        for block in message.blocks
        if block.type == "tool_use"
    ]
    text = "\n\n".join(block.text for block in message.blocks if block.type == "text")
    yield Message("assistant", text, calls or None)


def _heard(message: _Message) -> Iterator[Message]:
    for block in message.blocks:
        if block.type == "tool_result":
            text = _text_of(block.content)
            yield Message("tool", f"Error: {text}" if block.is_error else text)
    parts = [part for block in message.blocks for part in _parts(block)]
    if parts:
        yield Message(message.role, parts)


def _parts(block: _Block) -> Iterator[Part]:
    if block.type == "text":
        yield Part("text", block.text)
    elif block.type in ("image", "document") and isinstance(block.source, _Source):
        source = block.source
        if source.type == "text":
            yield Part("text", source.data)
        elif source.type == "content":
            yield Part("text", _text_of(source.content))
        else:
            yield Part(block.type, image_url=ImageUrl(source.url or f"data:{source.media_type};base64,{source.data}"))
    elif block.type == "search_result":
        yield Part("text", _text_of(block.content))
    elif block.type == "tool_result" and not isinstance(block.content, str):
        for inner in block.content:
            if inner.type != "text":
                yield from _parts(inner)


def _text_of(content: str | Sequence[_Block]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(block.text for block in content if block.type == "text")


def _choice(choice: _ToolChoice) -> str | NamedTool:
    if choice.type == "tool":
        return NamedTool("function", NamedFunction(choice.name))
    return "required" if choice.type == "any" else choice.type


def _effort(thinking: _Thinking | None, effort: str | None) -> str | None:
    if thinking is None or thinking.type == "disabled":
        return None
    if thinking.budget_tokens is not None:
        return next((name for most, name in _EFFORT_OF_BUDGET if thinking.budget_tokens <= most), "high")
    return "xhigh" if effort == "max" else effort or "high"
