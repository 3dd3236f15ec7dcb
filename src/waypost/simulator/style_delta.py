"""Delta: like Anthropic. Compact JSON, `event:` lines, a ping after the start, usage at the start and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from waypost.simulator.answer import Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Identity, JsonObject, http_date
from waypost.simulator.style_anthropic import AnthropicStyle, usage_of

_ENCODER = msgspec.json.Encoder()


class Delta(AnthropicStyle):
    name = "delta"
    prefix = "/anthropic"

    def encode(self, value: object) -> bytes:
        return _ENCODER.encode(value)

    def frame(self, data: bytes) -> bytes:
        return b"event: message_delta\ndata: %b\n\n" % data

    def event(self, name: str, fields: JsonObject) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), self.encode({"type": name, **fields}))

    def answer_id(self, identity: Identity) -> str:
        return f"msg_01{identity.hex_id[10:]}"

    def tool_use_id(self, identity: Identity, tool_index: int) -> str:
        return f"toolu_01{identity.hex_id[12:]}{tool_index:02d}"

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("Date", http_date(identity)),
            ("Content-Type", f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type),
            ("Connection", "keep-alive"),
            ("anthropic-ratelimit-requests-limit", "4000"),
            ("anthropic-ratelimit-requests-remaining", "3999"),
            ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:00Z"),
            ("anthropic-organization-id", "0c6a3f6e-delta"),
            ("request-id", f"req_01{identity.hex_id[10:]}"),
            ("Server", "delta-edge"),
        ]

    def usage(self, tokens: Tokens) -> JsonObject:
        return {**usage_of(tokens), "service_tier": "standard", "inference_geo": "global"}

    def message(self, identity: Identity, content: Sequence[JsonObject], usage: object, ends: JsonObject) -> JsonObject:
        message: JsonObject = {
            "model": identity.model,
            "id": self.answer_id(identity),
            "type": "message",
            "role": "assistant",
            "content": content,
            **ends,
            "stop_details": None,
        }
        return message if usage is msgspec.UNSET else {**message, "usage": usage}

    def opening(self, identity: Identity, usage: object) -> Iterator[bytes]:
        begun = {**usage, "output_tokens": 1} if isinstance(usage, dict) else usage
        ends: JsonObject = {"stop_reason": None, "stop_sequence": None}
        yield self.event("message_start", {"message": self.message(identity, [], begun, ends)})
        yield self.event("ping", {})

    def closing(self, ends: JsonObject, usage: object) -> Iterator[bytes]:
        fields: JsonObject = {"delta": {**ends, "stop_details": None, "container": None}}
        yield self.event("message_delta", fields if usage is msgspec.UNSET else {**fields, "usage": usage})
