"""The anthropic kind's styles: Delta is like Anthropic, Epsilon like those who are nearly like it."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import msgspec

from waypost.simulator.answer import Answer, Choice, DeltaKind, Run, Tokens
from waypost.simulator.directive import Directives
from waypost.simulator.reply import Piece, Stage
from waypost.simulator.request import ChatRequest, InvalidRequest, prompt_tokens
from waypost.simulator.request_anthropic import read_counted, read_messages, redacted_data, signature_of
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling, stage_of

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "pause": "pause_turn",
}


Deltas = list[tuple[JsonObject | None, int]]


class Block(msgspec.Struct, frozen=True):
    """One content block: how it begins when streamed, its pieces (each with its output tokens), and all of it."""

    start: JsonObject
    deltas: tuple[tuple[JsonObject | None, int], ...]  # None: output that nobody sees
    whole: JsonObject
    start_tokens: int = 0


class AnthropicStyle(Style):
    """Shared rules of Messages."""

    answers_field = "content"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:index|input_tokens)":\s*\d+')
    count_fields = ("input_tokens", "output_tokens")

    def takes(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/v1/messages")

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:  # noqa: ARG002  all is in the body
        return read_messages(body)

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        if (method, path) == ("POST", "/v1/messages/count_tokens"):
            try:
                return {"input_tokens": prompt_tokens(read_counted(body))}
            except InvalidRequest as error:
                return Complaint(400, str(error))
        shown: list[JsonObject] = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2025-10-09T08:53:20Z"} for name in models
        ]
        if method == "GET" and path == "/v1/models":
            return {"data": shown, "has_more": False, "first_id": models[0], "last_id": models[-1]}
        found = (entry for entry in shown if method == "GET" and path == f"/v1/models/{entry['id']}")
        return next(found, Complaint(404, "Not found"))

    def credential(self, fields: Mapping[str, str]) -> str:
        return fields.get("x-api-key", "") or super().credential(fields)

    def complains(self, fields: Mapping[str, str]) -> Complaint | None:
        if not fields.get("anthropic-version"):
            return Complaint(400, "anthropic-version: header is required")
        return None

    def error_type(self, status: int) -> tuple[str, str | None]:
        return _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error"), None

    # Spelling

    @abstractmethod
    def event(self, name: str, fields: JsonObject) -> bytes:
        """A framed event with its name and type."""

    @abstractmethod
    def tool_use_id(self, identity: Identity, tool_index: int) -> str: ...

    @abstractmethod
    def message(self, identity: Identity, content: Sequence[JsonObject], usage: object, ends: JsonObject) -> JsonObject:
        """A message; `usage` is UNSET where it tells none. `ends` has stop_reason and stop_sequence."""

    @abstractmethod
    def opening(self, identity: Identity, usage: object) -> Iterator[bytes]:
        """The events before the first block. `usage` is that of the end."""

    @abstractmethod
    def closing(self, ends: JsonObject, usage: object) -> Iterator[bytes]:
        """The events between the last block and `message_stop`."""

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:
        return "application/json", self.encode_document(self._error(identity, complaint))

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:
        return self.event("error", self._error(identity, complaint))

    def usage_event(self, identity: Identity, usage: object) -> bytes:  # noqa: ARG002  names no answer
        return self.event("message_delta", {"delta": {"stop_reason": None, "stop_sequence": None}, "usage": usage})

    def late_event(self, identity: Identity) -> bytes:  # noqa: ARG002  names no answer
        delta = {"type": "text_delta", "text": " late"}
        return self.event("content_block_delta", {"index": 0, "delta": delta})

    def end_events(self) -> bytes:
        return self.event("message_stop", {})

    # Putting it together

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        choice = answer.choices[0]
        content = [block.whole for block in self._blocks(answer, identity)]
        usage = self.told_usage(answer.tokens, telling)
        return self.encode_document(self.message(identity, content, usage, _ends(choice, telling)))

    def events(
        self, answer: Answer, identity: Identity, telling: Telling, *, first_s: float, delay_s: float
    ) -> Iterator[Piece]:
        total = answer.tokens.output
        usage = self.told_usage(answer.tokens, telling)
        for data in self.opening(identity, usage):
            yield Piece(data, Stage.OPENING)
        position = 0
        for at, block in enumerate(self._blocks(answer, identity)):
            start = self.event("content_block_start", {"index": at, "content_block": block.start})
            stage = stage_of(position, total) if position or block.start_tokens else Stage.OPENING
            pause_s = (delay_s if position else first_s) if block.start_tokens else 0.0
            yield Piece(start, stage, block.start_tokens, pause_s)
            position += block.start_tokens
            for delta, tokens in block.deltas:
                data = b"" if delta is None else self.event("content_block_delta", {"index": at, "delta": delta})
                pause_s = (delay_s if position else first_s) if tokens else 0.0
                yield Piece(data, stage_of(position, total), tokens, pause_s)
                position += tokens
            yield Piece(self.event("content_block_stop", {"index": at}), stage_of(max(position, 1), total))
        for data in self.closing(_ends(answer.choices[0], telling), usage):
            yield Piece(data, Stage.USAGE)
        if telling.has_done:
            yield Piece(self.end_events(), Stage.DONE)

    def _blocks(self, answer: Answer, identity: Identity) -> Iterator[Block]:
        runs = answer.choices[0].runs
        for run, following in pairwise([*runs, None]):
            assert run is not None, "only the last one is"
            match run.kind:
                case _ if not run.deltas:
                    continue  # a stop sequence came first
                case DeltaKind.REASONING:
                    yield _redacted(run) if answer.is_redacted else self._thinking(run)
                case DeltaKind.TEXT | DeltaKind.REFUSAL:
                    yield self._text(run, is_cited=answer.is_cited)
                case DeltaKind.TOOL_NAME:
                    is_called = following is not None and following.kind is DeltaKind.TOOL_ARGUMENTS
                    yield self._tool_use(run, following if is_called else None, identity)
                case DeltaKind.TOOL_ARGUMENTS:
                    continue  # with its name

    def _thinking(self, run: Run) -> Block:
        signature = signature_of(run.text)
        deltas: Deltas = [({"type": "thinking_delta", "thinking": delta}, 1) for delta in run.deltas]
        deltas.append(({"type": "signature_delta", "signature": signature}, 0))
        whole: JsonObject = {"type": "thinking", "thinking": run.text, "signature": signature}
        return Block({"type": "thinking", "thinking": "", "signature": ""}, tuple(deltas), whole)

    def _text(self, run: Run, *, is_cited: bool) -> Block:
        deltas: Deltas = [({"type": "text_delta", "text": delta}, 1) for delta in run.deltas]
        whole: JsonObject = {"type": "text", "text": run.text}
        if is_cited:
            citation = _citation(run)
            deltas.append(({"type": "citations_delta", "citation": citation}, 0))
            whole["citations"] = [citation]
        return Block({"type": "text", "text": ""}, tuple(deltas), whole)

    def _tool_use(self, name: Run, arguments: Run | None, identity: Identity) -> Block:
        text = "" if arguments is None else arguments.text
        deltas: tuple[str, ...] = () if arguments is None else arguments.deltas
        call: JsonObject = {"type": "tool_use", "id": self.tool_use_id(identity, name.tool_index), "name": name.text}
        try:
            sent = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            sent = {}  # cut off by max_tokens
        pieces: Deltas = [({"type": "input_json_delta", "partial_json": delta}, 1) for delta in deltas]
        if text == "{}":  # as Anthropic streams a call without arguments: no JSON at all
            pieces = [({"type": "input_json_delta", "partial_json": ""}, len(deltas))]
        return Block({**call, "input": {}}, tuple(pieces), {**call, "input": sent}, start_tokens=1)

    def _error(self, identity: Identity, complaint: Complaint) -> JsonObject:
        kind = complaint.type or self.error_type(complaint.status)[0]
        error: JsonObject = {"type": kind, "message": complaint.message}
        if complaint.code:
            error["details"] = {"error_code": complaint.code}
        return {"type": "error", "error": error, "request_id": f"req_{identity.hex_id[:24]}"}


def usage_of(tokens: Tokens) -> JsonObject:
    """Input without what the cache read or took in."""
    return {
        "input_tokens": tokens.prompt - tokens.cached - tokens.cache_written - tokens.cache_written_1h,
        "cache_creation_input_tokens": tokens.cache_written + tokens.cache_written_1h,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_written,
            "ephemeral_1h_input_tokens": tokens.cache_written_1h,
        },
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
    }


def _ends(choice: Choice, telling: Telling) -> JsonObject:
    if not telling.has_finish_reason:
        return {"stop_reason": None, "stop_sequence": None}
    if choice.stop_sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_sequence}
    reason = _STOP_REASONS.get(choice.finish_reason, choice.finish_reason)
    if any(run.kind is DeltaKind.REFUSAL for run in choice.runs):
        reason = "refusal"
    return {"stop_reason": reason, "stop_sequence": None}


def _redacted(run: Run) -> Block:
    whole: JsonObject = {"type": "redacted_thinking", "data": redacted_data(run.text)}
    return Block(whole, tuple((None, 1) for _ in run.deltas), whole)


def _citation(run: Run) -> JsonObject:
    return {
        "type": "char_location",
        "cited_text": run.deltas[0],
        "document_index": 0,
        "document_title": "Source",
        "start_char_index": 0,
        "end_char_index": len(run.deltas[0]),
        "file_id": None,
    }
