"""Gemini generateContent, the caller's request as a conversation in nobody's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.conversation import (
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Reasoning,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.gemini_schema import json_schema_of
from waypost.wire.gemini_spelling import REQUEST
from waypost.wire.gemini_thought import unhide
from waypost.wire.request import ChatRequest, refuse_value

_JSON_TYPE = "application/json"
# Read elsewhere (money, streaming), or without any effect on an answer when nothing is stored.
_NOT_OF_THE_CONVERSATION = frozenset(("model", "labels", "store", "serviceTier", "cachedContent", "safetySettings"))
_ALLOWS_ALL = frozenset(("BLOCK_NONE", "OFF", "HARM_BLOCK_THRESHOLD_UNSPECIFIED"))
_LEVELS = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
_TEXT_TYPES = ("text/plain", _JSON_TYPE, "", "text/x.enum")


class _Blob(msgspec.Struct, rename="camel", gc=False):
    mime_type: str
    data: str
    display_name: str | None = None


class _File(msgspec.Struct, rename="camel", gc=False):
    file_uri: str
    mime_type: str | None = None
    display_name: str | None = None


class _FunctionCall(msgspec.Struct, gc=False):
    name: str
    id: str | None = None
    args: dict[str, object] | None = None


class _ResultPart(msgspec.Struct, rename="camel", gc=False):
    inline_data: _Blob | None = None
    file_data: _File | None = None


class _FunctionResponse(msgspec.Struct, gc=False):
    name: str
    id: str | None = None
    response: dict[str, object] | None = None
    parts: list[_ResultPart] | None = None


class _Part(msgspec.Struct, rename="camel", gc=False):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    inline_data: _Blob | None = None
    file_data: _File | None = None
    function_call: _FunctionCall | None = None
    function_response: _FunctionResponse | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | _Part | None = None
    role: str | None = None


class _Declaration(msgspec.Struct, rename="camel", gc=False):
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    parameters_json_schema: object = None


class _Tool(msgspec.Struct, rename="camel", gc=False):
    function_declarations: list[_Declaration] | None = None


class _FunctionCalling(msgspec.Struct, rename="camel", gc=False):
    mode: str | None = None
    allowed_function_names: list[str] | None = None


class _ToolConfig(msgspec.Struct, rename="camel", gc=False):
    function_calling_config: _FunctionCalling | None = None


class _ThinkingConfig(msgspec.Struct, rename="camel", gc=False):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class _Generation(msgspec.Struct, rename="camel", gc=False):
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop_sequences: list[str] | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, object] | None = None
    response_json_schema: object = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_modalities: list[str] | None = None
    thinking_config: _ThinkingConfig | None = None


class _SafetySetting(msgspec.Struct, gc=False):
    threshold: str | None = None


class _Asked(msgspec.Struct, rename="camel", gc=False):
    contents: list[_Content]
    system_instruction: _Content | str | None = None
    tools: list[_Tool] | None = None
    tool_config: _ToolConfig | None = None
    generation_config: _Generation | None = None
    safety_settings: list[_SafetySetting] | None = None


_KNOWN = frozenset(_Asked.__struct_encode_fields__) | _NOT_OF_THE_CONVERSATION
_KNOWN_GENERATION = frozenset(_Generation.__struct_encode_fields__)
_KNOWN_PARTS = frozenset(_Part.__struct_encode_fields__)
_NOTHING = _Generation()
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def converse(request: ChatRequest) -> Conversation:
    """The request as a conversation. Raises Refusal: 400 naming a part that makes no sense."""
    sent = REQUEST.respell(_decode_any(_encode(request.fields)))
    assert isinstance(sent, dict)
    try:
        asked = msgspec.convert(sent, _Asked)
    except msgspec.ValidationError as error:
        refuse_value(error)
    unknown = _unknown(sent, asked)
    generation = asked.generation_config or _NOTHING
    return Conversation(
        system=_system(asked.system_instruction),
        turns=_turns(asked.contents, request),
        tools=[_tool(each) for tool in asked.tools or () for each in tool.function_declarations or ()],
        tool_choice=_tool_choice(asked.tool_config),
        n=generation.candidate_count or 1,
        output_tokens_max=generation.max_output_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=None if generation.top_k is None else round(generation.top_k),
        presence_penalty=generation.presence_penalty,
        frequency_penalty=generation.frequency_penalty,
        seed=generation.seed,
        stop=generation.stop_sequences or (),
        output=_output(generation),
        reasoning=_reasoning(generation.thinking_config),
        logprobs=bool(generation.response_logprobs),
        top_logprobs=generation.logprobs,
        unknown=unknown,
    )


def _unknown(sent: Mapping[str, object], asked: _Asked) -> list[str]:
    """What is said and has no place in a conversation."""
    unknown = [name for name, value in sent.items() if name not in _KNOWN and value is not None]
    unknown += [
        f"generationConfig.{name}"
        for name, value in _items(sent.get("generationConfig"))
        if name not in _KNOWN_GENERATION and value is not None
    ]
    generation = asked.generation_config or _NOTHING
    if any(each.upper() != "TEXT" for each in generation.response_modalities or ()):
        unknown.append("generationConfig.responseModalities")
    if any((each.threshold or "").upper() not in _ALLOWS_ALL for each in asked.safety_settings or ()):
        unknown.append("safetySettings")
    tools = sent.get("tools")
    for at, tool in enumerate(tools if isinstance(tools, list) else ()):
        unknown += [f"tools[{at}].{name}" for name, _ in _items(tool) if name != "functionDeclarations"]
    unknown += [f"toolConfig.{name}" for name, _ in _items(sent.get("toolConfig")) if name != "functionCallingConfig"]
    contents = sent.get("contents")
    for at, content in enumerate(contents if isinstance(contents, list) else ()):
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else [parts]:
            unknown += [f"contents[{at}].parts.{name}" for name, _ in _items(part) if name not in _KNOWN_PARTS]
    return list(dict.fromkeys(unknown))


def _items(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _system(sent: _Content | str | None) -> list[Text]:
    if isinstance(sent, str):
        return [Text(sent)]
    return [Text(part.text) for part in _parts_of(sent) if part.text]


def _parts_of(content: _Content | None) -> Sequence[_Part]:
    if content is None or content.parts is None:
        return ()
    return [content.parts] if isinstance(content.parts, _Part) else content.parts


def _turns(contents: Sequence[_Content], request: ChatRequest) -> list[Turn]:
    turns: list[Turn] = []
    calls = _Calls()
    for at, content in enumerate(contents):
        where = f"contents[{at}]"
        match content.role or "user":
            case "user" | "function":
                role = "user"
            case "model":
                role = "assistant"
            case "system":
                role = "system"
            case _:
                raise invalid(f"{where}.role", f"'{where}.role' is neither user nor model.")
        parts: list[Part] = []
        for place, part in enumerate(_parts_of(content)):
            parts += _part(part, request, calls, f"{where}.parts[{place}]")
        turns.append(Turn(role, _joined(parts)))
    return turns


def _joined(parts: Sequence[Part]) -> list[Part]:
    """A stream's thoughts come in pieces, their signature last: together they are one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Thinking) and isinstance(last, Thinking) and last.signature is None:
            joined[-1] = Thinking(last.text + part.text, part.signature)
        else:
            joined.append(part)
    return joined


