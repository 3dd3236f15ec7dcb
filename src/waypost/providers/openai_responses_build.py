"""A request as an OpenAI Responses provider gets it: the caller's own fields, or a conversation in this format's words.

Nothing is to be stored at the provider either: `store` is always false, and encrypted reasoning travels with the
caller, sealed. Ids of items are ours and mean nothing there; they stay here.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waypost.providers.openai_build import effort_of
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.media_type import data_url
from waypost.wire.openai_responses import ENCRYPTED_REASONING, LOGPROBS

JsonObject = dict[str, object]

_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_strings = msgspec.json.Decoder(list[str] | None).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_NULL = msgspec.Raw(b"null")
_SCALARS = ("temperature", "top_p", "top_logprobs", "user")
# What the format has no word for.
_LOST = ("top_k", "presence_penalty", "frequency_penalty", "seed")


def losses(conversation: Conversation) -> tuple[str, ...]:
    """What of the conversation this format cannot say."""
    lost = list(conversation.unknown)
    lost += [name for name in _LOST if getattr(conversation, name) is not None]
    if conversation.n != 1:
        lost.append("n")
    if conversation.stop:
        lost.append("stop")
    for turn in conversation.turns:
        if turn.name:
            lost.append("name")
        for part in turn.parts:
            for media in part.parts if isinstance(part, Result) else (part,):
                if isinstance(media, Media):
                    lost += media.wishes if media.kind in ("image", "document") else (media.kind,)
    return tuple(dict.fromkeys(lost))


def pass_on(
    sent: dict[str, msgspec.Raw], origin: str, open_sealed: Callable[[str], Signature | None]
) -> dict[str, msgspec.Raw]:
    """The fields of a caller of this format, as they came, but for what only we understand."""
    fields = sent.copy()
    fields.pop("prompt", None)  # null, or it was refused
    fields["store"] = msgspec.Raw(b"false")
    items = bytes(fields["input"])
    has_reasoning = False
    if items.startswith(b"["):
        has_reasoning = items.find(b'"reasoning"') >= 0
        fields["input"] = msgspec.Raw(_encode(_items(_decode_items(items), origin, open_sealed)))
    include = _decode_strings(fields.get("include", _NULL)) or []
    # Models that do not reason refuse to include any, so only where somebody spoke of it.
    if ENCRYPTED_REASONING not in include and (has_reasoning or "reasoning" in fields):
        fields["include"] = msgspec.Raw(_encode([*include, ENCRYPTED_REASONING]))
    return fields


def _items(
    sent: list[dict[str, msgspec.Raw]], origin: str, open_sealed: Callable[[str], Signature | None]
) -> list[dict[str, msgspec.Raw]]:
    """The items without our ids; reasoning only where this provider can read it, under its own encryption."""
    items = []
    for item in sent:
        item.pop("id", None)
        if _decode_text(item.get("type", _NULL)) == "reasoning":
            sealed = _decode_text(item.get("encrypted_content", _NULL))
            signature = open_sealed(sealed) if sealed else None
            if signature is None or signature.origin != origin:
                continue  # foreign, or without what stands for it: nobody could make sense of it
            item["encrypted_content"] = msgspec.Raw(_encode(signature.value))
            item.setdefault("summary", msgspec.Raw(b"[]"))
        items.append(item)
    return items


def build(conversation: Conversation, origin: str) -> dict[str, msgspec.Raw]:
    """The fields of the request, but for model, streaming and the bound of the output."""
    fields: JsonObject = {"input": _input(conversation, origin), "store": False}
    if conversation.system:
        fields["instructions"] = "\n\n".join([part.text for part in conversation.system])
    for name in _SCALARS:
        value = getattr(conversation, name)
        if value is not None and value != "":
            fields[name] = value
    if conversation.output_tokens_max is not None:
        fields["max_output_tokens"] = conversation.output_tokens_max
    if conversation.tools:
        fields |= _tool_fields(conversation)
    text: JsonObject = {} if conversation.output is None else {"format": _format(conversation.output)}
    if conversation.verbosity:
        text["verbosity"] = conversation.verbosity
    if text:
        fields["text"] = text
    include = [LOGPROBS] if conversation.logprobs else []
    if conversation.reasoning is not None:
        effort = effort_of(conversation.reasoning)
        reasoning: JsonObject = {"effort": effort} if effort else {}
        if conversation.reasoning.shows:
            reasoning["summary"] = "auto"
        fields["reasoning"] = reasoning
        include.append(ENCRYPTED_REASONING)
    if include:
        fields["include"] = include
    return {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}


def _tool_fields(conversation: Conversation) -> JsonObject:
    fields: JsonObject = {"tools": [_tool(tool) for tool in conversation.tools]}
    if conversation.is_parallel is not None:
        fields["parallel_tool_calls"] = conversation.is_parallel
    if conversation.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(conversation.tool_choice)
    return fields


def _input(conversation: Conversation, origin: str) -> list[JsonObject]:
    items: list[JsonObject] = []
    for turn in conversation.turns:
        if turn.role == "assistant":
            items += _assistant(turn, origin)
        else:
            items += _given(turn)
    return items


def _given(turn: Turn) -> list[JsonObject]:
    """Results first, as items of their own: they answer the calls of the turn before."""
    items = [_result(part) for part in turn.parts if isinstance(part, Result)]
    said = [_input_part(part) for part in turn.parts if isinstance(part, Text | Media)]
    if said or not items:
        items.append({"type": "message", "role": turn.role, "content": said})
    return items


def _result(result: Result) -> JsonObject:
    parts = [_input_part(part) for part in result.parts]
    output: object = parts
    if all(isinstance(part, Text) for part in result.parts):
        output = "\n\n".join([part.text for part in result.parts if isinstance(part, Text)])
    if result.is_error:
        # There is no field for failure: the model reads it in the text.
        said = f"Error: {output}" if isinstance(output, str) else [{"type": "input_text", "text": "Error:"}, *parts]
        output = said
    return {"type": "function_call_output", "call_id": result.call_id, "output": output}


def _assistant(turn: Turn, origin: str) -> list[JsonObject]:
    items: list[JsonObject] = []
    said: list[JsonObject] = []
    for part in turn.parts:
        if isinstance(part, Text):
            said.append({"type": "output_text", "text": part.text, "annotations": []})
        elif isinstance(part, Refused):
            said.append({"type": "refusal", "refusal": part.text})
        else:
            other = _item(part, origin)
            if other is not None:
                items += _message(said)
                said = []
                items.append(other)
    return items + _message(said)


def _message(said: list[JsonObject]) -> list[JsonObject]:
    return [{"type": "message", "role": "assistant", "content": said}] if said else []


def _item(part: Part, origin: str) -> JsonObject | None:
    if isinstance(part, Call):
        return {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, Thinking) and part.signature is not None and part.signature.origin == origin:
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        return {"type": "reasoning", "summary": summary, "encrypted_content": part.signature.value}
    return None  # reasoning that only others can read


def _input_part(part: Text | Media) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if part.kind == "image":
        url = part.url or data_url(part.media_type, part.data)
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    data = data_url(part.media_type, part.data)
    return {"type": "input_file", "filename": part.title or "document.pdf", "file_data": data}


def _tool(tool: Tool) -> JsonObject:
    # Both are required here. Strictness is what the caller said; nobody else means true by saying nothing.
    shown: JsonObject = {"type": "function", "name": tool.name}
    if tool.description:
        shown["description"] = tool.description
    shown["parameters"] = msgspec.Raw(tool.parameters.encode()) if tool.parameters else None
    shown["strict"] = bool(tool.is_strict)
    return shown


def _tool_choice(choice: ToolChoice) -> object:
    if not choice.names:
        return choice.mode
    named: list[JsonObject] = [{"type": "function", "name": name} for name in choice.names]
    if choice.mode == "tool" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": "auto" if choice.mode == "auto" else "required", "tools": named}


def _format(output: JsonOutput) -> JsonObject:
    if not output.schema:
        return {"type": "json_object"}
    shown: JsonObject = {
        "type": "json_schema",
        "name": output.name or "answer",
        "schema": msgspec.Raw(output.schema.encode()),
    }
    if output.description:
        shown["description"] = output.description
    if output.is_strict is not None:
        shown["strict"] = output.is_strict
    return shown
