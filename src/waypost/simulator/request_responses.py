"""An OpenAI Responses request, read as strictly as OpenAI reads it, into the one `ChatRequest` that answers are made
from.

An equal conversation gets the same words and tokens as at a provider of any other kind. What would need storage is
refused, and so is encrypted reasoning of anybody else.
"""

from __future__ import annotations

import hashlib
import hmac
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

_SECRET = b"the simulator encrypts its own reasoning"
_TEXT_AT = len("gAAAAAB") + 64  # in encrypted content
_LOGPROBS = "message.output_text.logprobs"
_NEEDS_CALL = "No tool call found for function call output"


class _Part(msgspec.Struct):
    type: Literal["input_text", "output_text", "input_image", "input_file", "refusal", "summary_text"]
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    filename: str | None = None
    file_data: str | None = None
    file_url: str | None = None


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    status: str | None = None
    content: str | list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str | list[_Part] = ""
    summary: list[_Part] | None = None
    encrypted_content: str | None = None


class _Tool(msgspec.Struct):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class _NamedTool(msgspec.Struct):
    type: Literal["function", "allowed_tools"]
    name: str = ""
    mode: Literal["auto", "required"] = "auto"
    tools: list[dict[str, str]] = []


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema: dict[str, object] = {}
    strict: bool | None = None
    description: str | None = None


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    format: _Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | Annotated[list[_Item], msgspec.Meta(min_length=1)]
    store: bool = True
    instructions: str | None = None
    stream: bool | None = None
    stream_options: dict[str, bool] | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode


def encrypted(owner: str, text: str) -> str:
    """Reasoning as only the provider `owner` can read it."""
    return "gAAAAAB" + hmac.new(_SECRET, f"{owner}|{text}".encode(), hashlib.sha256).hexdigest() + text.encode().hex()


def read_response(owner: str, body: bytes) -> tuple[ChatRequest, Directives]:
    """Raises InvalidRequest for anything that is not such a request, or for an unknown directive."""
    try:
        asked = _decode_asked(body)
        request = _chat_request(asked, owner)
        return request, read_directives(request.last_user_text, request.model)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error


def _chat_request(asked: _Asked, owner: str) -> ChatRequest:
    if asked.store:
        raise InvalidRequest("This organization has zero data retention: 'store' must be false.")
    choice, tools = asked.tool_choice, [_tool(tool) for tool in asked.tools or ()]
    allowed = choice if isinstance(choice, _NamedTool) and choice.type == "allowed_tools" else None
    if allowed is not None:
        names = [tool["name"] for tool in allowed.tools]
        tools = [tool for tool in tools if tool.function is not None and tool.function.name in names]
    return ChatRequest(
        model=asked.model,
        messages=_messages(asked, owner),
        stream=asked.stream,
        stream_options=StreamOptions(include_usage=True),
        max_completion_tokens=asked.max_output_tokens,
        tools=tools or None,
        tool_choice=_choice(choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_response_format(asked.text),
        reasoning_effort=None if asked.reasoning is None else asked.reasoning.effort,
        logprobs=_LOGPROBS in (asked.include or ()),
        top_logprobs=asked.top_logprobs,
    )


def _choice(sent: str | _NamedTool | None) -> str | NamedTool | None:
    if not isinstance(sent, _NamedTool):
        return sent
    return sent.mode if sent.type == "allowed_tools" else NamedTool("function", NamedFunction(sent.name))


def _tool(tool: _Tool) -> Tool:
    return Tool("function", Function(tool.name, tool.description or "", tool.parameters or {}))


def _response_format(text: _Text | None) -> ResponseFormat | None:
    if text is None or text.format is None or text.format.type == "text":
        return None
    schema = JsonSchema(text.format.name, text.format.schema) if text.format.type == "json_schema" else None
    return ResponseFormat(text.format.type, schema)


def _messages(asked: _Asked, owner: str) -> list[Message]:
    """Items as messages: what an assistant says and calls in a row is one of them."""
    messages = [Message("system", asked.instructions)] if asked.instructions else []
    if isinstance(asked.input, str):
        return [*messages, Message("user", asked.input)]
    called: set[str] = set()
    for item in asked.input:
        match item.type:
            case "reasoning":
                _check_reasoning(item, owner)
            case "function_call":
                called.add(item.call_id)
                function = {"name": item.name, "arguments": item.arguments}
                call = msgspec.Raw(msgspec.json.encode({"id": item.call_id, "type": "function", "function": function}))
                said = _assistant(messages)
                said.tool_calls = [*(said.tool_calls or ()), call]
            case "function_call_output":
                if item.call_id not in called:
                    raise InvalidRequest(f"{_NEEDS_CALL} with call_id {item.call_id}.")
                messages.append(Message("tool", _content(item.output)))
            case "message" if item.role == "assistant":
                said = _assistant(messages)
                said.content = said.text + Message("assistant", _content(item.content or "")).text
            case _:
                role = "system" if item.role == "developer" else item.role or "user"
                messages.append(Message(role, _content(item.content or "")))
    return messages


def _assistant(messages: list[Message]) -> Message:
    if not messages or messages[-1].role != "assistant":
        messages.append(Message("assistant"))
    return messages[-1]


def _check_reasoning(item: _Item, owner: str) -> None:
    if item.encrypted_content is None:
        raise InvalidRequest("A reasoning item without its encrypted content was not persisted: 'store' is false.")
    try:
        text = bytes.fromhex(item.encrypted_content[_TEXT_AT:]).decode()
    except ValueError:
        text = ""
    if item.encrypted_content != encrypted(owner, text):
        raise InvalidRequest("The encrypted content could not be verified.")


def _content(sent: str | list[_Part]) -> str | list[Part]:
    if isinstance(sent, str):
        return sent
    return [
        Part(
            "text",
            text=part.text,
            refusal=part.refusal,
            image_url=None if part.image_url is None else ImageUrl(part.image_url, part.detail or "auto"),
        )
        for part in sent
    ]
