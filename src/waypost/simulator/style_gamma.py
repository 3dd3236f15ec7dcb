"""Gamma: sorted keys, escaped slashes, exponents, several events in one write, an `event:` line, no `[DONE]`.

Cumulative usage in every chunk and once more beside `"choices":null`, bare hexadecimal ids, tool calls numbered `0`
or not at all, `{"object":"error",…}` for the caller's mistakes and plain text for its own.
"""

from __future__ import annotations

import msgspec

from waypost.simulator.answer import Choice, DeltaKind, Step, Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Complaint, Identity, JsonObject, http_date
from waypost.simulator.style_openai import OpenAIStyle, UsagePlace, tool_calls

_ENCODER = msgspec.json.Encoder(order="sorted")


class Gamma(OpenAIStyle):
    name = "gamma"
    prefix = "/gamma/v1"
    usage_place = UsagePlace.EVERY_CHUNK
    role_chunk_is_own = False
    finish_chunk_is_own = True
    reasoning_field = "reasoning_content"
    group = 3

    def encode(self, value: object) -> bytes:
        return _ENCODER.encode(value).replace(b"/", b"\\/")  # slashes stand inside strings only

    def encode_document(self, value: object) -> bytes:
        return b"\n" + self.encode(value)

    def frame(self, data: bytes) -> bytes:
        return b"event: message\ndata: %b\n\n" % data

    def number(self, value: float) -> object:
        return msgspec.Raw(f"{value:.5E}".encode())

    def answer_id(self, identity: Identity) -> str:
        return identity.hex_id

    def tool_call_id(self, identity: Identity, choice: int, tool_index: int) -> str | None:  # noqa: ARG002 (numbered per answer)
        return str(tool_index) if tool_index % 2 == 0 else None

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("Content-type", content_type),
            ("SERVER", "gamma-serve/0.9.4 (cuda)"),
            ("DATE", http_date(identity)),
            ("X-GAMMA-NODE", "g4-node-0031"),
            ("Alt-Svc", 'h3=":443"; ma=2592000'),
        ]

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:  # noqa: ARG002
        if complaint.status >= 500:
            return "text/plain", f"gamma: {complaint.message}\n".encode()
        return "application/json", self.encode(_envelope(complaint))

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:  # noqa: ARG002 (names no answer)
        return b"event: error\ndata: %b\n\n" % self.encode(_envelope(complaint))

    def usage(self, tokens: Tokens) -> JsonObject:
        usage: JsonObject = {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.prompt + tokens.output,
            "reasoning_tokens": tokens.reasoning,
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }
        if tokens.cached or tokens.cache_written:
            details = {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_written}
            usage["prompt_tokens_details"] = details
        return usage

    def chunk(self, identity: Identity, choices: object, usage: object) -> JsonObject:
        chunk: JsonObject = {
            "id": identity.hex_id,
            "object": "chat.completion.chunk",
            "created": identity.created_s,
            "model": f"{identity.model}:latest",
            "choices": choices or None,
            "timings": {"predicted_ms": self.number(12.5), "cache_n": 0},
        }
        return chunk if usage is msgspec.UNSET else {**chunk, "usage": usage}

    def completion(self, identity: Identity, choices: list[JsonObject], usage: object) -> JsonObject:
        return {**self.chunk(identity, choices, usage), "object": "chat.completion"}

    def chunk_choice(self, index: int, delta: JsonObject, finish_reason: str | None, logprobs: object) -> JsonObject:
        choice: JsonObject = {"index": index, "delta": delta}
        if finish_reason is not None:
            choice["finish_reason"] = finish_reason
        return choice if logprobs is None else {**choice, "logprobs": logprobs}

    def message_choice(self, identity: Identity, choice: Choice, logprobs: object) -> JsonObject:
        message: JsonObject = {"role": "assistant"} if choice.runs else {"role": "assistant", "content": ""}
        names = {DeltaKind.TEXT: "content", DeltaKind.REASONING: self.reasoning_field, DeltaKind.REFUSAL: "refusal"}
        message |= {name: text for kind, name in names.items() if (text := choice.text(kind)) is not None}
        calls = tool_calls(self, identity, choice)
        if calls:
            message["tool_calls"] = calls
        shown: JsonObject = {"index": choice.index, "message": message, "finish_reason": choice.finish_reason}
        return shown if logprobs is None else {**shown, "logprobs": logprobs}

    def role_delta(self) -> JsonObject:
        return {"role": "assistant"}

    def delta(self, identity: Identity, step: Step) -> JsonObject:
        delta: JsonObject = {"role": "assistant"} if step.is_first_of_choice else {}
        match step.kind:
            case DeltaKind.TEXT:
                delta["content"] = step.text
            case DeltaKind.REASONING:
                delta[self.reasoning_field] = step.text
            case DeltaKind.REFUSAL:
                delta["refusal"] = step.text
            case DeltaKind.TOOL_NAME:
                call_id = self.tool_call_id(identity, step.choice, step.tool_index)
                call: JsonObject = {} if call_id is None else {"id": call_id}
                delta["tool_calls"] = [{**call, "index": step.tool_index, "function": {"name": step.text}}]
            case DeltaKind.TOOL_ARGUMENTS:
                delta["tool_calls"] = [{"index": step.tool_index, "function": {"arguments": step.text}}]
        return delta


def _envelope(complaint: Complaint) -> JsonObject:
    return {
        "object": "error",
        "message": complaint.message,
        "type": "BadRequestError" if complaint.status < 500 else "InternalServerError",
        "param": complaint.param,
        "code": complaint.status,
    }
