"""OpenAI chat completions, read as a conversation: for providers that speak another format.

Fields: https://platform.openai.com/docs/api-reference/chat/create, and three that its relatives added and callers use:
`cache_control` on a part (Anthropic's words), `reasoning_content` and `reasoning_details` on an assistant's message.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.conversation import (
    CacheMark,
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.media_type import split_data_url
from waypost.wire.request import ChatRequest, refuse_value

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# Read elsewhere (routing, streaming, money), or without any effect on an answer when nothing is stored.
_NOT_OF_THE_CONVERSATION = frozenset(
    ("model", "models", "provider", "stream", "stream_options", "store", "metadata", "prompt_cache_key", "usage")
)
_AUDIO_TYPES = {"mp3": "audio/mpeg", "pcm16": "audio/pcm"}  # the others are called as their format


class _CacheControl(msgspec.Struct, gc=False):
    type: str = "ephemeral"
    ttl: str = "5m"


class _ImageUrl(msgspec.Struct, gc=False):
    url: str
    detail: str = ""


class _InputAudio(msgspec.Struct, gc=False):
    data: str
    format: str = "wav"


class _File(msgspec.Struct, gc=False):
    file_data: str = ""
    filename: str = ""
    file_id: str = ""


class _Part(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: _ImageUrl | str | None = None
    input_audio: _InputAudio | None = None
    file: _File | None = None
    cache_control: _CacheControl | None = None


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function
    id: str = ""


class _ReasoningDetail(msgspec.Struct, gc=False):
    type: str = "reasoning.text"
    text: str = ""
    signature: str = ""
    data: str = ""


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[_ReasoningDetail] | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    audio: msgspec.Raw = msgspec.Raw(b"")
    cache_control: _CacheControl | None = None


class _FunctionTool(msgspec.Struct, gc=False):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None


class _Tool(msgspec.Struct, gc=False):
    type: str = "function"
    function: _FunctionTool | None = None
    cache_control: _CacheControl | None = None


class _Named(msgspec.Struct, gc=False):
    name: str = ""


class _AllowedTools(msgspec.Struct, gc=False):
    mode: str = "auto"
    tools: list[_Tool] = []


class _ToolChoice(msgspec.Struct, gc=False):
    type: str = "function"
    function: _Named | None = None
    allowed_tools: _AllowedTools | None = None
    name: str = ""  # of the legacy `function_call`


class _JsonSchema(msgspec.Struct, gc=False):
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct, gc=False):
    type: str
    json_schema: _JsonSchema | None = None


class _Asked(msgspec.Struct, gc=False):
    """The fields that have a place in a conversation."""

    messages: list[_Message]
    tools: list[_Tool] | None = None
    functions: list[_FunctionTool] | None = None
    tool_choice: str | _ToolChoice | None = None
    function_call: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    verbosity: str | None = None


_KNOWN = frozenset(_Asked.__struct_fields__) | _NOT_OF_THE_CONVERSATION
_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode


def converse(request: ChatRequest) -> Conversation:
    """The request as a conversation. Raises Refusal: 400 naming a part that makes no sense."""
    try:
        asked = _decode(_encode(request.fields))
    except msgspec.ValidationError as error:
        refuse_value(error)
    unknown = [name for name in request.fields if name not in _KNOWN and bytes(request.fields[name]) != b"null"]
    system, turns = _turns(asked.messages, request, unknown)
    return Conversation(
        system=system,
        turns=turns,
        tools=_tools(asked, unknown),
        tool_choice=_tool_choice(asked),
        is_parallel=asked.parallel_tool_calls,
        n=asked.n or 1,
        output_tokens_max=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        seed=asked.seed,
        stop=[asked.stop] if isinstance(asked.stop, str) else asked.stop or (),
        output=_output(asked.response_format),
        reasoning=_reasoning(asked.reasoning_effort),
        logprobs=bool(asked.logprobs),
        top_logprobs=asked.top_logprobs,
        user=asked.safety_identifier or asked.user or "",
        service_tier=asked.service_tier or "",
        verbosity=asked.verbosity or "",
        unknown=unknown,
    )


def _turns(messages: Sequence[_Message], request: ChatRequest, unknown: list[str]) -> tuple[list[Text], list[Turn]]:
    system: list[Text] = []
    turns: list[Turn] = []
    names: dict[str, str] = {}  # of functions, by the id of the call
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if len(message.audio) and bytes(message.audio) != b"null":
            unknown.append(f"{where}.audio")
        match message.role:
            case "system" | "developer":
                parts = [part for part in _parts(message, where) if isinstance(part, Text)]
                if turns:
                    turns.append(Turn("system", parts))
                else:
                    system += parts
            case "user":
                turns.append(Turn("user", _parts(message, where), message.name or ""))
            case "assistant":
                parts_said = _said(message, request, where, names)
                turns.append(Turn("assistant", parts_said, message.name or ""))
            case "tool" | "function":
                call_id = message.tool_call_id or message.name or ""
                if not call_id:
                    raise invalid(f"{where}.tool_call_id", f"'{where}.tool_call_id' is missing.")
                given = [part for part in _parts(message, where) if isinstance(part, Text | Media)]
                result = Result(call_id, given, name=names.get(call_id, message.name or ""), cache=_mark(message))
                _add_result(turns, result)
            case _:
                known = "system, developer, user, assistant and tool"
                raise invalid(f"{where}.role", f"'{where}.role' is none of {known}.")
    return system, turns


def _add_result(turns: list[Turn], result: Result) -> None:
    """Results of calls made at once belong into one turn."""
    last = turns[-1] if turns else None
    if last is not None and last.role == "user" and last.parts and isinstance(last.parts[-1], Result):
        last.parts = [*last.parts, result]
    else:
        turns.append(Turn("user", [result]))


def _parts(message: _Message, where: str) -> list[Part]:
    content = message.content
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content, _mark(message))] if content else []
    return [_part(part, f"{where}.content[{at}]") for at, part in enumerate(content)]


def _part(part: _Part, where: str) -> Part:
    cache = _mark(part)
    match part.type:
        case "text" | "input_text":
            return Text(part.text, cache)
        case "refusal":
            return Refused(part.refusal)
        case "image_url" if part.image_url is not None:
            sent = _ImageUrl(part.image_url) if isinstance(part.image_url, str) else part.image_url
            media_type, data = split_data_url(sent.url)
            url = "" if data else sent.url
            return Media("image", media_type, data, url, detail=sent.detail, cache=cache)
        case "input_audio" if part.input_audio is not None:
            media_type = _AUDIO_TYPES.get(part.input_audio.format, f"audio/{part.input_audio.format}")
            return Media("audio", media_type, part.input_audio.data, cache=cache)
        case "file" if part.file is not None and part.file.file_data:
            media_type, data = split_data_url(part.file.file_data)
            data, media_type = data or part.file.file_data, media_type or "application/pdf"
            return Media("document", media_type, data, title=part.file.filename, cache=cache)
    raise invalid(where, f"'{where}' is not a text, image, audio or file part that this model can be given.")


def _said(message: _Message, request: ChatRequest, where: str, names: dict[str, str]) -> list[Part]:
    """An assistant's message: reasoning first, then text, then calls."""
    parts: list[Part] = _thinking(message, request)
    parts += _parts(message, where)
    if message.refusal:
        parts.append(Refused(message.refusal))
    for call in message.tool_calls or ():
        names[call.id] = call.function.name
        parts.append(Call(call.id, call.function.name, call.function.arguments or "{}"))
    if message.function_call is not None:
        # The legacy form has no ids: its result names the function.
        name = message.function_call.name
        names[name] = name
        parts.append(Call(name, name, message.function_call.arguments or "{}"))
    return parts


