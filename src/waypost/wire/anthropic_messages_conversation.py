"""Anthropic Messages, read as a conversation: for providers that speak another format."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.anthropic_messages_citations import citations_of
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    CacheMark,
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
from waypost.wire.request import ChatRequest, refuse_value

CALL_SIGNED = "call|"
"""Before the origin of a signature that belongs to a call. This format has no place for one, so it stands in a
`redacted_thinking` block before the call, and is told apart by this when it comes back."""

# Read elsewhere (routing, streaming, money), or without a meaning where one price list counts for all.
_NOT_OF_THE_CONVERSATION = frozenset(("model", "stream", "service_tier", "speed"))
_CHOICES = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}


class CacheControl(msgspec.Struct, gc=False):
    type: str = "ephemeral"
    ttl: str = "5m"


class _Source(msgspec.Struct, gc=False):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: str | list[_Block] = ""


class _Enabled(msgspec.Struct, gc=False):
    enabled: bool = False


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    citations: msgspec.Raw = msgspec.Raw(b"")  # of a text a list, of a document a switch
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: str = ""
    content: str | list[_Block] | None = None
    is_error: bool | None = None
    source: _Source | str | None = None
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct, gc=False):
    name: str
    type: str | None = None
    description: str = ""
    input_schema: msgspec.Raw = msgspec.Raw(b"")
    strict: bool | None = None
    cache_control: CacheControl | None = None


class _ToolChoice(msgspec.Struct, gc=False):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct, gc=False):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _Format(msgspec.Struct, gc=False):
    type: str
    schema: msgspec.Raw = msgspec.Raw(b"")


class _OutputConfig(msgspec.Struct, gc=False):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct, gc=False):
    user_id: str | None = None


class _Asked(msgspec.Struct, gc=False):
    """The fields that have a place in a conversation."""

    messages: list[_Message]
    system: str | list[_Block] | None = None
    max_tokens: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None  # the name that it had before
    metadata: _Metadata | None = None
    cache_control: CacheControl | None = None


_KNOWN = frozenset(_Asked.__struct_fields__) | _NOT_OF_THE_CONVERSATION
_decode = msgspec.json.Decoder(_Asked).decode
_decode_switch = msgspec.json.Decoder(_Enabled | None).decode
_encode = msgspec.json.Encoder().encode


def converse(request: ChatRequest) -> Conversation:
    """The request as a conversation. Raises Refusal: 400 naming a part that makes no sense."""
    try:
        asked = _decode(_encode(request.fields))
    except msgspec.ValidationError as error:
        refuse_value(error)
    reader = _Reader(request)
    reader.unknown += [name for name in request.fields if name not in _KNOWN and bytes(request.fields[name]) != b"null"]
    turns = [reader.turn(message, f"messages[{at}]") for at, message in enumerate(asked.messages)]
    if asked.cache_control is not None and turns:
        _mark_last(turns[-1], CacheMark(asked.cache_control.ttl))
    choice = asked.tool_choice
    return Conversation(
        system=_system(asked.system),
        turns=turns,
        tools=list(reader.tools(asked.tools or ())),
        tool_choice=None if choice is None else _tool_choice(choice),
        is_parallel=None if choice is None or choice.disable_parallel_tool_use is not True else False,
        output_tokens_max=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=asked.stop_sequences or (),
        output=_output(asked),
        reasoning=_reasoning(asked),
        user="" if asked.metadata is None else asked.metadata.user_id or "",
        unknown=reader.unknown,
    )


class _Reader:
    """What is read of one request: the names of functions by call, and the parts that have no place."""

    def __init__(self, request: ChatRequest) -> None:
        self._open_sealed = request.around.open_sealed
        self._names: dict[str, str] = {}
        self.unknown: list[str] = []

    def turn(self, message: _Message, where: str) -> Turn:
        if isinstance(message.content, str):
            return Turn(message.role, [Text(message.content)] if message.content else [])
        parts: list[Part] = []
        signature: Signature | None = None  # of the call that follows
        for at, block in enumerate(message.content):
            here = f"{where}.content[{at}]"
            if block.type == "redacted_thinking":
                opened = self._open_sealed(block.data)
                if opened is not None and opened.origin.startswith(CALL_SIGNED):
                    signature = Signature(opened.origin.removeprefix(CALL_SIGNED), opened.value)
                    continue
                parts.append(Thinking("", opened))
            elif block.type == "tool_use":
                self._names[block.id] = block.name
                arguments = msgspec.json.format(bytes(block.input), indent=-1).decode()
                parts.append(Call(block.id, block.name, arguments, signature, _mark(block)))
                signature = None
            else:
                parts += self._parts(block, here)
        return Turn(message.role, parts)

    def tools(self, sent: Sequence[_Tool]) -> Iterator[Tool]:
        for at, tool in enumerate(sent):
            if tool.type not in (None, "custom"):
                self.unknown.append(f"tools[{at}]")
                continue
            schema = bytes(tool.input_schema).decode()
            yield Tool(tool.name, tool.description, "" if schema == "null" else schema, tool.strict, _mark(tool))

    def _parts(self, block: _Block, where: str) -> Iterator[Part]:
        match block.type:
            case "text":
                yield Text(block.text, _mark(block), citations_of(block.citations))
            case "thinking":
                yield Thinking(block.thinking, self._open_sealed(block.signature) if block.signature else None)
            case "tool_result":
                yield self._result(block, where)
            case "image" | "document" | "search_result":
                yield self._media(block, where)
            case _:
                self.unknown.append(f"{where}.type")

    def _result(self, block: _Block, where: str) -> Result:
        if not block.tool_use_id:
            raise invalid(f"{where}.tool_use_id", f"'{where}.tool_use_id' is missing.")
        content = block.content
        given: list[Text | Media] = []
        if isinstance(content, str):
            given = [Text(content)]
        for at, inner in enumerate(content if isinstance(content, list) else ()):
            for part in self._parts(inner, f"{where}.content[{at}]"):
                if isinstance(part, Text | Media):
                    given.append(part)
        name = self._names.get(block.tool_use_id, "")
        return Result(block.tool_use_id, given, bool(block.is_error), name, _mark(block))

    def _media(self, block: _Block, where: str) -> Media:
        source, cache = block.source, _mark(block)
        title, context = block.title or "", block.context or ""
        if block.type == "search_result" and isinstance(source, str):
            text = self._plain(block.content or "", where)
            return Media("document", "text/plain", text, title=title or source, context=source, cache=cache)
        if isinstance(source, _Source):
            kind = "image" if block.type == "image" else "document"
            wants = kind == "document" and _wants_citations(block.citations)
            match source.type:
                case "base64":
                    return Media(kind, source.media_type, source.data, "", "", title, context, wants, cache)
                case "url":
                    return Media(kind, "", "", source.url, "", title, context, wants, cache)
                case "text" | "content" if kind == "document":
                    text = self._plain(source.data or source.content, f"{where}.source")
                    return Media(kind, "text/plain", text, "", "", title, context, wants, cache)
        raise invalid(where, f"'{where}' is not an image or document that this model can be given.")

    def _plain(self, content: str | list[_Block], where: str) -> str:
        """Text as base64; what else stands between it is named."""
        if not isinstance(content, str):
            self.unknown += [f"{where}.content[{at}]" for at, block in enumerate(content) if block.type != "text"]
            content = "\n\n".join(block.text for block in content if block.type == "text")
        return base64.b64encode(content.encode()).decode()


def _system(sent: str | list[_Block] | None) -> list[Text]:
    if not sent:
        return []
    if isinstance(sent, str):
        return [Text(sent)]
    return [Text(block.text, _mark(block)) for block in sent]


def _mark(carrier: _Block | _Tool) -> CacheMark | None:
    return None if carrier.cache_control is None else CacheMark(carrier.cache_control.ttl)


def _mark_last(turn: Turn, mark: CacheMark) -> None:
    for part in reversed(turn.parts):
        if isinstance(part, Text | Media | Call | Result):
            part.cache = part.cache or mark
            return


def _wants_citations(sent: msgspec.Raw) -> bool:
    if not len(sent):
        return False
    try:
        switch = _decode_switch(sent)
    except msgspec.ValidationError:
        return False
    return switch is not None and switch.enabled


def _tool_choice(sent: _ToolChoice) -> ToolChoice:
    if sent.type not in _CHOICES:
        raise invalid("tool_choice.type", f"'tool_choice.type' is none of {', '.join(_CHOICES)}.")
    return ToolChoice(_CHOICES[sent.type], [sent.name] if sent.type == "tool" else ())


def _output(asked: _Asked) -> JsonOutput | None:
    sent = asked.output_format
    if asked.output_config is not None and asked.output_config.format is not None:
        sent = asked.output_config.format
    return None if sent is None or sent.type != "json_schema" else JsonOutput(bytes(sent.schema).decode(), "answer")


def _reasoning(asked: _Asked) -> Reasoning | None:
    thinking = asked.thinking
    effort = None if asked.output_config is None else asked.output_config.effort
    effort = "xhigh" if effort == "max" else effort or ""
    if thinking is None:
        return Reasoning(effort=effort) if effort else None
    shows = thinking.display != "omitted"
    match thinking.type:
        case "enabled":
            return Reasoning(budget_tokens=thinking.budget_tokens or 0, shows=shows)
        case "adaptive":
            return Reasoning(effort=effort, is_adaptive=not effort, shows=shows)
        case "disabled" | "between_tools":
            return Reasoning(effort="none")
    raise invalid("thinking.type", "'thinking.type' is none of enabled, adaptive, disabled and between_tools.")
