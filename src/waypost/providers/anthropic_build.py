"""A conversation written as an Anthropic Messages request, for callers who speak another format.

Approximated: turns of one role in a row become one; a system message in the middle is the user's text; a temperature
over 1 is 1; of temperature and top_p the first is sent, with thinking none; a tool that must be called wins over
thinking; "any JSON object" is asked for in words.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from waypost.providers.anthropic_call import BUDGET_TOKENS_MIN, metadata_for
from waypost.providers.anthropic_fields import ORIGIN, signed_block
from waypost.providers.anthropic_schema import input_schema, output_schema
from waypost.wire.anthropic_messages_answer import input_of
from waypost.wire.anthropic_messages_citations import render_citation
from waypost.wire.conversation import (
    CacheMark,
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
    Turn,
)
from waypost.wire.request import Around

MAX_TOKENS_DEFAULT = 4_096  # where nobody says how long; the format does not do without
CACHE_MARKS_MAX = 4  # Anthropic takes no more; the last ones cover the most
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BUDGETS = {"minimal": 1_024, "low": 4_096, "medium": 16_384, "high": 32_768, "xhigh": 65_536}
# Claude models that know a budget and no effort; later ones know effort and no budget.
_WITH_BUDGET = re.compile(r"claude-(?:[1-3]\b|(?:opus|sonnet|haiku)-4(?:-[0-5]\b|[-@]\d{8}|@|$))")
_ANY_JSON = "Answer with a single JSON object and nothing else."
_CONTINUE = "Continue."

JsonObject = dict[str, object]
_NO_THINKING: JsonObject = {"thinking": {"type": "disabled"}}


def losses(conversation: Conversation) -> tuple[str, ...]:
    """What of the conversation this format cannot say."""
    lost = list(conversation.unknown)
    lost += [name for name in ("presence_penalty", "frequency_penalty") if getattr(conversation, name)]
    lost += [name for name in ("seed", "top_logprobs") if getattr(conversation, name) is not None]
    if conversation.n != 1:
        lost.append("n")
    if conversation.logprobs:
        lost.append("logprobs")
    if conversation.verbosity:
        lost.append("verbosity")
    if any(not sequence.strip() for sequence in conversation.stop):
        lost.append("stop")
    lost += [f"tools[{at}].name" for at, tool in enumerate(conversation.tools) if not _NAME.fullmatch(tool.name)]
    for turn in conversation.turns:
        for part in turn.parts:
            for each in part.parts if isinstance(part, Result) else [part]:
                if isinstance(each, Media) and _source(each) is None:
                    lost.append(each.kind)
    if not any(_is_said(part) for turn in conversation.turns for part in turn.parts):
        lost.append("an empty conversation")
    return tuple(dict.fromkeys(lost))


def build(conversation: Conversation, around: Around, upstream_model: str, max_tokens: int) -> dict[str, msgspec.Raw]:
    """The fields of the request, but for model, streaming and the bound of the output."""
    marks = _Marks()
    fields: JsonObject = {}
    tools = _tools(conversation, marks)
    if tools:
        fields["tools"] = tools
        choice = _tool_choice(conversation)
        if choice is not None:
            fields["tool_choice"] = choice
    system = _system(conversation, marks)
    if system:
        fields["system"] = system
    fields["messages"] = _messages(conversation.turns, marks)
    marks.keep_last()
    thinking = _thinking(conversation, upstream_model, max_tokens)
    fields |= thinking
    if thinking in ({}, _NO_THINKING):
        fields |= _sampling(conversation)
    stop = [sequence for sequence in conversation.stop if sequence.strip()]
    if stop:
        fields["stop_sequences"] = stop
    if conversation.output is not None and conversation.output.schema:
        form: JsonObject = {"type": "json_schema", "schema": output_schema(conversation.output.schema)}
        effort = fields.get("output_config")
        fields["output_config"] = {**(effort if isinstance(effort, dict) else {}), "format": form}
    written = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    metadata = metadata_for(conversation.user, around)
    if metadata is not None:
        written["metadata"] = metadata
    return written


class _Marks:
    """The blocks that ask for a cache, in the order of the prompt."""

    def __init__(self) -> None:
        self._marked: list[JsonObject] = []

    def put(self, block: JsonObject, mark: CacheMark | None) -> JsonObject:
        if mark is not None:
            block["cache_control"] = {"type": "ephemeral", **({"ttl": "1h"} if mark.ttl == "1h" else {})}
            self._marked.append(block)
        return block

    def keep_last(self) -> None:
        for block in self._marked[:-CACHE_MARKS_MAX]:
            del block["cache_control"]


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _system(conversation: Conversation, marks: _Marks) -> str | list[JsonObject]:
    parts = [part for part in conversation.system if part.text.strip()]
    if conversation.output is not None and not conversation.output.schema:
        parts.append(Text(_ANY_JSON))
    if any(part.cache is not None for part in parts):
        return [marks.put({"type": "text", "text": part.text}, part.cache) for part in parts]
    return "\n\n".join([part.text for part in parts])


def _messages(turns: Sequence[Turn], marks: _Marks) -> list[JsonObject]:
    messages: list[JsonObject] = []
    for turn in turns:
        role = "assistant" if turn.role == "assistant" else "user"
        blocks = [block for part in turn.parts for block in _blocks(part, role, marks)]
        if not blocks:
            continue
        last = messages[-1] if messages else None
        if last is not None and last["role"] == role:
            before = last["content"]
            assert isinstance(before, list)
            last["content"] = _in_order(before + blocks)
        else:
            messages.append({"role": role, "content": _in_order(blocks)})
    if not messages or messages[0]["role"] != "user":
        messages.insert(0, {"role": "user", "content": _CONTINUE})
    if messages[-1]["role"] == "assistant":
        _strip_end(messages[-1])
    return messages


def _in_order(blocks: list[JsonObject]) -> list[JsonObject]:
    """Results first: they answer the calls of the message before. Thinking first: it led to the rest."""
    first = ("tool_result", "thinking", "redacted_thinking")
    return sorted(blocks, key=lambda block: block["type"] not in first)


def _strip_end(message: JsonObject) -> None:
    """What an answer is to go on from must not end in blanks."""
    content = message["content"]
    assert isinstance(content, list)
    last = content[-1]
    if last["type"] == "text":
        last["text"] = str(last["text"]).rstrip()


def _blocks(part: Part, role: str, marks: _Marks) -> Iterable[JsonObject]:
    match part:
        case Text() if part.text.strip():
            block: JsonObject = {"type": "text", "text": part.text}
            citations = [each for each in part.citations if each.kind.endswith("_location") and not each.url]
            if citations and role == "assistant":
                block["citations"] = [msgspec.Raw(render_citation(each)) for each in citations]
            yield marks.put(block, part.cache)
        case Refused() if part.text.strip():
            yield {"type": "text", "text": part.text}
        case Media():
            media = _media(part)
            if media is not None:
                yield marks.put(media, part.cache)
        case Thinking() if role == "assistant":
            signed = signed_block(part.text, part.signature)
            if signed is not None:
                yield signed
        case Call():
            called: JsonObject = {"type": "tool_use", "id": _call_id(part.id), "name": part.name}
            yield marks.put({**called, "input": msgspec.Raw(input_of(part.arguments))}, part.cache)
        case Result():
            yield marks.put(_result(part, marks), part.cache)


def _result(result: Result, marks: _Marks) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": _call_id(result.call_id)}
    if all(isinstance(part, Text) for part in result.parts):
        block["content"] = "\n\n".join([part.text for part in result.parts if isinstance(part, Text)])
    else:
        block["content"] = [each for part in result.parts for each in _blocks(part, "user", marks)]
    if result.is_error:
        block["is_error"] = True
    return block


def _media(media: Media) -> JsonObject | None:
    source = _source(media)
    if source is None:
        return None
    block: JsonObject = {"type": media.kind, "source": source}
    if media.kind == "document":
        block |= {name: value for name in ("title", "context") if (value := getattr(media, name))}
        if media.wants_citations:
            block["citations"] = {"enabled": True}
    return block


def _source(media: Media) -> JsonObject | None:
    """None for what this format cannot carry."""
    if media.kind == "image":
        if media.data:
            is_known = media.media_type in _IMAGES
            return {"type": "base64", "media_type": media.media_type, "data": media.data} if is_known else None
        return {"type": "url", "url": media.url}
    if media.kind != "document":
        return None
    if media.url:
        return {"type": "url", "url": media.url}
    if media.media_type == "application/pdf":
        return {"type": "base64", "media_type": media.media_type, "data": media.data}
    if media.media_type.startswith("text/"):
        try:
            text = base64.b64decode(media.data).decode()
        except (binascii.Error, ValueError):
            return None
        return {"type": "text", "media_type": "text/plain", "data": text}
    return None


def _call_id(given: str) -> str:
    """The caller's id, or one of the same letters for it."""
    return given if _ID.fullmatch(given) else "toolu_" + hashlib.sha256(given.encode()).hexdigest()[:24]