class _Calls:
    """Ids for calls that came without one. Results answer the calls of their name in the order of these."""

    def __init__(self) -> None:
        self._made = 0
        self._open: dict[str, list[str]] = {}  # ids by function, of calls without a result so far

    def called(self, sent: _FunctionCall) -> str:
        call_id = sent.id or f"call_{self._made}"
        self._made += 1
        self._open.setdefault(sent.name, []).append(call_id)
        return call_id

    def answered(self, sent: _FunctionResponse) -> str:
        waiting = self._open.get(sent.name, [])
        if sent.id:
            if sent.id in waiting:
                waiting.remove(sent.id)
            return sent.id
        return waiting.pop(0) if waiting else sent.name


def _part(part: _Part, request: ChatRequest, calls: _Calls, where: str) -> list[Part]:
    signature = request.around.open_sealed(part.thought_signature) if part.thought_signature else None
    if part.function_call is not None:
        call = part.function_call
        return [Call(calls.called(call), call.name, _encode(call.args or {}).decode(), signature)]
    if part.function_response is not None:
        return [_result(part.function_response, calls)]
    thinking = Thinking("") if signature is None else unhide(signature)
    if part.thought:
        return [Thinking(part.text or thinking.text, thinking.signature)]
    said: list[Part] = []
    if part.text:
        said.append(Text(part.text))
    elif part.inline_data is not None:
        said.append(_inline(part.inline_data))
    elif part.file_data is not None:
        said.append(_file(part.file_data))
    elif part.text is None:
        raise invalid(where, f"'{where}' is not a text, data, file or function part that this model can be given.")
    if signature is not None:
        said.append(thinking)  # which was not shown
    return said


