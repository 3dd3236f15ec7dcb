"""What a simulated model answers: the same words for the same conversation, before any provider's spelling of them.

Every delta is one output token, so a test can count what it is billed for.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator
from enum import Enum

import msgspec

from waypost.simulator.directive import Directives
from waypost.simulator.request import (
    ChatRequest,
    InvalidRequest,
    NamedTool,
    Tool,
    cached_prompt_tokens,
    conversation_seed,
    image_tokens,
    prompt_tokens,
)
from waypost.simulator.schema import instance_of
from waypost.simulator.words import default_count, refusal_words, text_words

_JSON_FRAGMENT_CHARS = 6
_TOOL_CALLS_DEFAULT = 2
_TOKENS_OF_A_PICTURE = 272
_REASONING_TOKENS = {"minimal": 8, "low": 16, "medium": 32, "high": 64, "xhigh": 96}


class DeltaKind(Enum):
    REASONING = "reasoning"
    TEXT = "text"
    REFUSAL = "refusal"
    TOOL_NAME = "tool name"
    TOOL_ARGUMENTS = "tool arguments"


class Run(msgspec.Struct, frozen=True):
    """Consecutive deltas of one kind in one choice. A tool call is a run of one name and a run of arguments."""

    kind: DeltaKind
    deltas: tuple[str, ...]
    tool_index: int = 0

    @property
    def text(self) -> str:
        return "".join(self.deltas)


class Choice(msgspec.Struct, frozen=True):
    index: int
    runs: tuple[Run, ...]
    finish_reason: str
    stop_sequence: str = ""  # that ended it

    @property
    def output_tokens(self) -> int:
        return sum(len(run.deltas) for run in self.runs)

    @property
    def reasoning_tokens(self) -> int:
        return sum(len(run.deltas) for run in self.runs if run.kind is DeltaKind.REASONING)

    def text(self, kind: DeltaKind) -> str | None:
        """Everything of one kind, None when there is no such run."""
        texts = [run.text for run in self.runs if run.kind is kind]
        return "".join(texts) if texts else None


class Tokens(msgspec.Struct, frozen=True):
    """What an answer used, as its provider knows. The cache's parts are inside `prompt`, reasoning inside `output`."""

    prompt: int
    cached: int
    cache_written: int
    output: int
    reasoning: int
    image: int
    images: int = 0  # generated
    cache_written_1h: int = 0  # beside `cache_written`, not a part of it


class Step(msgspec.Struct, frozen=True):
    """One delta of a stream: `position` counts over all choices."""

    position: int
    choice: int
    kind: DeltaKind
    text: str
    tool_index: int
    is_first_of_choice: bool
    finish_reason: str | None  # on the last delta of its choice


class Answer(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...]
    tokens: Tokens
    top_logprobs: int | None  # None: no logprobs asked for
    is_redacted: bool = False  # the reasoning is not shown
    is_cited: bool = False
    vectors: tuple[tuple[float, ...], ...] = ()
    is_base64: bool = False  # the vectors are wanted so
    is_batch: bool = False  # the vectors are wanted in a list

    def steps(self) -> Iterator[Step]:
        """All deltas in the order of a stream, the choices taking turns."""
        waiting = [(choice, _deltas(choice), choice.output_tokens) for choice in self.choices]
        taken = position = 0
        while waiting:
            going_on = []
            for choice, deltas, count in waiting:
                for run, text in deltas:
                    is_last = taken + 1 == count
                    yield Step(
                        position=position,
                        choice=choice.index,
                        kind=run.kind,
                        text=text,
                        tool_index=run.tool_index,
                        is_first_of_choice=taken == 0,
                        finish_reason=choice.finish_reason if is_last else None,
                    )
                    position += 1
                    if not is_last:
                        going_on.append((choice, deltas, count))
                    break
            waiting = going_on
            taken += 1


def answer_to(request: ChatRequest, directives: Directives) -> Answer:
    """Raises InvalidRequest when `tool_choice` names a tool that is not there."""
    if request.images:
        return _pictures(request)
    if request.vectors:
        return _vectors(request, directives)
    seed = conversation_seed(request)
    choices = tuple(
        _choice(at, request, directives, hashlib.sha256(seed + bytes([at])).digest() if at else seed)
        for at in range(request.n or 1)
    )
    prompt = prompt_tokens(request) if directives.input is None else directives.input
    cached = cached_prompt_tokens(request, prompt) if directives.cached is None else directives.cached
    cached = min(cached, prompt)
    written = min(directives.cache_write, prompt - cached)
    return Answer(
        choices=choices,
        tokens=Tokens(
            prompt=prompt,
            cached=cached,
            cache_written=written,
            cache_written_1h=min(directives.cache_write_1h, prompt - cached - written),
            output=sum(choice.output_tokens for choice in choices),
            reasoning=sum(choice.reasoning_tokens for choice in choices),
            image=sum(image_tokens(message) for message in request.messages),
        ),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        is_redacted=directives.redacted,
        is_cited=directives.cite,
    )


def _pictures(request: ChatRequest) -> Answer:
    """Images have no words; what they look like is the style's to draw."""
    tokens = Tokens(
        prompt=prompt_tokens(request),
        cached=0,
        cache_written=0,
        output=request.images * _TOKENS_OF_A_PICTURE,
        reasoning=0,
        image=sum(image_tokens(message) for message in request.messages),
        images=request.images,
    )
    return Answer((), tokens, None)