def _is_said(part: Part) -> bool:
    return not isinstance(part, Text | Refused | Thinking) or (
        bool(part.text.strip()) and not (isinstance(part, Thinking) and part.signature is None)
    )


# ── tools, thinking, sampling ───────────────────────────────────────────────────────────────────────────────────────


def _tools(conversation: Conversation, marks: _Marks) -> list[JsonObject]:
    """Where only some may be called, only these are told of."""
    choice = conversation.tool_choice
    names = choice.names if choice is not None else ()
    return [_tool(tool, marks) for tool in conversation.tools if not names or tool.name in names]


def _tool(tool: Tool, marks: _Marks) -> JsonObject:
    written: JsonObject = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = input_schema(tool.parameters)
    if tool.is_strict:
        written["strict"] = True
    return marks.put(written, tool.cache)


def _tool_choice(conversation: Conversation) -> JsonObject | None:
    choice = conversation.tool_choice
    is_single = conversation.is_parallel is False
    written: JsonObject = {"type": "auto"}
    if choice is not None and choice.mode == "none":
        return {"type": "none"}
    if choice is not None and choice.mode == "tool" and len(choice.names) == 1:
        written = {"type": "tool", "name": choice.names[0]}
    elif choice is not None and choice.mode in ("required", "tool"):
        written = {"type": "any"}
    elif choice is None and not is_single:
        return None
    return {**written, "disable_parallel_tool_use": True} if is_single else written


