"""OpenAI Responses, read as a conversation: for providers that speak another format.

Fields: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.wire.canonical import Citation, Signature
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
from waypost.wire.openai_chat_conversation import EFFORTS
from waypost.wire.openai_responses import LOGPROBS
from waypost.wire.request import ChatRequest, refuse_value

OF_CALL = "#call"
"""Ends the origin of a signature that belongs to the call after it, not to reasoning: a call has no field for one."""

# Read elsewhere (routing, streaming, money), or without any effect on an answer when nothing is stored.
_NOT_OF_THE_CONVERSATION = frozenset(
    (
        *("model", "models", "provider", "stream", "stream_options", "store", "background", "metadata"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "max_tool_calls", "usage"),
    )
)
# "30m" is a minimum that five minutes would not keep.
_TTL = "1h"


class _Breakpoint(msgspec.Struct, gc=False):
    mode: str = "explicit"


class _InputAudio(msgspec.Struct, gc=False):
    data: str
    format: str = "wav"


class _Annotation(msgspec.Struct, gc=False):
    type: str = ""
    url: str = ""
    title: str = ""
    start_index: int = -1
    end_index: int = -1


class _Part(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    input_audio: _InputAudio | None = None
    annotations: list[_Annotation] | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    role: str = ""
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""
    output: str | list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None


class _Tool(msgspec.Struct, gc=False):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None


class _Named(msgspec.Struct, gc=False):
    type: str = "function"
    name: str = ""


class _ToolChoice(msgspec.Struct, gc=False):
    type: str
    name: str = ""
    mode: str = "auto"
    tools: list[_Named] = []


class _TextFormat(msgspec.Struct, gc=False):
    type: str
    name: str = ""
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None


class _Text(msgspec.Struct, gc=False):
    format: _TextFormat | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct, gc=False):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class _Asked(msgspec.Struct, gc=False):
    """The fields that have a place in a conversation."""

    input: str | list[_Item]
    instructions: str | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    truncation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None


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
    if asked.truncation == "auto":
        unknown.append("truncation")
    if asked.reasoning is not None:
        unknown += [f"reasoning.{name}" for name in ("context", "mode") if getattr(asked.reasoning, name) is not None]
    system, turns = _Reader(request).read(asked.input)
    if asked.instructions:
        system = [Text(asked.instructions), *system]
    text = asked.text or _Text()
    return Conversation(
        system=system,
        turns=turns,
        tools=[_tool(tool) for tool in asked.tools or ()],
        tool_choice=_tool_choice(asked.tool_choice),
        is_parallel=asked.parallel_tool_calls,
        output_tokens_max=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        output=_output(text.format),
        reasoning=_reasoning(asked.reasoning),
        logprobs=LOGPROBS in (asked.include or ()),
        top_logprobs=asked.top_logprobs or None,
        user=asked.safety_identifier or asked.user or "",
        service_tier=asked.service_tier or "",
        verbosity=text.verbosity or "",
        unknown=unknown,
    )


class _Reader:
    """Puts items together into turns: what an assistant said and called at once are several items here."""

    def __init__(self, request: ChatRequest) -> None:
        self._open_sealed = request.around.open_sealed
        self._system: list[Text] = []
        self._turns: list[Turn] = []
        self._names: dict[str, str] = {}  # of functions, by the id of the call
        self._call_signature: Signature | None = None

    def read(self, sent: str | Sequence[_Item]) -> tuple[list[Text], list[Turn]]:
        if isinstance(sent, str):
            return [], [Turn("user", [Text(sent)])]
        for at, item in enumerate(sent):
            self._read_item(item, f"input[{at}]")
        return self._system, self._turns

    def _read_item(self, item: _Item, where: str) -> None:
        match item.type or "message":
            case "message":
                self._read_message(item, where)
            case "reasoning":
                self._read_reasoning(item)
            case "function_call":
                if not item.call_id or not item.name:
                    missing = "name" if item.call_id else "call_id"
                    raise invalid(f"{where}.{missing}", f"'{where}.{missing}' is missing.")
                self._names[item.call_id] = item.name
                signature, self._call_signature = self._call_signature, None
                self._add("assistant", [Call(item.call_id, item.name, item.arguments or "{}", signature)])
            case _:
                if not item.call_id:
                    raise invalid(f"{where}.call_id", f"'{where}.call_id' is missing.")
                given = [part for part in _parts(item.output, f"{where}.output") if isinstance(part, Text | Media)]
                self._add("user", [Result(item.call_id, given, name=self._names.get(item.call_id, ""))], joins=Result)

    def _read_message(self, item: _Item, where: str) -> None:
        parts = _parts(item.content, f"{where}.content")
        match item.role:
            case "system" | "developer":
                texts = [part for part in parts if isinstance(part, Text)]
                if self._turns:
                    self._turns.append(Turn("system", texts))
                else:
                    self._system += texts
            case "user":
                self._turns.append(Turn("user", parts))
            case "assistant":
                self._add("assistant", parts)
            case _:
                raise invalid(f"{where}.role", f"'{where}.role' is none of system, developer, user and assistant.")

    def _read_reasoning(self, item: _Item) -> None:
        signature = self._open_sealed(item.encrypted_content) if item.encrypted_content else None
        shown = [part.text for part in item.summary or ()]
        if not shown and isinstance(item.content, list):
            shown = [part.text for part in item.content]
        text = "\n\n".join(shown)
        if signature is not None and signature.origin.endswith(OF_CALL):
            self._call_signature = Signature(signature.origin.removesuffix(OF_CALL), signature.value)
        elif text or signature is not None:
            self._add("assistant", [Thinking(text, signature)])

    def _add(self, role: str, parts: list[Part], joins: type[Result] | None = None) -> None:
        """To the turn under way, where it goes on: any of an assistant's, and results of calls made at once."""
        last = self._turns[-1] if self._turns else None
        if (
            last is not None
            and last.role == role
            and (joins is None or (last.parts and isinstance(last.parts[-1], joins)))
        ):
            last.parts = [*last.parts, *parts]
        else:
            self._turns.append(Turn(role, parts))


