"""The openai-responses kind's styles, at two of the providers that also have chat completions: Alpha like OpenAI,
Gamma like those who are nearly like it.

Each spells, frames and refuses as its style of chat completions does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import msgspec

from waypost.simulator.answer import Answer, DeltaKind, Run, Tokens
from waypost.simulator.directive import Directives
from waypost.simulator.reply import Headers, Piece, Stage
from waypost.simulator.request import ChatRequest
from waypost.simulator.request_responses import encrypted, read_response
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling, stage_of
from waypost.simulator.style_alpha import Alpha
from waypost.simulator.style_gamma import Gamma
from waypost.simulator.style_openai import OpenAIStyle
from waypost.simulator.words import alternatives, logprob

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

Event = tuple[str, JsonObject, int]
"""Its name, its fields and the output tokens that it brings."""


class ResponsesStyle(Style):
    """Shared rules of Responses."""

    like: OpenAIStyle  # the provider's style of chat completions
    answers_field = "output"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:output_index|input_tokens)":\s*\d+')
    count_fields = ("input_tokens", "output_tokens", "total_tokens")

    def takes(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/responses")

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:  # noqa: ARG002  all is in the body
        return read_response(self.name, body)

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        return self.like.page(method, path, body, models)

    def error_type(self, status: int) -> tuple[str, str | None]:
        return self.like.error_type(status)

    # Spelling

    def encode(self, value: object) -> bytes:
        return self.like.encode(value)

    def encode_document(self, value: object) -> bytes:
        return self.like.encode_document(value)

    def frame(self, data: bytes) -> bytes:
        return self.like.frame(data)

    def event(self, name: str, fields: JsonObject) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), self.encode({"type": name, **fields}))

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return self.like.headers(identity, content_type)

    def answer_id(self, identity: Identity) -> str:
        return f"resp_68{identity.hex_id}"

    def item_id(self, identity: Identity, prefix: str, index: int) -> str:
        return f"{prefix}_68{identity.hex_id}{index:02d}"

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:
        return self.like.error(identity, complaint)

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:  # noqa: ARG002  names no answer
        kind, code = self.error_type(complaint.status)
        code = complaint.code or code or complaint.type or kind
        return self.event("error", {"code": code, "message": complaint.message, "param": None, "sequence_number": 7})

    def usage(self, tokens: Tokens) -> JsonObject:
        return {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_written},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.prompt + tokens.output,
        }

    def usage_event(self, identity: Identity, usage: object) -> bytes:
        response = {"id": self.answer_id(identity), "status": "in_progress", "output": [], "usage": usage}
        return self.event("response.in_progress", {"response": response})

    def late_event(self, identity: Identity) -> bytes:
        fields = {"item_id": self.item_id(identity, "msg", 0), "output_index": 0, "content_index": 0, "delta": " late"}
        return self.event("response.output_text.delta", fields)

    def end_events(self) -> bytes:
        return self.event("response.completed", {"response": {"status": "completed", "output": []}})

    # Putting it together

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        items = [item for item, _ in self._items(answer, identity)]
        return self.encode_document(self._response(answer, identity, telling, items))

    def events(
        self, answer: Answer, identity: Identity, telling: Telling, *, first_s: float, delay_s: float
    ) -> Iterator[Piece]:
        total, position = answer.tokens.output, 0
        for sequence, (name, fields, tokens) in enumerate(self._events(answer, identity, telling)):
            data = self.event(name, {"sequence_number": sequence, **fields})
            stage = stage_of(position, total) if position or tokens else Stage.OPENING
            if name.startswith(("response.completed", "response.incomplete")):
                stage = Stage.USAGE
            yield Piece(data, stage, tokens, (delay_s if position else first_s) if tokens else 0.0)
            position += tokens

    def _events(self, answer: Answer, identity: Identity, telling: Telling) -> Iterator[Event]:
        begun = {**self._response(answer, identity, telling, []), "status": "in_progress", "incomplete_details": None}
        begun["usage"] = None
        yield "response.created", {"response": begun}, 0
        yield "response.in_progress", {"response": begun}, 0
        items = []
        for index, (item, run) in enumerate(self._items(answer, identity)):
            yield from self._item_events(answer, index, item, run)
            items.append(item)
        if telling.has_finish_reason:
            response = self._response(answer, identity, telling, items)
            yield f"response.{response['status']}", {"response": response}, 0

    def _item_events(self, answer: Answer, index: int, item: JsonObject, run: Run) -> Iterator[Event]:
        place: JsonObject = {"item_id": item["id"], "output_index": index}
        added: JsonObject = {"output_index": index, "item": {**item, **_EMPTY[run.kind]}}
        yield "response.output_item.added", added, 1 if run.kind is DeltaKind.TOOL_ARGUMENTS else 0
        match run.kind:
            case DeltaKind.REASONING:
                yield from _reasoning_events(place, item, run)
            case DeltaKind.TOOL_ARGUMENTS:
                for delta in run.deltas:
                    yield "response.function_call_arguments.delta", {**place, "delta": delta}, 1
                yield "response.function_call_arguments.done", {**place, "arguments": run.text}, 0
            case _:
                yield from self._part_events(answer, place, run)
        yield "response.output_item.done", {"output_index": index, "item": item}, 0

    def _part_events(self, answer: Answer, place: JsonObject, run: Run) -> Iterator[Event]:
        place = {**place, "content_index": 0}
        empty = Run(run.kind, ())
        yield "response.content_part.added", {**place, "part": self._part(empty, None)}, 0
        is_text = run.kind is DeltaKind.TEXT
        name = "output_text" if is_text else "refusal"
        for delta in run.deltas:
            fields: JsonObject = {**place, "delta": delta}
            if is_text:
                fields["logprobs"] = self._logprobs((delta,), answer.top_logprobs)
            yield f"response.{name}.delta", fields, 1
        yield f"response.{name}.done", {**place, "text" if is_text else "refusal": run.text}, 0
        yield "response.content_part.done", {**place, "part": self._part(run, answer.top_logprobs)}, 0

    def _items(self, answer: Answer, identity: Identity) -> Iterator[tuple[JsonObject, Run]]:
        """Items, each with the run that brings its text: of a call its arguments."""
        choice = answer.choices[0]
        last = choice.runs[-1] if choice.finish_reason in _INCOMPLETE and choice.runs else None
        name, index = "", 0
        runs: list[Run] = []
        for run in choice.runs:  # a call that was cut off before its arguments has none
            if name and run.kind is not DeltaKind.TOOL_ARGUMENTS:
                runs.append(Run(DeltaKind.TOOL_ARGUMENTS, ()))
            runs.append(run)
            name = run.text if run.kind is DeltaKind.TOOL_NAME else ""
        if name:
            runs.append(Run(DeltaKind.TOOL_ARGUMENTS, ()))
        for run in runs:
            status = "incomplete" if run is last or (last is not None and run is runs[-1]) else "completed"
            item: JsonObject
            match run.kind:
                case DeltaKind.TOOL_NAME:
                    name = run.text
                    continue
                case DeltaKind.REASONING:
                    item = self._reasoning(run, is_redacted=answer.is_redacted)
                case DeltaKind.TOOL_ARGUMENTS:
                    call_id = f"call_{identity.hex_id[12:]}{index:02d}"
                    item = {"type": "function_call", "status": status, "call_id": call_id}
                    item |= {"name": name, "arguments": run.text}
                case _ if not run.deltas:
                    continue  # a stop sequence came first
                case _:
                    content = [self._part(run, answer.top_logprobs)]
                    item = {"type": "message", "status": status, "role": "assistant", "content": content}
            prefix = {"function_call": "fc", "reasoning": "rs"}.get(str(item["type"]), "msg")
            yield {"id": self.item_id(identity, prefix, index), **item}, run
            index += 1

    def _reasoning(self, run: Run, *, is_redacted: bool) -> JsonObject:
        summary = [] if is_redacted else [{"type": "summary_text", "text": run.text}]
        return {"type": "reasoning", "summary": summary, "encrypted_content": encrypted(self.name, run.text)}

    def _part(self, run: Run, top_logprobs: int | None) -> JsonObject:
        if run.kind is DeltaKind.REFUSAL:
            return {"type": "refusal", "refusal": run.text}
        logprobs = self._logprobs(run.deltas, top_logprobs)
        return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": run.text}

    def _logprobs(self, deltas: tuple[str, ...], top: int | None) -> list[JsonObject]:
        def entry(token: str) -> JsonObject:
            return {"token": token, "logprob": self.like.number(logprob(token)), "bytes": list(token.encode())}

        if top is None:
            return []
        return [
            {**entry(token), "top_logprobs": [entry(other) for other in alternatives(token, top)]} for token in deltas
        ]

    def _response(
        self, answer: Answer, identity: Identity, telling: Telling, items: Sequence[JsonObject]
    ) -> JsonObject:
        reason = _INCOMPLETE.get(answer.choices[0].finish_reason)
        status = "completed" if reason is None else "incomplete"
        response: JsonObject = {
            "id": self.answer_id(identity),
            "object": "response",
            "created_at": identity.created_s,
            "status": status if telling.has_finish_reason else "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": identity.model,
            "output": items,
            "parallel_tool_calls": True,
            "service_tier": "default",
            "tool_choice": "auto",
            "store": False,
            "tools": [],
            "billing": {"payer": f"{self.name}-labs"},
        }
        usage = self.told_usage(answer.tokens, telling)
        return response if usage is msgspec.UNSET else {**response, "usage": usage}


_EMPTY: dict[DeltaKind, JsonObject] = {
    DeltaKind.REASONING: {"summary": [], "encrypted_content": None},
    DeltaKind.TOOL_ARGUMENTS: {"arguments": "", "status": "in_progress"},
    DeltaKind.TEXT: {"content": [], "status": "in_progress"},
    DeltaKind.REFUSAL: {"content": [], "status": "in_progress"},
}


def _reasoning_events(place: JsonObject, item: JsonObject, run: Run) -> Iterator[Event]:
    if not item["summary"]:  # thought all the same, and billed
        for _ in run.deltas:
            yield "response.in_progress", {}, 1
        return
    place = {**place, "summary_index": 0}
    yield "response.reasoning_summary_part.added", {**place, "part": {"type": "summary_text", "text": ""}}, 0
    for delta in run.deltas:
        yield "response.reasoning_summary_text.delta", {**place, "delta": delta}, 1
    yield "response.reasoning_summary_text.done", {**place, "text": run.text}, 0
    yield "response.reasoning_summary_part.done", {**place, "part": {"type": "summary_text", "text": run.text}}, 0


class AlphaResponses(ResponsesStyle):
    """Every event with its name, a decoy of random length in each delta."""

    name = Alpha.name
    prefix = Alpha.prefix
    like = Alpha()

    def event(self, name: str, fields: JsonObject) -> bytes:
        if name.endswith(".delta"):
            fields = {**fields, "obfuscation": "x" * (len(str(fields["delta"])) % 16)}
        return super().event(name, fields)


class GammaResponses(ResponsesStyle):
    """No names of events, no deltas of calls, `[DONE]` after the end."""

    name = Gamma.name
    prefix = Gamma.prefix
    like = Gamma()
    group = 3

    def event(self, name: str, fields: JsonObject) -> bytes:
        if name == "response.function_call_arguments.delta":
            return b": thinking\n\n"
        end = b"data: [DONE]\n\n" if name in ("response.completed", "response.incomplete") else b""
        return b"data: %b\n\n" % self.encode({"type": name, **fields}) + end

    def answer_id(self, identity: Identity) -> str:
        return f"resp-{identity.hex_id}"