def _thinking(message: _Message, request: ChatRequest) -> list[Part]:
    if message.reasoning_details:
        open_sealed = request.around.open_sealed
        return [
            Thinking(each.text, open_sealed(each.signature or each.data) if each.signature or each.data else None)
            for each in message.reasoning_details
        ]
    return [Thinking(message.reasoning_content)] if message.reasoning_content else []


def _mark(carrier: _Message | _Part | _Tool) -> CacheMark | None:
    return None if carrier.cache_control is None else CacheMark(carrier.cache_control.ttl)


def _tools(asked: _Asked, unknown: list[str]) -> list[Tool]:
    tools: list[Tool] = []
    for at, tool in enumerate(asked.tools or ()):
        if tool.function is None:
            unknown.append(f"tools[{at}]")
        else:
            tools.append(_tool(tool.function, _mark(tool)))
    tools += [_tool(function, None) for function in asked.functions or ()]
    return tools


def _tool(function: _FunctionTool, cache: CacheMark | None) -> Tool:
    parameters = bytes(function.parameters).decode()
    return Tool(
        function.name,
        function.description or "",
        "" if parameters == "null" else parameters,
        function.strict,
        cache,
    )


def _tool_choice(asked: _Asked) -> ToolChoice | None:
    choice = asked.tool_choice if asked.tool_choice is not None else asked.function_call
    if choice is None:
        return None
    if isinstance(choice, str):
        return ToolChoice(choice)
    if choice.allowed_tools is not None:
        names = [tool.function.name for tool in choice.allowed_tools.tools if tool.function is not None]
        return ToolChoice("required" if choice.allowed_tools.mode == "required" else "auto", names)
    return ToolChoice("tool", [choice.function.name if choice.function is not None else choice.name])


def _output(sent: _ResponseFormat | None) -> JsonOutput | None:
    if sent is None or sent.type == "text":
        return None
    if sent.json_schema is None:
        return JsonOutput()
    schema = sent.json_schema
    return JsonOutput(bytes(schema.schema).decode(), schema.name, schema.description or "", schema.strict)


def _reasoning(effort: str | None) -> Reasoning | None:
    if effort is None:
        return None
    if effort not in EFFORTS:
        raise invalid("reasoning_effort", f"'reasoning_effort' is none of {', '.join(EFFORTS)}.")
    return Reasoning(effort=effort)
