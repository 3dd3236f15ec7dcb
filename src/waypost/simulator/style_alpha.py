"""Alpha: like OpenAI. Title-case headers, `chatcmpl-` ids, role, finish and usage in chunks of their own, `[DONE]`."""

from __future__ import annotations

import msgspec

from waypost.simulator.answer import Choice, DeltaKind, Step, Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Complaint, Identity, JsonObject, http_date
from waypost.simulator.style_openai import OpenAIStyle, UsagePlace, tool_calls

_ENCODER = msgspec.json.Encoder()


class Alpha(OpenAIStyle):
    name = "alpha"
    prefix = "/v1"
    usage_place = UsagePlace.OWN_CHUNK
    role_chunk_is_own = True
    finish_chunk_is_own = True
    done = b"data: [DONE]\n\n"
    reasoning_field = "reasoning_content"

    def encode(self, value: object) -> bytes:
        return _ENCODER.encode(value)

    def encode_document(self, value: object) -> bytes:
        return msgspec.json.format(_ENCODER.encode(value), indent=2) + b"\n"

    def frame(self, data: bytes) -> bytes:
        return b"data: %b\n\n" % data

    def answer_id(self, identity: Identity) -> str:
        return f"chatcmpl-A{identity.hex_id[4:]}"

    def tool_call_id(self, identity: Identity, choice: int, tool_index: int) -> str:
        return f"call_{identity.hex_id[12:]}{choice:02d}{tool_index:02d}"

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("Date", http_date(identity)),
            ("Content-Type", f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type),
            ("Connection", "keep-alive"),
            ("access-control-expose-headers", "X-Request-ID"),
            ("openai-organization", "alpha-labs"),
            ("openai-processing-ms", "217"),
            ("openai-version", "2020-10-01"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-reset-requests", "6ms"),
            ("X-Request-ID", f"req_{identity.hex_id}"),
            ("CF-RAY", f"{identity.hex_id[-16:]}-AMS"),
            ("Server", "alpha-cloud"),
        ]

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:  # noqa: ARG002
        return "application/json", self.encode_document({"error": _envelope(complaint)})

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:  # noqa: ARG002 (names no answer)
        return self.frame(self.encode({"error": _envelope(complaint)}))

    def usage(self, tokens: Tokens) -> JsonObject:
        return {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.prompt + tokens.output,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "audio_tokens": 0,
                **({"cache_write_tokens": tokens.cache_written} if tokens.cache_written else {}),
            },
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def chunk(self, identity: Identity, choices: object, usage: object) -> JsonObject:
        chunk: JsonObject = {
            "id": self.answer_id(identity),
            "object": "chat.completion.chunk",
            "created": identity.created_s,
            "model": identity.model,
            "service_tier": "default",
            "system_fingerprint": "fp_a1b2c3d4e5",
            "choices": choices,
        }
        if usage is not msgspec.UNSET:
            chunk["usage"] = usage
        chunk["obfuscation"] = identity.hex_id[:9]
        return chunk

    def completion(self, identity: Identity, choices: list[JsonObject], usage: object) -> JsonObject:
        completion: JsonObject = {
            "id": self.answer_id(identity),
            "object": "chat.completion",
            "created": identity.created_s,
            "model": identity.model,
            "choices": choices,
        }
        if usage is not msgspec.UNSET:
            completion["usage"] = usage
        return {**completion, "service_tier": "default", "system_fingerprint": "fp_a1b2c3d4e5"}

    def chunk_choice(self, index: int, delta: JsonObject, finish_reason: str | None, logprobs: object) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def message_choice(self, identity: Identity, choice: Choice, logprobs: object) -> JsonObject:
        content = choice.text(DeltaKind.TEXT) if choice.runs else ""
        message: JsonObject = {"role": "assistant", "content": content}
        if (reasoning := choice.text(DeltaKind.REASONING)) is not None:
            message[self.reasoning_field] = reasoning
        calls = tool_calls(self, identity, choice)
        if calls:
            message["tool_calls"] = calls
        message |= {"refusal": choice.text(DeltaKind.REFUSAL), "annotations": []}
        return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def role_delta(self) -> JsonObject:
        return {"role": "assistant", "content": "", "refusal": None}

    def delta(self, identity: Identity, step: Step) -> JsonObject:
        match step.kind:
            case DeltaKind.TEXT:
                return {"content": step.text}
            case DeltaKind.REASONING:
                return {self.reasoning_field: step.text}
            case DeltaKind.REFUSAL:
                return {"refusal": step.text}
            case DeltaKind.TOOL_NAME:
                call: JsonObject = {
                    "index": step.tool_index,
                    "id": self.tool_call_id(identity, step.choice, step.tool_index),
                    "type": "function",
                    "function": {"name": step.text, "arguments": ""},
                }
            case DeltaKind.TOOL_ARGUMENTS:
                call = {"index": step.tool_index, "function": {"arguments": step.text}}
        return {"tool_calls": [call]}


def _envelope(complaint: Complaint) -> JsonObject:
    return {"message": complaint.message, "type": complaint.type, "param": complaint.param, "code": complaint.code}
