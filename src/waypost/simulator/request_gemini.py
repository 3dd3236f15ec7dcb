"""A generateContent request, read as strictly as Gemini reads it, into the one `ChatRequest` that answers come from.

An equal conversation gets the same words and tokens as at a provider of any other kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from waypost.kit.values import replace
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

_SECRET = b"the simulator signs its own thoughts"
_SKIPS_VALIDATION = "skip_thought_signature_validator"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_OWN_WORDS = frozenset(("args", "response", "properties", "parametersJsonSchema", "responseJsonSchema", "enum"))
_LEVELS = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
_EFFORT_OF_BUDGET = ((512, "minimal"), (1_024, "low"), (8_192, "medium"))


class _Blob(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    mime_type: str
    data: str


class _File(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    file_uri: str
    mime_type: str = ""


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    args: dict[str, object] = {}
    id: str = ""


class _ResultPart(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    inline_data: _Blob | None = None
    file_data: _File | None = None


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    response: dict[str, object] = {}
    id: str = ""
    parts: list[_ResultPart] = []


class _Part(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str | None = None
    thought: bool = False
    thought_signature: str = ""
    inline_data: _Blob | None = None
    file_data: _File | None = None
    function_call: _Call | None = None
    function_response: _Result | None = None


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[_Part]
    role: str = "user"


class _Declaration(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    description: str = ""
    parameters: dict[str, object] | None = None
    parameters_json_schema: dict[str, object] | None = None
    response: dict[str, object] | None = None
    response_json_schema: object = None


class _Tools(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    function_declarations: list[_Declaration] = []
    google_search: dict[str, object] | None = None
    code_execution: dict[str, object] | None = None
    url_context: dict[str, object] | None = None


class _Calling(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    mode: str = "AUTO"
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    function_calling_config: _Calling = _Calling()


class _Thinking(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    include_thoughts: bool = False
    thinking_budget: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    thinking_level: str = ""


class _Image(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    aspect_ratio: Literal["1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"] = "1:1"
    image_size: Literal["1K", "2K", "4K"] = "1K"


class _Generation(msgspec.Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    candidate_count: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    max_output_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop_sequences: Annotated[list[str], msgspec.Meta(max_length=5)] = []
    response_mime_type: str = ""
    response_schema: dict[str, object] | None = None
    response_json_schema: dict[str, object] | None = None
    response_logprobs: bool = False
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_modalities: list[str] = []
    image_config: _Image | None = None
    thinking_config: _Thinking | None = None
    media_resolution: str = ""


class _Safety(msgspec.Struct, forbid_unknown_fields=True):
    category: str
    threshold: str


class _Asked(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1)]
    system_instruction: _Content | None = None
    tools: list[_Tools] = []
    tool_config: _ToolConfig = _ToolConfig()
    safety_settings: list[_Safety] = []
    generation_config: _Generation = _Generation()


_decode_any = msgspec.json.Decoder().decode


def read_generate(model: str, body: bytes, *, is_stream: bool) -> tuple[ChatRequest, Directives]:
    """Raises InvalidRequest for anything that Gemini refuses too, or for an unknown directive."""
    try:
        asked = msgspec.convert(_in_one_spelling(_decode_any(body)), _Asked)
        _check(asked)
        request = _chat_request(model, asked)
        request.stream = is_stream
        directives = read_directives(request.last_user_text, model)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Invalid JSON payload received. {error}") from error
    thinking = asked.generation_config.thinking_config
    if thinking is None or not thinking.include_thoughts:
        directives = replace(directives, redacted=True)
    return request, directives


def read_counted(model: str, body: bytes) -> ChatRequest:
    """What `countTokens` was asked about. Raises InvalidRequest."""
    try:
        sent = _in_one_spelling(_decode_any(body))
        inner = sent.get("generateContentRequest", sent) if isinstance(sent, dict) else sent
        if isinstance(inner, dict):
            inner.pop("model", None)
        return _chat_request(model, msgspec.convert(inner, _Asked))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error


def thought_signature(thinking: str) -> str:
    """What proves that the thinking was ours, without it."""
    payload = hashlib.sha256(thinking.encode()).digest()
    return base64.b64encode(payload + _mac(payload)).decode()


def _is_ours(signature: str) -> bool:
    if signature == _SKIPS_VALIDATION:
        return True
    try:
        raw = base64.b64decode(signature, validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(raw[32:], _mac(raw[:32]))


def _mac(payload: bytes) -> bytes:
    return hmac.digest(_SECRET, payload, "sha256")


def _in_one_spelling(value: object) -> object:
    """`max_output_tokens` as `maxOutputTokens`, but for what is the caller's own."""
    if isinstance(value, list):
        return [_in_one_spelling(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    spelled: dict[str, object] = {}
    for sent, each in value.items():
        head, *rest = sent.split("_")
        name = head + "".join(word.capitalize() for word in rest)
        spelled[name] = each if name in _OWN_WORDS else _in_one_spelling(each)
    return spelled


# Checks, in Gemini's words


def _check(asked: _Asked) -> None:
    generation = asked.generation_config
    thinking = generation.thinking_config
    if thinking is not None and thinking.thinking_budget is not None and thinking.thinking_level:
        raise InvalidRequest("You can only set one of thinking budget and thinking level.")
    if (generation.response_schema or generation.response_json_schema) and not generation.response_mime_type:
        raise InvalidRequest("response_mime_type must be set with a response schema.")
    if generation.logprobs is not None and not generation.response_logprobs:
        raise InvalidRequest("Logprobs is only valid with response_logprobs.")
    names = [each.name for tools in asked.tools for each in tools.function_declarations]
    if len(set(names)) != len(names) or not all(map(_NAME.fullmatch, names)):
        raise InvalidRequest("Invalid or duplicate function name.")
    calls = 0  # of the content before, which need their results
    for at, content in enumerate(asked.contents):
        if content.role not in ("user", "model"):
            raise InvalidRequest("Please use a valid role: user, model.")
        if not content.parts:
            raise InvalidRequest(f"contents[{at}].parts must not be empty.")
        results = sum(part.function_response is not None for part in content.parts)
        if results != calls:
            raise InvalidRequest("The number of function response parts is not equal to that of function calls.")
        calls = sum(part.function_call is not None for part in content.parts)
        _check_signatures(content, at)


def _check_signatures(content: _Content, at: int) -> None:
    for part in content.parts:
        said = (part.text, part.inline_data, part.file_data, part.function_call, part.function_response)
        if sum(each is not None for each in said) != 1:
            raise InvalidRequest(f"contents[{at}].parts: required oneof field 'data' must have one initialized field")
        if part.thought_signature and not _is_ours(part.thought_signature):
            raise InvalidRequest("Corrupted thought signature.")
    first_call = next((part for part in content.parts if part.function_call is not None), None)
    if first_call is not None and not first_call.thought_signature:
        raise InvalidRequest("Function call is missing a thought_signature in functionCall parts.")


# The same in the words of chat completions


def _chat_request(model: str, asked: _Asked) -> ChatRequest:
    generation = asked.generation_config
    system = asked.system_instruction
    system_text = "\n\n".join(part.text or "" for part in system.parts) if system is not None else ""
    messages = [Message("system", system_text)] if system_text else []
    for content in asked.contents:
        messages += _said(content) if content.role == "model" else _heard(content)
    calling = asked.tool_config.function_calling_config
    named = calling.allowed_function_names
    tools = [
        Tool("function", Function(each.name, each.description, _lower(each.parameters_json_schema or each.parameters)))
        for tools in asked.tools
        for each in tools.function_declarations
        if not named or each.name in named
    ]
    return ChatRequest(
        model=model,
        messages=messages,
        stream_options=StreamOptions(include_usage=True),
        n=generation.candidate_count,
        max_tokens=generation.max_output_tokens,
        stop=generation.stop_sequences,
        tools=tools or None,
        tool_choice=_choice(calling) if tools else None,
        response_format=_format(generation),
        reasoning_effort=_effort(generation.thinking_config),
        logprobs=generation.response_logprobs,
        top_logprobs=generation.logprobs,
        images=1 if "IMAGE" in generation.response_modalities else 0,
    )


def _said(content: _Content) -> Iterator[Message]:
    calls = [
        msgspec.Raw(
            msgspec.json.encode(
                {
                    "id": part.function_call.id,
                    "type": "function",
                    "function": {
                        "name": part.function_call.name,
                        "arguments": msgspec.json.encode(part.function_call.args).decode(),
                    },
                }
            )
        )
        for part in content.parts
        if part.function_call is not None
    ]
    text = "\n\n".join(part.text for part in content.parts if part.text and not part.thought)
    yield Message("assistant", text, calls or None)


def _heard(content: _Content) -> Iterator[Message]:
    for part in content.parts:
        if part.function_response is not None:
            yield Message("tool", _result_text(part.function_response.response))
    parts = [heard for part in content.parts for heard in _parts(part)]
    if parts:
        yield Message("user", parts)


def _result_text(response: dict[str, object]) -> str:
    match response:
        case {"output": str(text), **rest} if not rest:
            return text
        case {"error": str(text), **rest} if not rest:
            return f"Error: {text}"
    return msgspec.json.encode(response).decode()


def _parts(part: _Part | _ResultPart) -> Iterator[Part]:
    if isinstance(part, _Part):
        if part.text:
            yield Part("text", part.text)
        for inner in part.function_response.parts if part.function_response is not None else ():
            yield from _parts(inner)
    if part.inline_data is not None:
        yield Part("image", image_url=ImageUrl(f"data:{part.inline_data.mime_type};base64,{part.inline_data.data}"))
    if part.file_data is not None:
        yield Part("image", image_url=ImageUrl(part.file_data.file_uri))


def _choice(calling: _Calling) -> str | NamedTool:
    match calling.mode:
        case "ANY" if len(calling.allowed_function_names) == 1:
            return NamedTool("function", NamedFunction(calling.allowed_function_names[0]))
        case "ANY":
            return "required"
        case "NONE":
            return "none"
        case "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED":
            return "auto"
    raise InvalidRequest("Invalid value at 'tool_config.function_calling_config.mode'")


def _format(generation: _Generation) -> ResponseFormat | None:
    schema = generation.response_json_schema or generation.response_schema
    if schema is not None:
        return ResponseFormat("json_schema", JsonSchema("answer", _lower(schema)))
    return ResponseFormat("json_object") if generation.response_mime_type == "application/json" else None


def _lower(schema: dict[str, object] | None) -> dict[str, object]:
    """Gemini's own schemas have their types in capitals."""
    lowered = _lowered(schema or {})
    assert isinstance(lowered, dict)
    return lowered


def _lowered(schema: object) -> object:
    if isinstance(schema, Mapping):
        return {
            name: each.lower() if name == "type" and isinstance(each, str) else _lowered(each)
            for name, each in schema.items()
        }
    return [_lowered(each) for each in schema] if isinstance(schema, list) else schema


def _effort(thinking: _Thinking | None) -> str | None:
    if thinking is None or thinking.thinking_budget == 0:
        return None
    if thinking.thinking_level:
        level = _LEVELS.get(thinking.thinking_level.upper())
        if level is None:
            raise InvalidRequest("Invalid value at 'generation_config.thinking_config.thinking_level'")
        return level
    if thinking.thinking_budget is None or thinking.thinking_budget < 0:
        return "low" if thinking.include_thoughts or thinking.thinking_budget else None
    return next((name for most, name in _EFFORT_OF_BUDGET if thinking.thinking_budget <= most), "high")
