"""The openai kind's styles: Alpha is like OpenAI, Beta and Gamma like the many that are nearly like OpenAI."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import ClassVar

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Answer, Choice, DeltaKind, Step, Tokens
from waypost.simulator.directive import Directives
from waypost.simulator.reply import Piece, Stage
from waypost.simulator.request import ChatRequest, read_request
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling, stage_of
from waypost.simulator.words import alternatives, logprob

_ERROR_TYPES: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("requests", "rate_limit_exceeded"),
}


class UsagePlace(Enum):
    """Where a stream tells its usage."""

    OWN_CHUNK = auto()  # after the last choice, with no choices
    LAST_CONTENT = auto()  # in the chunk of the last delta
    EVERY_CHUNK = auto()  # cumulative


class OpenAIStyle(Style):
    """Shared rules of chat completions."""

    usage_place: UsagePlace
    role_chunk_is_own: bool
    finish_chunk_is_own: bool
    reasoning_field: str
    answers_field = "choices"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"index":\s*\d+')
    count_fields = ("prompt_tokens", "completion_tokens", "total_tokens")

    def takes(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/chat/completions")

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:  # noqa: ARG002  all is in the body
        return read_request(body)

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:  # noqa: ARG002
        if method != "GET" or not (path == "/models" or path.startswith("/models/")):
            return Complaint(404, f"Unknown request URL: {method} {path}", type="invalid_request_error")
        shown: list[JsonObject] = [
            {"id": name, "object": "model", "created": 1760000000, "owned_by": self.name} for name in models
        ]
        asked = path.removeprefix("/models").removeprefix("/")
        if not asked:
            return {"object": "list", "data": shown}
        missing = Complaint(404, f"The model '{asked}' does not exist", code="model_not_found")
        return next((entry for entry in shown if entry["id"] == asked), missing)

    def error_type(self, status: int) -> tuple[str, str | None]:
        return _ERROR_TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))

    # Spelling

    def number(self, value: float) -> object:
        return value

    @abstractmethod
    def tool_call_id(self, identity: Identity, choice: int, tool_index: int) -> str | None:
        """None where this provider gives a call no id."""

    @abstractmethod
    def chunk(self, identity: Identity, choices: object, usage: object) -> JsonObject:
        """`usage` is UNSET where the chunk tells none, None where it says null."""

    @abstractmethod
    def completion(self, identity: Identity, choices: list[JsonObject], usage: object) -> JsonObject: ...

    @abstractmethod
    def chunk_choice(
        self, index: int, delta: JsonObject, finish_reason: str | None, logprobs: object
    ) -> JsonObject: ...

    @abstractmethod
    def message_choice(self, identity: Identity, choice: Choice, logprobs: object) -> JsonObject: ...

    @abstractmethod
    def role_delta(self) -> JsonObject:
        """What a chunk of its own says before the first delta."""

    @abstractmethod
    def delta(self, identity: Identity, step: Step) -> JsonObject: ...

    # Putting it together

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        """The body of an answer that is not streamed."""
        choices = []
        for choice in answer.choices:
            logprobs = self._logprobs(choice.text(DeltaKind.TEXT), _text_deltas(choice), answer.top_logprobs)
            shown = self.message_choice(identity, choice, logprobs)
            if not telling.has_finish_reason:
                shown["finish_reason"] = None
            choices.append(shown)
        usage = self.told_usage(answer.tokens, telling)
        return self.encode_document(self.completion(identity, choices, usage))

    def events(
        self, answer: Answer, identity: Identity, telling: Telling, *, first_s: float, delay_s: float
    ) -> Iterator[Piece]:
        """The stream, an event a piece; `first_s` before the first output and `delay_s` before each further one."""
        total = answer.tokens.output
        yield from self.opening(answer, identity, telling)
        for step in answer.steps():
            is_last = step.position + 1 == total
            usage, stage = self._usage_of_step(answer, step, telling), stage_of(step.position, total)
            if is_last and self.usage_place is UsagePlace.LAST_CONTENT:
                stage = Stage.USAGE
            finish = None if self.finish_chunk_is_own or not telling.has_finish_reason else step.finish_reason
            logprobs = (
                self._logprobs(step.text, (step.text,), answer.top_logprobs) if step.kind is DeltaKind.TEXT else None
            )
            choice = self.chunk_choice(step.choice, self.delta(identity, step), finish, logprobs)
            data = self.frame(self.encode(self.chunk(identity, [choice], usage)))
            yield Piece(data, stage, 1, delay_s if step.position else first_s)
        yield from self._closing(answer, identity, telling)

    def opening(self, answer: Answer, identity: Identity, telling: Telling) -> Iterator[Piece]:
        """Events before the first delta."""
        if self.role_chunk_is_own:
            for at in range(len(answer.choices)):
                choice = self.chunk_choice(at, self.role_delta(), None, None)
                usage = self._usage_meanwhile(answer.tokens, 0, telling)
                yield Piece(self.frame(self.encode(self.chunk(identity, [choice], usage))), Stage.OPENING)

    def usage_event(self, identity: Identity, usage: object) -> bytes:
        """A chunk that tells nothing but usage."""
        return self.frame(self.encode(self.chunk(identity, [], usage)))

    def late_event(self, identity: Identity) -> bytes:
        choice = self.chunk_choice(0, {"content": " late"}, None, None)
        return self.frame(self.encode(self.chunk(identity, [choice], msgspec.UNSET)))

    def _closing(self, answer: Answer, identity: Identity, telling: Telling) -> Iterator[Piece]:
        tokens = answer.tokens
        for choice in answer.choices:
            # Without a single delta there was no chunk that could have told the end.
            if telling.has_finish_reason and (self.finish_chunk_is_own or not choice.output_tokens):
                shown = self.chunk_choice(choice.index, {}, choice.finish_reason, None)
                usage = self._usage_meanwhile(tokens, tokens.output, telling)
                yield Piece(self.frame(self.encode(self.chunk(identity, [shown], usage))), Stage.SECOND_HALF)
        needs_own = self.usage_place is not UsagePlace.LAST_CONTENT or not tokens.output
        if needs_own and self._is_usage_told(telling):
            yield Piece(self.usage_event(identity, self.told_usage(tokens, telling)), Stage.USAGE)
        if self.done and telling.has_done:
            yield Piece(self.done, Stage.DONE)

    def _is_usage_told(self, telling: Telling) -> bool:
        return telling.has_usage and (telling.is_usage_wanted or self.usage_place is UsagePlace.EVERY_CHUNK)

    def _usage_of_step(self, answer: Answer, step: Step, telling: Telling) -> object:
        tokens = answer.tokens
        if self.usage_place is UsagePlace.LAST_CONTENT and step.position + 1 == tokens.output:
            return self.told_usage(tokens, telling) if telling.is_usage_wanted else msgspec.UNSET
        return self._usage_meanwhile(tokens, step.position + 1, telling)

    def _usage_meanwhile(self, tokens: Tokens, output_so_far: int, telling: Telling) -> object:
        """What chunks before the last one say in the place of usage."""
        if self.usage_place is UsagePlace.EVERY_CHUNK:
            so_far = replace(tokens, output=output_so_far, reasoning=min(tokens.reasoning, output_so_far))
            return self.told_usage(so_far, telling)
        is_promised = self.usage_place is UsagePlace.OWN_CHUNK and telling.is_usage_wanted and telling.has_usage
        return None if is_promised else msgspec.UNSET

    def _logprobs(self, text: str | None, deltas: tuple[str, ...], top: int | None) -> JsonObject | None:
        if top is None or text is None:
            return None
        return {"content": [self._logprob(token, top) for token in deltas], "refusal": None}

    def _logprob(self, token: str, top: int) -> JsonObject:
        def entry(other: str) -> JsonObject:
            return {"token": other, "logprob": self.number(logprob(other)), "bytes": list(other.encode())}

        return {**entry(token), "top_logprobs": [entry(other) for other in alternatives(token, top)]}


def tool_calls(style: OpenAIStyle, identity: Identity, choice: Choice) -> list[JsonObject]:
    """The calls of a message that is not streamed; `id` is left out where the style gives none."""
    calls: dict[int, JsonObject] = {}
    for run in choice.runs:
        if run.kind is DeltaKind.TOOL_NAME:
            call_id = style.tool_call_id(identity, choice.index, run.tool_index)
            call: JsonObject = {} if call_id is None else {"id": call_id}
            calls[run.tool_index] = {**call, "type": "function", "function": {"name": run.text, "arguments": ""}}
        elif run.kind is DeltaKind.TOOL_ARGUMENTS:
            function = calls[run.tool_index]["function"]
            assert isinstance(function, dict), "made above"
            function["arguments"] = run.text
    return list(calls.values())


def _text_deltas(choice: Choice) -> tuple[str, ...]:
    return tuple(delta for run in choice.runs if run.kind is DeltaKind.TEXT for delta in run.deltas)
