"""What goes over the wire in every scenario: a request of 1 KB, a plain answer of 600 bytes, the chunks of a stream."""

from __future__ import annotations

import json
import re

PATH = "/v1/chat/completions"
REQUEST_BYTES = 1024
ANSWER_BYTES = 600
INPUT_TOKENS = 200
OUTPUT_TOKENS = 50
STAMP_EVERY = 10  # every tenth chunk carries the moment of its sending

_SHAPE = re.compile(rb"chunks-(\d{1,6})-every-(\d{1,6})ms")
_ENVELOPE = {"id": "chatcmpl-9x8Yk2mQzP4sT7vWbN1c", "created": 1767225600, "system_fingerprint": "fp_44709d6fcb"}
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


def request_body(model: str, *, is_stream: bool) -> bytes:
    """A chat completion request, padded to `REQUEST_BYTES`."""
    fields: dict[str, object] = {"model": model, "max_tokens": 256, "temperature": 0.7}
    if is_stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    system = {"role": "system", "content": "You answer in one short paragraph."}

    def encode(text: str) -> bytes:
        return json.dumps({**fields, "messages": [system, {"role": "user", "content": text}]}).encode()

    return encode(_words(REQUEST_BYTES - len(encode(""))))


def answer_body() -> bytes:
    """A chat completion with usage, padded to `ANSWER_BYTES`."""

    def encode(text: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return json.dumps(
            {**_ENVELOPE, "object": "chat.completion", "model": "upstream", "choices": [choice], "usage": _USAGE}
        ).encode()

    return encode(_words(ANSWER_BYTES - len(encode(""))))


def stream_model(chunks: int, pace_ms: int) -> str:
    """The upstream model name that tells the mock how to stream: `chunks-100-every-10ms`."""
    return f"chunks-{chunks}-every-{pace_ms}ms"


def stream_shape(request: bytes) -> tuple[int, int]:
    """Chunks and pace in milliseconds that the request's model asks for."""
    found = _SHAPE.search(request)
    return (int(found[1]), int(found[2])) if found else (100, 10)


def stream_event(index: int, chunks: int, *, now_ns: int) -> bytes:
    """Event `index` of `chunks`: the role, the text, the finish reason, the usage. `[DONE]` follows them."""
    if index == chunks - 1:
        return _event(
            {**_ENVELOPE, "object": "chat.completion.chunk", "model": "upstream", "choices": [], "usage": _USAGE}
        )
    if index == chunks - 2:
        return _event(_chunk({}, "stop"))
    if index == 0:
        return _event(_chunk({"role": "assistant", "content": ""}, None))
    if index % STAMP_EVERY == 0:
        return _STAMPED % now_ns
    return _WORD


DONE_MARK = b"data: [DONE]"
DONE = DONE_MARK + b"\n\n"
EVENT_MARK = b"data: {"  # present once in every event but the last, whoever rendered it


def _chunk(delta: dict[str, str], finish_reason: str | None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**_ENVELOPE, "object": "chat.completion.chunk", "model": "upstream", "choices": [choice]}


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


_WORD = _event(_chunk({"content": " harbour"}, None))
_STAMPED = _event(_chunk({"content": " @%d@"}, None))


def _words(length: int) -> str:
    return ("The harbour lay still and every lamp was lit. " * (1 + length // 46))[:length]
