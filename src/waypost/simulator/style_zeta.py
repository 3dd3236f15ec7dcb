"""Zeta: like Gemini. CRLF, pretty errors, running usage in every event without its zeros, no ids of calls."""

from __future__ import annotations

import json

import msgspec

from waypost.simulator.answer import Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Identity, JsonObject, http_date
from waypost.simulator.style_gemini import GeminiStyle, usage_of

_ENCODER = msgspec.json.Encoder()


class Zeta(GeminiStyle):
    name = "zeta"
    prefix = "/gemini"

    def encode(self, value: object) -> bytes:
        return _ENCODER.encode(value)

    def encode_document(self, value: object) -> bytes:
        return json.dumps(value, indent=2, ensure_ascii=False, default=str).encode() + b"\n"

    def frame(self, data: bytes) -> bytes:
        return b"data: %b\r\n\r\n" % data

    def answer_id(self, identity: Identity) -> str:
        return identity.hex_id[:23]

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("Content-Type", f"{content_type}; charset=UTF-8" if content_type.endswith("/json") else content_type),
            ("Vary", "Origin"),
            ("Vary", "X-Origin"),
            ("Date", http_date(identity)),
            ("Server", "scaffolding on zeta"),
            ("X-XSS-Protection", "0"),
            ("Server-Timing", "gfet4t7; dur=312"),
            ("Connection", "keep-alive"),
        ]

    def usage(self, tokens: Tokens) -> JsonObject:
        usage = {name: count for name, count in usage_of(tokens).items() if count}
        usage["promptTokensDetails"] = [
            {"modality": "TEXT", "tokenCount": tokens.prompt - tokens.image},
            *([{"modality": "IMAGE", "tokenCount": tokens.image}] if tokens.image else []),
        ]
        return usage

    def call(self, identity: Identity, name: str, arguments: object, tool_index: int) -> JsonObject:  # noqa: ARG002
        call: JsonObject = {"name": name}
        return {**call, "args": arguments} if arguments else call

    def response(self, identity: Identity, candidates: object, usage: object) -> JsonObject:
        response: JsonObject = {"candidates": candidates}
        if usage is not msgspec.UNSET:
            response["usageMetadata"] = usage
        return {**response, "modelVersion": f"{identity.model}-001", "responseId": self.answer_id(identity)}
