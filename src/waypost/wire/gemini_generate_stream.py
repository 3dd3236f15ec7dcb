"""Gemini streamGenerateContent: pieces of an answer as objects of their own, as events or as the elements of an array.

What comes is written at once, but for calls: the format says each of them whole, so their pieces are kept until the
call is. The last object has every finish reason and the usage. A stream that broke ends with an error instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from waypost.kit.errors import Refusal
from waypost.wire.canonical import Chunk, ToolCall, Usage
from waypost.wire.dialects import render_error
from waypost.wire.gemini_generate_answer import (
    MALFORMED_CALL,
    call_part,
    data_part,
    encode_value,
    finish_reason_of,
    render_citations,
    render_end,
    render_identity,
    render_logprobs,
    text_part,
    thought_part,
)
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import ChatRequest
from waypost.wire.sse import EVENTS, HEARTBEAT

JSON = b"application/json"
_SPACE = b"\n"  # between the elements of an array, JSON allows it


class _Candidate:
    """One choice so far."""

    __slots__ = ("calls", "finish_reason", "hidden", "is_malformed")

    def __init__(self) -> None:
        self.calls: dict[int, ToolCall] = {}  # not written yet, by our index
        self.finish_reason = ""
        self.hidden = ""  # thinking that is not shown and not signed yet
        self.is_malformed = False


class GeminiStream:
    """Writes one stream: see `wire.formats.StreamWriter`."""

    __slots__ = ("_begin", "_candidates", "_end", "_identity", "_is_array", "_separator", "_shows", "_tail")

    def __init__(self, request: ChatRequest, identity: AnswerIdentity) -> None:
        self._identity = identity
        self._shows = request.shows_reasoning
        self._is_array = request.is_array
        self._begin, self._end = (b"", b"") if request.is_array else (b"data: ", b"\r\n\r\n")
        self._separator = b"[" if request.is_array else b""
        self._tail = b"}],%b}" % render_identity(identity)
        self._candidates: dict[int, _Candidate] = {}

    @property
    def content_type(self) -> bytes:
        return JSON if self._is_array else EVENTS

    @property
    def heartbeat(self) -> bytes:
        return _SPACE if self._is_array else HEARTBEAT

    def render(self, chunks: Iterable[Chunk]) -> bytes:
        out: list[bytes] = []
        for chunk in chunks:
            candidate = self._candidates.get(chunk.index)
            if candidate is None:
                candidate = self._candidates[chunk.index] = _Candidate()
            if chunk.tool_calls:
                self._keep(chunk, candidate)
            parts = self._parts(chunk, candidate)
            if chunk.finish_reason:
                candidate.finish_reason = chunk.finish_reason
            more = b""
            if chunk.citations:
                more = render_citations(chunk.citations, "")
            if chunk.logprobs is not None and self._identity.wants_logprobs:
                more += render_logprobs(chunk.logprobs)
            if parts or more:
                self._write(out, chunk.index, parts, more)
        return b"".join(out)

    def finish(self, usage: Usage, cost: str) -> bytes:
        candidates: list[bytes] = []
        for index, candidate in sorted(self._candidates.items()):
            parts = self._calls(index, candidate)
            reason = finish_reason_of(candidate.finish_reason or "stop")
            if candidate.is_malformed and candidate.finish_reason == "tool_calls":
                reason = MALFORMED_CALL
            candidates.append(
                b'{"content":{"parts":[%b],"role":"model"},"finishReason":"%b","index":%d}'
                % (b",".join(parts) or text_part(""), reason, index)
            )
        body = b'{"candidates":[%b],%b}' % (b",".join(candidates), render_end(self._identity, usage, cost))
        return self._element(body) + (b"]" if self._is_array else b"")

    def fail(self, refusal: Refusal, request_id: str) -> bytes:
        # The array is closed, since a reader of JSON sees nothing of it otherwise; the error in it is its end.
        return self._element(render_error("gemini", refusal, request_id)) + (b"]" if self._is_array else b"")

    def _element(self, body: bytes) -> bytes:
        separator = self._separator
        if separator == b"[":
            self._separator = b",\r\n"
        return b"%b%b%b%b" % (separator, self._begin, body, self._end)

    def _write(self, out: list[bytes], index: int, parts: list[bytes], more: bytes) -> None:
        head = b'{"candidates":[{"content":{"parts":[%b],"role":"model"},"index":%d%b' % (b",".join(parts), index, more)
        out.append(self._element(head + self._tail))

    def _parts(self, chunk: Chunk, candidate: _Candidate) -> list[bytes]:
        parts: list[bytes] = []
        content, reasoning = chunk.content, chunk.reasoning
        if reasoning and not self._shows:
            candidate.hidden += reasoning
            reasoning = ""
        if candidate.calls and (content or reasoning or chunk.images or chunk.refusal):
            parts += self._calls(chunk.index, candidate)  # something else begins: the calls before it are whole
        if reasoning or chunk.signature is not None:
            text = reasoning or candidate.hidden
            part = thought_part(text, chunk.signature, self._identity, is_shown=self._shows)
            candidate.hidden = ""
            parts += [part] if part else []
        if content:
            parts.append(b'{"text":%b}' % encode_value(content))
        if chunk.refusal:
            parts.append(text_part(chunk.refusal))
        parts += [data_part(image.media_type, image.data) for image in chunk.images]
        return parts

    def _keep(self, chunk: Chunk, candidate: _Candidate) -> None:
        for piece in chunk.tool_calls:
            call = candidate.calls.get(piece.index)
            if call is None:
                candidate.calls[piece.index] = ToolCall(piece.id, piece.name, piece.arguments, piece.signature)
            else:
                call.arguments += piece.arguments

    def _calls(self, index: int, candidate: _Candidate) -> list[bytes]:
        """The calls that are kept, written; those cut short in the middle of their arguments are left out."""
        parts: list[bytes] = []
        for place, call in sorted(candidate.calls.items()):
            part = call_part(call, self._identity, choice=index, index=place)
            if part is None:
                candidate.is_malformed = True
            else:
                parts.append(part)
        candidate.calls.clear()
        return parts
