"""Epsilon: sorted and spaced JSON with every character escaped, CRLF, `data:` first, pings and comments in between.

Zeros for usage at the start and all of it at the end, in a `message_delta` after the one with the stop reason; text
that begins in the start of its block; ids of another provider; fields that nobody knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Run, Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Identity, JsonObject, http_date
from waypost.simulator.style_anthropic import AnthropicStyle, Block, usage_of


class Epsilon(AnthropicStyle):
    name = "epsilon"
    prefix = "/epsilon"
    group = 2
    is_hex_upper = True

    def encode(self, value: object) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    def frame(self, data: bytes) -> bytes:
        return b"data:%b\r\nevent:message_delta\r\n\r\n" % data

    def event(self, name: str, fields: JsonObject) -> bytes:
        return b"data:%b\r\nevent:%b\r\n\r\n" % (self.encode({"type": name, **fields}), name.encode())

    def answer_id(self, identity: Identity) -> str:
        return f"msg-{identity.hex_id}"

    def tool_use_id(self, identity: Identity, tool_index: int) -> str:
        return f"call_{tool_index}_{identity.hex_id[:8]}"

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("server", "epsilon/3"),
            ("date", http_date(identity)),
            ("content-type", content_type),
            ("x-request-id", identity.hex_id),
            ("x-epsilon-node", "e-7"),
        ]

    def usage(self, tokens: Tokens) -> JsonObject:
        usage = usage_of(tokens)
        if not tokens.cache_written_1h:
            del usage["cache_creation"]
        if not tokens.reasoning:
            del usage["output_tokens_details"]
        return {**usage, "prompt_tokens": tokens.prompt, "server_tool_use": None}

    def message(self, identity: Identity, content: Sequence[JsonObject], usage: object, ends: JsonObject) -> JsonObject:
        message: JsonObject = {
            "id": self.answer_id(identity),
            "type": "message",
            "role": "assistant",
            "model": f"epsilon/{identity.model}",
            "content": content,
            "x_epsilon": {"queue_ms": 3},
            **ends,
        }
        return message if usage is msgspec.UNSET else {**message, "usage": usage}

    def opening(self, identity: Identity, usage: object) -> Iterator[bytes]:
        yield b": epsilon\r\n\r\n"
        yield self.event("ping", {})
        begun = msgspec.UNSET if usage is msgspec.UNSET else {"input_tokens": 0, "output_tokens": 0}
        yield self.event("message_start", {"message": self.message(identity, [], begun, {"stop_reason": None})})

    def closing(self, ends: JsonObject, usage: object) -> Iterator[bytes]:
        if usage is msgspec.UNSET:
            yield self.event("message_delta", {"delta": ends})
        else:
            yield self.event("message_delta", {"delta": ends, "usage": {"output_tokens": 0}})
            yield self.event("message_delta", {"delta": ends, "usage": usage})

    def _text(self, run: Run, *, is_cited: bool) -> Block:
        block = super()._text(run, is_cited=is_cited)
        start: JsonObject = {"type": "text", "text": run.deltas[0], "citations": None}
        return replace(block, start=start, deltas=block.deltas[1:], start_tokens=1)
