"""A conversation written as an OpenAI chat completions request, for callers who speak another format."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from waypost.wire.conversation import (
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.media_type import data_url

_encode = msgspec.json.Encoder().encode
_SCALARS = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_logprobs"),
    *("user", "verbosity"),
)
# A thinking budget has no field here; efforts are the nearest words. Bounds as OpenAI's relatives draw them.
_EFFORT_OF_BUDGET = ((1_024, "minimal"), (4_096, "low"), (16_384, "medium"))
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}

JsonObject = dict[str, object]


def losses(conversation: Conversation) -> tuple[str, ...]:
    """What of the conversation this format cannot say."""
    lost = list(conversation.unknown)
    if conversation.top_k is not None:
        lost.append("top_k")
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, Media):
                lost += part.wishes if _can_carry(part) else (part.kind,)
            elif isinstance(part, Result) and any(isinstance(each, Media) for each in part.parts):
                lost.append("media in a tool's result")
    return tuple(dict.fromkeys(lost))


def build(conversation: Conversation) -> dict[str, msgspec.Raw]:
    """The fields of the request, but for model, streaming and the bound of the output."""
    fields: JsonObject = {"messages": _messages(conversation)}
    for name in _SCALARS:
        value = getattr(conversation, name)
        if value is not None and value != "":
            fields[name] = value
    if conversation.n != 1:
        fields["n"] = conversation.n
    if conversation.output_tokens_max is not None:
        fields["max_completion_tokens"] = conversation.output_tokens_max
    if conversation.stop:
        fields["stop"] = list(conversation.stop)
    if conversation.tools:
        fields |= _tool_fields(conversation)
    if conversation.output is not None:
        fields["response_format"] = _response_format(conversation.output)
    effort = "" if conversation.reasoning is None else effort_of(conversation.reasoning)
    if effort:
        fields["reasoning_effort"] = effort
    if conversation.logprobs:
        fields["logprobs"] = True
    return {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}


def _tool_fields(conversation: Conversation) -> JsonObject:
    fields: JsonObject = {"tools": [_tool(tool) for tool in conversation.tools]}
    if conversation.is_parallel is not None:
        fields["parallel_tool_calls"] = conversation.is_parallel
    if conversation.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(conversation.tool_choice)
    return fields


def _messages(conversation: Conversation) -> list[JsonObject]:
    messages: list[JsonObject] = []
    if conversation.system:
        messages.append({"role": "system", "content": _joined(conversation.system)})
    for turn in conversation.turns:
        match turn.role:
            case "assistant":
                messages.append(_assistant(turn))
            case "system":
                messages.append({"role": "system", "content": _joined(turn.parts)})
            case _:
                messages += _user(turn)
    return messages


def _user(turn: Turn) -> list[JsonObject]:
    """Results first, as messages of their own: they answer the calls of the turn before."""
    messages = [_result(part) for part in turn.parts if isinstance(part, Result)]
    said = [part for part in turn.parts if not isinstance(part, Result)]
    if said or not messages:
        message: JsonObject = {"role": "user", "content": _content(said)}
        if turn.name:
            message["name"] = turn.name
        messages.append(message)
    return messages


def _result(result: Result) -> JsonObject:
    text = _joined(result.parts)
    # There is no field for failure: the model reads it in the text.
    return {"role": "tool", "tool_call_id": result.call_id, "content": f"Error: {text}" if result.is_error else text}


def _assistant(turn: Turn) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": _joined(turn.parts) or None}
    refusal = "".join([part.text for part in turn.parts if isinstance(part, Refused)])
    if refusal:
        message["refusal"] = refusal
    calls: list[JsonObject] = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in turn.parts
        if isinstance(part, Call)
    ]
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None and not refusal:
        message["content"] = ""
    return message


def _content(parts: Sequence[Part]) -> str | list[JsonObject]:
    if all(isinstance(part, Text) for part in parts):
        return _joined(parts)
    return [_part(part) for part in parts if isinstance(part, Text) or (isinstance(part, Media) and _can_carry(part))]


def _part(part: Text | Media) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if part.kind == "image":
        image: JsonObject = {"url": part.url or data_url(part.media_type, part.data)}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    if part.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": _AUDIO_FORMATS[part.media_type]}}
    if part.media_type.startswith("text/"):  # files have pages here; text is text
        text = base64.b64decode(part.data).decode("utf-8", "replace")
        return {"type": "text", "text": f"{part.title}\n{text}" if part.title else text}
    name = part.title or "document.pdf"
    return {"type": "file", "file": {"file_data": data_url(part.media_type, part.data), "filename": name}}


def _can_carry(media: Media) -> bool:
    if media.kind == "image":
        return True
    if media.kind == "audio":
        return bool(media.data) and media.media_type in _AUDIO_FORMATS
    return media.kind == "document" and bool(media.data)


def _joined(parts: Sequence[Part]) -> str:
    return "\n\n".join([part.text for part in parts if isinstance(part, Text)])


def _tool(tool: Tool) -> JsonObject:
    function: JsonObject = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = msgspec.Raw(tool.parameters.encode())
    if tool.is_strict is not None:
        function["strict"] = tool.is_strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> object:
    if not choice.names:
        return choice.mode
    named: list[JsonObject] = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if choice.mode == "tool" and len(named) == 1:
        return named[0]
    mode = "auto" if choice.mode == "auto" else "required"
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


def _response_format(output: JsonOutput) -> JsonObject:
    if not output.schema:
        return {"type": "json_object"}
    schema: JsonObject = {"name": output.name or "answer", "schema": msgspec.Raw(output.schema.encode())}
    if output.description:
        schema["description"] = output.description
    if output.is_strict is not None:
        schema["strict"] = output.is_strict
    return {"type": "json_schema", "json_schema": schema}


def effort_of(reasoning: Reasoning) -> str:
    if reasoning.budget_tokens is None:
        return reasoning.effort
    for most, effort in _EFFORT_OF_BUDGET:
        if reasoning.budget_tokens <= most:
            return effort
    return "high"
