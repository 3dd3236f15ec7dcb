"""Beta: spaced JSON with every character escaped, `data:` without a space, CRLF, comments, events torn over segments.

Role in every chunk, finish reason and usage inside the last content chunk, UUID ids, tool ids of another provider,
`{"detail": …}` for errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from waypost.simulator.answer import Answer, Choice, DeltaKind, Step, Tokens
from waypost.simulator.reply import Headers, Piece, Stage
from waypost.simulator.style import Complaint, Identity, JsonObject, Telling, http_date
from waypost.simulator.style_openai import OpenAIStyle, UsagePlace, tool_calls

_ODD_BYTES = 37  # a prime, so that the cut falls somewhere else in every event
_EXTRA = {"provider": "Beta Labs", "x_beta": {"region": "eu-2", "queue_ms": 0.25}}


class Beta(OpenAIStyle):
    name = "beta"
    prefix = "/beta/v1"
    usage_place = UsagePlace.LAST_CONTENT
    role_chunk_is_own = False
    finish_chunk_is_own = False
    done = b"data:[DONE]\r\n\r\n"
    reasoning_field = "reasoning"
    is_hex_upper = True

    def encode(self, value: object) -> bytes:
        return json.dumps(value).encode()

    def frame(self, data: bytes) -> bytes:
        return b"data:%b\r\n\r\n" % data

    def split(self, data: bytes) -> list[bytes]:
        """A third of the events in two, at a place that has nothing to do with lines or characters."""
        cut = len(data) % _ODD_BYTES + 1
        return [data[:cut], data[cut:]] if cut < len(data) and len(data) % 3 == 0 else [data]

    def answer_id(self, identity: Identity) -> str:
        h = identity.hex_id
        return f"cmpl-{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def tool_call_id(self, identity: Identity, choice: int, tool_index: int) -> str:
        return f"toolu_{choice:02d}{tool_index:02d}{identity.hex_id[12:]}"

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("server", "uvicorn"),
            ("date", http_date(identity)),
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("x-generation-id", self.answer_id(identity)),
            ("x-beta-backend", "beta-gpu-17.internal.beta.example"),
            ("via", "1.1 beta-edge"),
            ("set-cookie", "beta_lb=17; Path=/; HttpOnly"),
        ]

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:  # noqa: ARG002
        if complaint.status == 422:
            detail: object = [{"loc": ["body", complaint.param], "msg": complaint.message, "type": "value_error"}]
        else:
            detail = complaint.message
        return "application/json", self.encode({"detail": detail})

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:
        choices = [{"delta": {"content": ""}, "finish_reason": "error", "index": 0}]
        chunk = self.chunk(identity, choices, msgspec.UNSET)
        error = {"code": complaint.status, "message": complaint.message, "metadata": {"error_type": complaint.type}}
        return self.frame(self.encode({"error": error, **chunk}))

    def usage(self, tokens: Tokens) -> JsonObject:
        return {
            "completion_tokens": tokens.output,
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning} if tokens.reasoning else None,
            "prompt_tokens": tokens.prompt,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.cache_written,
                "image_tokens": tokens.image,
                "text_tokens": tokens.prompt - tokens.image,
            },
            "total_tokens": tokens.prompt + tokens.output,
            "cost": 0.000125,
        }

    def chunk(self, identity: Identity, choices: object, usage: object) -> JsonObject:
        chunk = {
            "choices": choices,
            "object": "chat.completion.chunk",
            "model": f"beta-labs/{identity.model}",
            "created": identity.created_s,
            "id": self.answer_id(identity),
            **_EXTRA,
        }
        return chunk if usage is msgspec.UNSET else {**chunk, "usage": usage}

    def completion(self, identity: Identity, choices: list[JsonObject], usage: object) -> JsonObject:
        return {**self.chunk(identity, choices, usage), "object": "chat.completion"}

    def chunk_choice(self, index: int, delta: JsonObject, finish_reason: str | None, logprobs: object) -> JsonObject:
        choice = {"finish_reason": finish_reason, "delta": delta, "index": index, "logprobs": logprobs}
        return {**choice, "native_finish_reason": finish_reason, "stop_reason": None}

    def message_choice(self, identity: Identity, choice: Choice, logprobs: object) -> JsonObject:
        refusal = choice.text(DeltaKind.REFUSAL)
        message: JsonObject = {
            "tool_calls": tool_calls(self, identity, choice),
            "content": None if refusal is not None else choice.text(DeltaKind.TEXT) or "",
            "role": "assistant",
            "function_call": None,
            self.reasoning_field: choice.text(DeltaKind.REASONING),
            "refusal": refusal,
        }
        shown = {"finish_reason": choice.finish_reason, "message": message, "index": choice.index, "logprobs": logprobs}
        return {**shown, "native_finish_reason": choice.finish_reason}

    def role_delta(self) -> JsonObject:
        return {"role": "assistant"}

    def delta(self, identity: Identity, step: Step) -> JsonObject:
        delta: JsonObject = {"role": "assistant", "content": None, self.reasoning_field: None}
        match step.kind:
            case DeltaKind.TEXT:
                delta["content"] = step.text
            case DeltaKind.REASONING:
                delta[self.reasoning_field] = step.text
            case DeltaKind.REFUSAL:
                delta["refusal"] = step.text
            case DeltaKind.TOOL_NAME:
                call_id: str | None = self.tool_call_id(identity, step.choice, step.tool_index)
                delta["tool_calls"] = [_call(step.tool_index, call_id, step.text, "")]
            case DeltaKind.TOOL_ARGUMENTS:
                delta["tool_calls"] = [_call(step.tool_index, None, None, step.text)]
        return delta

    def opening(self, answer: Answer, identity: Identity, telling: Telling) -> Iterator[Piece]:
        yield Piece(b": BETA PROCESSING\r\n\r\n", Stage.OPENING)
        yield from super().opening(answer, identity, telling)


def _call(index: int, call_id: str | None, name: str | None, arguments: str) -> JsonObject:
    return {"function": {"arguments": arguments, "name": name}, "type": "function", "id": call_id, "index": index}
