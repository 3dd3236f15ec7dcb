"""Eta: sorted and spaced JSON with every character escaped, LF, comments, usage at the end alone, its thoughts within
the candidates' count; the finish in the last event with content; ids of calls, fields that nobody knows.
"""

from __future__ import annotations

import json

import msgspec

from waypost.simulator.answer import Tokens
from waypost.simulator.reply import Headers
from waypost.simulator.style import Identity, JsonObject, http_date
from waypost.simulator.style_gemini import GeminiStyle, usage_of


class Eta(GeminiStyle):
    name = "eta"
    prefix = "/eta"
    group = 2
    is_hex_upper = True
    has_usage_everywhere = False
    finish_is_own = False

    def encode(self, value: object) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    def frame(self, data: bytes) -> bytes:
        return b": eta\ndata:%b\n\n" % data

    def answer_id(self, identity: Identity) -> str:
        return f"eta-{identity.hex_id}"

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return [
            ("server", "eta/2"),
            ("date", http_date(identity)),
            ("content-type", content_type),
            ("x-eta-node", "n-3"),
        ]

    def usage(self, tokens: Tokens) -> JsonObject:
        return {**usage_of(tokens), "candidatesTokenCount": tokens.output, "trafficType": "ON_DEMAND"}

    def call(self, identity: Identity, name: str, arguments: object, tool_index: int) -> JsonObject:
        return {"id": f"eta-call-{tool_index}-{identity.hex_id[:6]}", "name": name, "args": arguments}

    def response(self, identity: Identity, candidates: object, usage: object) -> JsonObject:
        response: JsonObject = {
            "candidates": candidates,
            "createTime": "2026-01-01T00:00:00Z",
            "modelVersion": f"eta/{identity.model}",
            "responseId": self.answer_id(identity),
            "x_eta": {"queueMs": 3},
        }
        return response if usage is msgspec.UNSET else {**response, "usageMetadata": usage}
