"""What becomes of every feature of a request at every kind of provider: tried on the product's code, and written down.

./run python -m tests.compatibility          prints the page
./run python -m tests.compatibility --write  writes docs/reference/compatibility.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import msgspec

from tests.compatibility.asks import ASKS, MARK, PDF, PNG, URL, WAV, JsonObject, has
from tests.wire.samples import AROUND
from waypost.kit.errors import Refusal
from waypost.kit.values import replace
from waypost.providers import KINDS
from waypost.providers.kind import ProviderKind, Target
from waypost.wire.formats import FORMATS, ChatFormat, conversation_of
from waypost.wire.request import ChatRequest

SHOWN = {
    "openai_chat": "OpenAI chat",
    "openai_responses": "OpenAI Responses",
    "anthropic_messages": "Anthropic Messages",
    "gemini_generate": "Gemini generateContent",
}
EXACT, REFUSED, SILENT = "exact", "refused", "LOST IN SILENCE"
Seen = Callable[[object], bool]


class Cell(msgspec.Struct, frozen=True):
    """What a feature becomes. `note` is how it is approximated, or why it is refused."""

    verdict: str
    note: str = ""


def _at(*path: str) -> Callable[[object], object]:
    def follow(document: object) -> object:
        for name in path:
            document = document.get(name) if isinstance(document, dict) else None
        return document

    return follow


def _is(value: object, *path: str) -> Seen:
    return lambda document: _at(*path)(document) == value


def _there(*path: str) -> Seen:
    return lambda document: _at(*path)(document) is not None


_CONFIG = "generationConfig"
_CALLING = ("toolConfig", "functionCallingConfig")

# What tells that a provider of the kind was asked for it: for all kinds, or for each.
SEEN: Mapping[str, Seen | Mapping[str, Seen]] = {
    "system prompt": has(MARK),
    "image, inline": has(PNG),
    "image, by URL": has(URL),
    "document, inline": has(PDF),
    "audio, inline": has(WAV),
    "tools": has("marked_tool"),
    "tool choice: any": {
        "openai": _is("required", "tool_choice"),
        "openai-responses": _is("required", "tool_choice"),
        "anthropic": _is("any", "tool_choice", "type"),
        "gemini": _is("ANY", *_CALLING, "mode"),
    },
    "tool choice: none": {
        "openai": _is("none", "tool_choice"),
        "openai-responses": _is("none", "tool_choice"),
        "anthropic": _is("none", "tool_choice", "type"),
        "gemini": _is("NONE", *_CALLING, "mode"),
    },
    "tool choice: a named one": {
        "openai": lambda body: has("marked_tool")(_at("tool_choice")(body)),
        "openai-responses": lambda body: has("marked_tool")(_at("tool_choice")(body)),
        "anthropic": _is("marked_tool", "tool_choice", "name"),
        "gemini": _is(["marked_tool"], *_CALLING, "allowedFunctionNames"),
    },
    "one tool call at a time": {
        "openai": _is(False, "parallel_tool_calls"),
        "openai-responses": _is(False, "parallel_tool_calls"),
        "anthropic": _is(True, "tool_choice", "disable_parallel_tool_use"),
        "gemini": has("no such field"),
    },
    "earlier tool calls": has("Oslo"),
    "tool result": has(MARK),
    "tool result that is an error": has(MARK),
    "tool result with an image": has(PNG),
    "answer by a JSON schema": has("marked_city"),
    "answer as any JSON object": {
        "openai": _is("json_object", "response_format", "type"),
        "openai-responses": _is("json_object", "text", "format", "type"),
        "anthropic": has("single JSON object"),
        "gemini": _is("application/json", _CONFIG, "responseMimeType"),
    },
    "stop sequences": has(MARK),
    "temperature": has(0.125),
    "top_p": has(0.375),
    "top_k": has(17),
    "penalties": has(0.625),
    "seed": has(4242),
    "several choices": has(3),
    "log probabilities": has(5),
    "reasoning, by effort": {
        "openai": _is("low", "reasoning_effort"),
        "openai-responses": _is("low", "reasoning", "effort"),
        "anthropic": _there("thinking"),
        "gemini": _there(_CONFIG, "thinkingConfig"),
    },
    "reasoning, by budget": {
        "openai": _there("reasoning_effort"),
        "openai-responses": _there("reasoning", "effort"),
        "anthropic": has(2048),
        "gemini": has(2048),
    },
    "prompt cache marks": has("ephemeral"),
    "citations of documents": has("citations"),
    "verbosity": {
        "openai": _is("low", "verbosity"),
        "openai-responses": _is("low", "text", "verbosity"),
        "anthropic": has("no such field"),
        "gemini": has("no such field"),
    },
    "a field nobody knows": has(MARK),
}

# (feature, kind) → how it is approximated for callers of another format.
APPROXIMATED: Mapping[tuple[str, str], str] = {
    ("tool result that is an error", "openai"): "the text begins with 'Error:'",
    ("tool result that is an error", "openai-responses"): "the text begins with 'Error:'",
    ("reasoning, by budget", "openai"): "as an effort: up to 1,024 tokens minimal, 4,096 low, 16,384 medium, else high",
    ("reasoning, by budget", "openai-responses"): "as an effort, as for openai",
    ("answer as any JSON object", "anthropic"): "asked for in words at the end of the system prompt",
    ("reasoning, by effort", "anthropic"): "as the nearest effort or budget of thinking that the model takes",
    ("reasoning, by effort", "gemini"): "as the nearest level or budget that the model's family takes",
}
# Marks that have no effect to lose: these kinds cache what can be cached by themselves.
NOT_NEEDED: Mapping[tuple[str, str], str] = {
    ("prompt cache marks", kind): "not needed: the provider caches by itself"
    for kind in ("openai", "openai-responses", "gemini")
}


def cells() -> dict[tuple[str, str, str], Cell]:
    """(feature, caller's format, provider kind) → what becomes of it."""
    return {
        (feature, format_name, kind_name): try_it(feature, FORMATS[format_name], body, kind_name, kind)
        for feature, asks in ASKS.items()
        for format_name, body in asks.items()
        if format_name in FORMATS
        for kind_name, kind in KINDS.items()
    }


def try_it(feature: str, asked_in: ChatFormat, body: JsonObject, kind_name: str, kind: ProviderKind) -> Cell:
    around = replace(AROUND, path_model="swift-1")
    try:
        request = asked_in.read(json.dumps(body).encode(), around)
        lost = () if kind.format == asked_in.name else kind.losses(conversation_of(request))
    except Refusal as refusal:
        return Cell(REFUSED, refusal.param or "")
    if lost:
        return Cell(REFUSED, ", ".join(lost))
    seen = SEEN[feature]
    is_seen = seen[kind_name] if isinstance(seen, Mapping) else seen
    if not is_seen(_asked_of(kind, request)):
        why = NOT_NEEDED.get((feature, kind_name))
        return Cell(EXACT, why) if why else Cell(SILENT)
    how = APPROXIMATED.get((feature, kind_name), "")
    return Cell("approximated", how) if how and kind.format != asked_in.name else Cell(EXACT)


def _asked_of(kind: ProviderKind, request: ChatRequest) -> object:
    """The body that the provider gets."""
    target = kind.prepare(Target(b"127.0.0.1:1", "", "k", "marked-upstream"))
    _, body = kind.call(request, target, output_tokens_max=4096)
    return json.loads(body)


def page() -> str:
    """The document."""
    tried = cells()
    lines = [
        "# What each format can ask of each kind of provider",
        "",
        "Made from the tests (`./run python -m tests.compatibility --write`): every cell was tried on the code that",
        "serves requests.",
        "",
        "A request goes to a provider of its own format as it came. To another kind it is translated: **exact**,",
        "**approximated** (how is said below each table), or **refused** with 400 `INPUT_VALIDATION_ERROR`, naming",
        "what cannot be carried, unless a route of another kind can take it. Nothing is dropped in silence;",
        "`provider.require_parameters: false` [lets it be dropped](../how-to/choose-who-may-answer.md), and the header",
        "`x-dropped-parameters` names what was. – : the format has no words for it.",
        "",
    ]
    for kind_name in KINDS:
        lines += _table(kind_name, tried)
    return "\n".join(lines)


def _table(kind_name: str, tried: dict[tuple[str, str, str], Cell]) -> list[str]:
    formats = [name for name in SHOWN if name in FORMATS]
    lines = [f"## Providers of kind `{kind_name}`", "", f"| feature | {' | '.join(SHOWN[name] for name in formats)} |"]
    lines.append(f"|---|{'---|' * len(formats)}")
    notes: dict[str, None] = {}
    for feature in ASKS:
        shown = []
        for name in formats:
            cell = tried.get((feature, name, kind_name))
            shown.append("–" if cell is None else cell.verdict)
            if cell is not None and cell.note:
                note = f"the refusal names `{cell.note}`" if cell.verdict == REFUSED else cell.note
                notes[f"- **{feature}**: {note}"] = None
        lines.append(f"| {feature} | {' | '.join(shown)} |")
    return [*lines, "", *notes, *([""] if notes else [])]