def _vectors(request: ChatRequest, directives: Directives) -> Answer:
    """Of an equal text an equal vector, of length one."""
    vectors = tuple(_vector(message.text, request.vectors) for message in request.messages)
    prompt = directives.input or 0
    tokens = Tokens(prompt=prompt, cached=0, cache_written=0, output=0, reasoning=0, image=0)
    return Answer((), tokens, None, vectors=vectors, is_base64=request.is_base64, is_batch=request.is_batch)


def _vector(text: str, dimensions: int) -> tuple[float, ...]:
    drawn = hashlib.shake_256(text.encode()).digest(2 * dimensions)
    numbers = [int.from_bytes(drawn[at : at + 2], "big") / 32_768 - 1 for at in range(0, len(drawn), 2)]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    # As 32-bit floats, which is what every provider's numbers are.
    return tuple(array("f", [number / length for number in numbers]))


def _choice(index: int, request: ChatRequest, directives: Directives, seed: bytes) -> Choice:
    runs, finish_reason = _said(request, directives, seed)
    reasoning = directives.reasoning
    if reasoning is None:
        reasoning = _REASONING_TOKENS.get(request.reasoning_effort or "", 0)
    if reasoning:
        runs = [Run(DeltaKind.REASONING, text_words(seed[::-1], reasoning)), *runs]
    runs, stop_sequence = _stopped(runs, request.stop)
    if stop_sequence:
        finish_reason = "stop"
    runs, was_capped = _capped(runs, request.output_tokens_max)
    if was_capped:
        finish_reason, stop_sequence = "length", ""
    return Choice(index, tuple(runs), directives.finish or finish_reason, stop_sequence)


def _said(request: ChatRequest, directives: Directives, seed: bytes) -> tuple[list[Run], str]:
    if directives.refusal:
        return [Run(DeltaKind.REFUSAL, refusal_words())], "stop"
    tools = _chosen_tools(request, directives.tools)
    if tools:
        return _tool_runs(tools, seed), "tool_calls"
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
        return [_json_run(DeltaKind.TEXT, instance_of(wanted.json_schema.schema, seed))], "stop"
    if wanted is not None and wanted.type == "json_object":
        return [_json_run(DeltaKind.TEXT, {"answer": "".join(text_words(seed, 8)), "score": seed[0]})], "stop"
    count = default_count(seed) if directives.words is None else directives.words
    words = text_words(seed, count)
    if directives.say:
        words = (directives.say, *(f" {word}" if at == 0 else word for at, word in enumerate(words[: count - 1])))
    return [Run(DeltaKind.TEXT, words)] if words else [], "stop"


def _chosen_tools(request: ChatRequest, wanted: int | None) -> list[Tool]:
    """The tools that get called: none after a tool's result, unless the caller requires a call."""
    tools = [tool for tool in request.tools or [] if tool.function is not None]
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function is not None and tool.function.name == choice.function.name]
        if not named:
            raise InvalidRequest(f"Tool choice '{choice.function.name}' is not among the tools")
        return named
    if (
        not tools
        or choice == "none"
        or (request.messages[-1].role == "tool" and choice != "required" and wanted is None)
    ):
        return []
    count = min(_TOOL_CALLS_DEFAULT, len(tools)) if wanted is None else wanted
    if request.parallel_tool_calls is False:
        count = min(count, 1)
    return [tools[at % len(tools)] for at in range(count)]


def _tool_runs(tools: list[Tool], seed: bytes) -> list[Run]:
    runs = []
    for at, tool in enumerate(tools):
        assert tool.function is not None, "only functions are called"
        arguments = instance_of(
            {"type": "object", **tool.function.parameters}, hashlib.sha256(seed + bytes([at])).digest()
        )
        runs.append(Run(DeltaKind.TOOL_NAME, (tool.function.name,), at))
        runs.append(_json_run(DeltaKind.TOOL_ARGUMENTS, arguments, at))
    return runs


def _json_run(kind: DeltaKind, value: object, tool_index: int = 0) -> Run:
    text = msgspec.json.encode(value).decode()
    size = _JSON_FRAGMENT_CHARS
    return Run(kind, tuple(text[at : at + size] for at in range(0, len(text), size)), tool_index)


def _stopped(runs: list[Run], stop: str | list[str] | None) -> tuple[list[Run], str]:
    """Text ends before the first stop sequence, which may begin in one token and end in another; and which it was."""
    sequences = [stop] if isinstance(stop, str) else stop or []
    for at, run in enumerate(runs):
        if run.kind is not DeltaKind.TEXT:
            continue
        text = run.text
        ends = [(end, sequence) for sequence in sequences if sequence and (end := text.find(sequence)) >= 0]
        if ends:
            end, sequence = min(ends)
            return [*runs[:at], Run(run.kind, tuple(_first_chars(run.deltas, end)))], sequence
    return runs, ""


def _first_chars(deltas: tuple[str, ...], count: int) -> Iterator[str]:
    for delta in deltas:
        if count <= 0:
            return
        yield delta[:count]
        count -= len(delta)


def _capped(runs: list[Run], tokens_max: int | None) -> tuple[list[Run], bool]:
    if tokens_max is None or sum(len(run.deltas) for run in runs) <= tokens_max:
        return runs, False
    kept = []
    room = tokens_max
    for run in runs:
        if room <= 0:
            break
        kept.append(Run(run.kind, run.deltas[:room], run.tool_index))
        room -= len(run.deltas)
    return kept, True


def _deltas(choice: Choice) -> Iterator[tuple[Run, str]]:
    return ((run, text) for run in choice.runs for text in run.deltas)