def _thinking(conversation: Conversation, upstream_model: str, max_tokens: int) -> JsonObject:
    """`thinking`, and for models that know effort `output_config`."""
    reasoning = conversation.reasoning
    if reasoning is None:
        return {}
    if reasoning.effort == "none" or reasoning.budget_tokens == 0:
        return _NO_THINKING
    choice = conversation.tool_choice
    must_call = choice is not None and choice.mode in ("required", "tool") and bool(conversation.tools)
    if must_call or _has_orphaned_call(conversation.turns):
        return {}
    if "claude" in upstream_model and not _WITH_BUDGET.search(upstream_model):
        adaptive: JsonObject = {"type": "adaptive", "display": "summarized" if reasoning.shows else "omitted"}
        effort = _effort(reasoning)
        return {"thinking": adaptive, "output_config": {"effort": effort}} if effort else {"thinking": adaptive}
    budget = reasoning.budget_tokens or _BUDGETS.get(reasoning.effort, max_tokens // 2)
    budget = max(BUDGET_TOKENS_MIN, min(budget, max_tokens // 2))
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget < max_tokens else {}


def _effort(reasoning: Reasoning) -> str:
    if reasoning.budget_tokens is not None:
        return next((name for name in ("low", "medium") if reasoning.budget_tokens <= _BUDGETS[name]), "high")
    return "low" if reasoning.effort == "minimal" else reasoning.effort


def _has_orphaned_call(turns: Sequence[Turn]) -> bool:
    """Whether results are due for calls whose thinking we cannot show: Anthropic would refuse to think on."""
    if not turns or not any(isinstance(part, Result) for part in turns[-1].parts):
        return False
    for turn in reversed(turns):
        if turn.role == "assistant":
            return not any(
                isinstance(part, Thinking) and part.signature is not None and part.signature.origin == ORIGIN
                for part in turn.parts
            )
    return False


def _sampling(conversation: Conversation) -> JsonObject:
    fields: JsonObject = {}
    if conversation.temperature is not None:
        fields["temperature"] = min(conversation.temperature, 1)
    elif conversation.top_p is not None:
        fields["top_p"] = conversation.top_p
    if conversation.top_k is not None:
        fields["top_k"] = conversation.top_k
    return fields