def _parts(content: str | list[_Part] | None, where: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_part(part, f"{where}[{at}]") for at, part in enumerate(content)]


def _part(part: _Part, where: str) -> Part:
    cache = None if part.prompt_cache_breakpoint is None else CacheMark(_TTL)
    if part.file_id:
        raise Refusal(
            ErrorCode.FILE_NOT_FOUND,
            f"'{where}.file_id' names a file, and none are stored here: send its data or its URL.",
            param=f"{where}.file_id",
        )
    match part.type:
        case "input_text" | "output_text" | "text":
            return Text(part.text, cache, _citations(part))
        case "refusal":
            return Refused(part.refusal)
        case "input_image" if part.image_url:
            media_type, data = split_data_url(part.image_url)
            detail = part.detail if part.detail in ("low", "high") else ""
            return Media("image", media_type, data, "" if data else part.image_url, detail=detail, cache=cache)
        case "input_file" if part.file_data:
            media_type, data = split_data_url(part.file_data)
            data, media_type = data or part.file_data, media_type or "application/pdf"
            return Media("document", media_type, data, title=part.filename or "", cache=cache)
        case "input_file" if part.file_url:
            return Media("document", url=part.file_url, title=part.filename or "", cache=cache)
        case "input_audio" if part.input_audio is not None:
            media_type = "audio/mpeg" if part.input_audio.format == "mp3" else f"audio/{part.input_audio.format}"
            return Media("audio", media_type, part.input_audio.data, cache=cache)
    raise invalid(where, f"'{where}' is not a text, image, audio or file part that this model can be given.")


def _citations(part: _Part) -> Sequence[Citation]:
    if not part.annotations:
        return ()
    return [
        Citation("web_search_result_location", "", each.url, each.title, 0, 0, 0, each.start_index, each.end_index)
        for each in part.annotations
        if each.type == "url_citation"
    ]


def _tool(tool: _Tool) -> Tool:
    parameters = bytes(tool.parameters).decode()
    return Tool(tool.name, tool.description or "", "" if parameters == "null" else parameters, tool.strict)


def _tool_choice(sent: str | _ToolChoice | None) -> ToolChoice | None:
    if sent is None:
        return None
    if isinstance(sent, str):
        return ToolChoice(sent)
    if sent.type == "allowed_tools":
        names = [tool.name for tool in sent.tools if tool.type == "function"]
        return ToolChoice("required" if sent.mode == "required" else "auto", names)
    return ToolChoice("tool", [sent.name])


def _output(sent: _TextFormat | None) -> JsonOutput | None:
    if sent is None or sent.type == "text":
        return None
    if sent.type == "json_object":
        return JsonOutput()
    if sent.type != "json_schema":
        raise invalid("text.format.type", "'text.format.type' is none of text, json_object and json_schema.")
    return JsonOutput(bytes(sent.schema).decode(), sent.name, sent.description or "", sent.strict)


def _reasoning(sent: _Reasoning | None) -> Reasoning | None:
    if sent is None:
        return None
    shows = (sent.summary or sent.generate_summary) is not None
    if sent.effort is None:
        return Reasoning(is_adaptive=True, shows=True) if shows else None
    if sent.effort not in EFFORTS:
        raise invalid("reasoning.effort", f"'reasoning.effort' is none of {', '.join(EFFORTS)}.")
    return Reasoning(effort=sent.effort, shows=shows)
