"""A conversation written as a Gemini generateContent request, for callers who speak another format.

Said in other words: reasoning that nobody of this kind signed is left out, as Gemini reads nothing from it; a refusal
is text; a system message in the middle is the user's text; how closely to look at an image is left to the model, and
so is what a file is called. A strict tool is one whose calls are validated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.providers.gemini_schema import as_gemini, not_enforced
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    Call,
    Conversation,
    Media,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)

ORIGIN = "gemini"
SKIPS_VALIDATION = "skip_thought_signature_validator"
"""In place of the signature of a call that was made elsewhere: without one a model that thinks refuses the history.
Source: the Gemini API on thought signatures."""
STOP_SEQUENCES_MAX = 5

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_LEVELS = {
    "none": "MINIMAL",  # such a model thinks a little at least
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "XHIGH",
}
_BUDGETS = {"none": 0, "minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768}
_BUDGET_FAMILIES = ("gemini-1", "gemini-2")  # later models take a level
# What a URL names, when nobody said it.
_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "mp4": "video/mp4",
}
_WRAPPERS = ({"output"}, {"error"})

JsonObject = dict[str, object]


def losses(conversation: Conversation) -> tuple[str, ...]:
    """What of the conversation this format cannot say."""
    lost = list(conversation.unknown)
    if conversation.is_parallel is False and conversation.tools:
        lost.append("parallel_tool_calls")
    if conversation.verbosity:
        lost.append("verbosity")
    if len(conversation.stop) > STOP_SEQUENCES_MAX:
        lost.append(f"more than {STOP_SEQUENCES_MAX} stop sequences")
    output = conversation.output
    if output is not None and output.is_strict and output.schema:
        lost += [f"'{name}' in the schema of the answer" for name in not_enforced(_decode_any(output.schema))]
    for tool in conversation.tools:
        if tool.is_strict and tool.parameters:
            lost += [f"'{name}' in the schema of a strict tool" for name in not_enforced(_decode_any(tool.parameters))]
    for turn in conversation.turns:
        if turn.name:
            lost.append("the name of a participant")
        for part in turn.parts:
            if isinstance(part, Media):
                lost += part.wishes
    return tuple(dict.fromkeys(lost))


def build(conversation: Conversation, upstream_model: str = "") -> dict[str, msgspec.Raw]:
    """The fields of the request, but for the bound of the output. The family of the model decides how thinking is
    asked for."""
    fields: JsonObject = {"contents": _contents(conversation)}
    if conversation.system:
        fields["systemInstruction"] = {"parts": [{"text": part.text} for part in conversation.system]}
    if conversation.tools:
        fields["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in conversation.tools]}]
        calling = _calling(conversation.tool_choice, conversation.tools)
        if calling:
            fields["toolConfig"] = {"functionCallingConfig": calling}
    generation = _generation(conversation, upstream_model)
    if generation:
        fields["generationConfig"] = generation
    return {name: msgspec.Raw(_encode(value)) for name, value in fields.items()}


def _generation(conversation: Conversation, upstream_model: str) -> JsonObject:
    said: Mapping[str, object | None] = {
        "temperature": conversation.temperature,
        "topP": conversation.top_p,
        "topK": conversation.top_k,
        "presencePenalty": conversation.presence_penalty,
        "frequencyPenalty": conversation.frequency_penalty,
        "seed": conversation.seed,
        "maxOutputTokens": conversation.output_tokens_max,
        "candidateCount": conversation.n if conversation.n != 1 else None,
        "stopSequences": list(conversation.stop) or None,
        "responseLogprobs": conversation.logprobs or None,
        "logprobs": conversation.top_logprobs if conversation.logprobs else None,
    }
    generation = {name: value for name, value in said.items() if value is not None}
    if conversation.output is not None:
        generation["responseMimeType"] = "application/json"
        if conversation.output.schema:
            generation["responseJsonSchema"] = as_gemini(_decode_any(conversation.output.schema))
    if conversation.reasoning is not None:
        generation["thinkingConfig"] = _thinking(conversation.reasoning, upstream_model)
    return generation


def _thinking(reasoning: Reasoning, upstream_model: str) -> JsonObject:
    config: JsonObject = {"includeThoughts": reasoning.shows and reasoning.effort != "none"}
    takes_budget = upstream_model.rpartition("/")[2].startswith(_BUDGET_FAMILIES)
    if reasoning.budget_tokens is not None:
        config["thinkingBudget"] = reasoning.budget_tokens
    elif reasoning.effort:
        name, value = ("thinkingBudget", _BUDGETS) if takes_budget else ("thinkingLevel", _LEVELS)
        config[name] = value[reasoning.effort]
    return config


def _declaration(tool: Tool) -> JsonObject:
    declaration: JsonObject = {"name": tool.name}
    if tool.description:
        declaration["description"] = tool.description
    if tool.parameters:
        declaration["parametersJsonSchema"] = msgspec.Raw(tool.parameters.encode())
    return declaration


def _calling(choice: ToolChoice | None, tools: Sequence[Tool]) -> JsonObject:
    is_strict = any(tool.is_strict for tool in tools)
    mode, names = ("auto", ()) if choice is None else (choice.mode, choice.names)
    match mode:
        case "none":
            return {"mode": "NONE"}
        case "required" | "tool":
            calling: JsonObject = {"mode": "ANY"}
        case _ if is_strict or names:
            # Beside AUTO a list of names has no effect.
            calling = {"mode": "VALIDATED"}
        case _:
            return {} if choice is None else {"mode": "AUTO"}
    if names:
        calling["allowedFunctionNames"] = list(names)
    return calling


def _contents(conversation: Conversation) -> list[JsonObject]:
    contents: list[JsonObject] = []
    names: dict[str, str] = {}  # of functions, by the id of the call
    for turn in conversation.turns:
        is_model = turn.role == "assistant"
        parts: list[JsonObject] = []
        for part in turn.parts:
            if isinstance(part, Call):
                names[part.id] = part.name
            parts += _parts(part, names)
        if is_model:
            sign_first_call(parts)
        if parts:
            contents.append({"role": "model" if is_model else "user", "parts": parts})
    return contents


def sign_first_call(parts: Sequence[object]) -> None:
    """Calls made at once are signed at the first of them."""
    calls = [part for part in parts if isinstance(part, dict) and "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = SKIPS_VALIDATION


def _parts(part: Part, names: Mapping[str, str]) -> list[JsonObject]:
    match part:
        case Text(text) | Refused(text):
            return [{"text": text}]
        case Thinking(text, signature):
            value = value_of(signature)
            if value is None:
                return []
            return [{"text": text, "thought": True, "thoughtSignature": value} if text else _hidden(value)]
        case Media():
            return [_medium(part)]
        case Call(call_id, name, arguments, signature):
            call: JsonObject = {"name": name, "args": msgspec.Raw((arguments or "{}").encode())}
            if call_id:
                call["id"] = call_id
            value = value_of(signature)
            return [{"functionCall": call} if value is None else {"functionCall": call, "thoughtSignature": value}]
        case Result():
            return [{"functionResponse": _response(part, names)}]


def _hidden(value: str) -> JsonObject:
    return {"text": "", "thoughtSignature": value}


def value_of(signature: Signature | None) -> str | None:
    """The signature itself, where this kind can read it."""
    return signature.value if signature is not None and signature.origin == ORIGIN else None


def _response(result: Result, names: Mapping[str, str]) -> JsonObject:
    text = "\n\n".join([part.text for part in result.parts if isinstance(part, Text)])
    response: JsonObject = {"name": result.name or names.get(result.call_id, result.call_id), "id": result.call_id}
    response["response"] = {"error": text} if result.is_error else _object(text)
    media = [_medium(part) for part in result.parts if isinstance(part, Media)]
    if media:
        response["parts"] = media
    return response


def _object(text: str) -> object:
    """The text as an object: the one that it writes, where this loses nothing of it, else wrapped."""
    if text.startswith("{"):
        try:
            decoded = _decode_any(text)
        except (ValueError, RecursionError):
            return {"output": text}
        if decoded.keys() not in _WRAPPERS and _encode(decoded).decode() == text:
            return decoded
    return {"output": text}


def _medium(media: Media) -> JsonObject:
    if media.data:
        return {"inlineData": {"mimeType": media.media_type or "application/octet-stream", "data": media.data}}
    file: JsonObject = {"fileUri": media.url}
    media_type = media.media_type or _TYPES.get(media.url.partition("?")[0].rpartition(".")[2].lower(), "")
    if media_type:
        file["mimeType"] = media_type
    return {"fileData": file}