def _inline(blob: _Blob) -> Media:
    return Media(_kind_of(blob.mime_type), blob.mime_type, blob.data, title=blob.display_name or "")


def _file(file: _File) -> Media:
    media_type = file.mime_type or ""
    return Media(_kind_of(media_type), media_type, url=file.file_uri, title=file.display_name or "")


def _kind_of(media_type: str) -> str:
    kind = media_type.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "document"


def _result(sent: _FunctionResponse, calls: _Calls) -> Result:
    """`{"output": "…"}` and `{"error": "…"}` are the format's own wrapping of text; anything else is its JSON."""
    response = sent.response or {}
    parts: list[Text | Media] = []
    is_error = False
    match response:
        case {"output": str(text), **rest} if not rest:
            parts.append(Text(text))
        case {"error": str(text), **rest} if not rest:
            parts.append(Text(text))
            is_error = True
        case _ if response or not sent.parts:
            parts.append(Text(_encode(response).decode()))
    for part in sent.parts or ():
        if part.inline_data is not None:
            parts.append(_inline(part.inline_data))
        elif part.file_data is not None:
            parts.append(_file(part.file_data))
    return Result(calls.answered(sent), parts, is_error, sent.name)


def _tool(sent: _Declaration) -> Tool:
    schema = sent.parameters_json_schema
    if schema is None and sent.parameters is not None:
        schema = json_schema_of(sent.parameters)
    return Tool(sent.name, sent.description or "", "" if schema is None else _encode(schema).decode())


def _tool_choice(sent: _ToolConfig | None) -> ToolChoice | None:
    config = None if sent is None else sent.function_calling_config
    if config is None:
        return None
    names = config.allowed_function_names or ()
    match (config.mode or "AUTO").upper():
        case "ANY":
            return ToolChoice("tool" if len(names) == 1 else "required", names)
        case "NONE":
            return ToolChoice("none")
        case "AUTO" | "VALIDATED" | "MODE_UNSPECIFIED":
            return ToolChoice("auto", names)
    known = "AUTO, ANY, NONE and VALIDATED"
    raise invalid(
        "toolConfig.functionCallingConfig.mode", f"'toolConfig.functionCallingConfig.mode' is none of {known}."
    )


def _output(sent: _Generation) -> JsonOutput | None:
    media_type = sent.response_mime_type or ""
    if media_type not in _TEXT_TYPES:
        name = "generationConfig.responseMimeType"
        raise invalid(name, f"'{name}' is neither text/plain nor application/json.")
    schema = sent.response_json_schema
    if schema is None and sent.response_schema is not None:
        schema = json_schema_of(sent.response_schema)
    if schema is not None:
        return JsonOutput(_encode(schema).decode())
    return JsonOutput() if media_type == _JSON_TYPE else None


def _reasoning(sent: _ThinkingConfig | None) -> Reasoning | None:
    if sent is None:
        return None
    shows = sent.include_thoughts is True
    if sent.thinking_level is not None:
        level = sent.thinking_level.upper()
        if level in _LEVELS:
            return Reasoning(effort=_LEVELS[level], shows=shows)
        name = "generationConfig.thinkingConfig.thinkingLevel"
        raise invalid(name, f"'{name}' is none of {', '.join(_LEVELS)}.")
    budget = sent.thinking_budget
    if budget is None or budget < 0:
        return Reasoning(is_adaptive=True, shows=shows)  # −1 is the format's word for it
    return Reasoning(budget_tokens=budget, shows=shows) if budget else Reasoning(effort="none", shows=shows)
