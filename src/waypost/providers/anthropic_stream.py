"""Reads a streamed answer of the anthropic kind: bytes in, chunks of the closed set out.

message_start → (content_block_start → delta … → content_block_stop) … → message_delta → message_stop. The answer is
complete once a stop reason came; `message_stop` alone does not make it so, and its absence does not unmake it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.providers.anthropic_fields import (
    ABSENT,
    MESSAGE_FIELDS,
    Block,
    Counted,
    arguments_of,
    failure_of_document,
    finish_reason_of,
    hidden_signature,
    shown_signature,
)
from waypost.providers.error_map import decode_error
from waypost.providers.kind import BadAnswer, ErrorRule, UpstreamError
from waypost.wire.anthropic_messages_citations import citation_of
from waypost.wire.canonical import Chunk, ToolCallDelta, Usage
from waypost.wire.sse import SseParser, SseTooLarge

CALLS_MAX = 1_024  # tool calls of one answer; a stream that opens more is not one


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    citation: msgspec.Raw = ABSENT
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    usage: msgspec.Raw = ABSENT


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = ABSENT


class _Start(msgspec.Struct, gc=False):
    message: dict[str, msgspec.Raw] = {}


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_start = msgspec.json.Decoder(_Start).decode


class AnthropicStream:
    """One streamed answer. See `providers.kind.StreamReader`."""

    __slots__ = (
        "_block",
        "_broken_by",
        "_calls",
        "_counted",
        "_has_arguments",
        "_has_said",
        "_is_finished",
        "_opens",
        "_parser",
        "_rules",
        "_signature",
        "answer_id",
        "is_done",
        "output_bytes",
        "unknown_fields",
    )

    def __init__(self, *, rules: Sequence[ErrorRule] = ()) -> None:
        self._parser = SseParser()
        self._rules = rules
        self._counted = Counted()
        self._block: Block | None = None  # under way
        self._opens = False  # nothing of it was said yet
        self._has_said = False
        self._signature = ""
        self._has_arguments = False
        self._calls = 0
        self._is_finished = False
        self._broken_by: UpstreamError | BadAnswer | None = None
        self.answer_id = ""
        self.unknown_fields = 0
        self.output_bytes = 0
        self.is_done = False

    @property
    def usage(self) -> Usage | None:
        return self._counted.usage

    @property
    def is_broken(self) -> bool:
        return self._broken_by is not None

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            self._read_events(data, chunks)
        except (UpstreamError, BadAnswer) as error:
            # What came before the error was said, however the provider's bytes were cut into reads.
            self._broken_by = error
            if not chunks:
                raise
        return chunks

    def end(self) -> None:
        if self._broken_by is not None:
            raise self._broken_by
        if not self._is_finished:
            raise BadAnswer

    def _read_events(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            for event in self._parser.feed(data):
                if self.is_done:
                    break
                name, body = (b"", event) if isinstance(event, bytes) else event
                if name != b"ping" and body:
                    self._read(name, body, chunks)
        except (SseTooLarge, ValueError, RecursionError):
            # A decoder's ValueError or RecursionError: the event is not what the format promises.
            raise BadAnswer from None

    def _read(self, name: bytes, body: bytes, chunks: list[Chunk]) -> None:
        if body == b"[DONE]":  # as others end
            self.is_done = True
            return
        event = _decode_event(body)
        match event.type or name.decode("ascii", "replace"):
            case "content_block_delta":
                if event.delta is not None:
                    self._read_delta(event.delta, chunks)
            case "content_block_start":
                self._close(chunks)
                self._open(event.content_block or Block(), chunks)
            case "content_block_stop":
                self._close(chunks)
            case "message_start":
                self.unknown_fields = len(_decode_start(body).message.keys() - MESSAGE_FIELDS)
                if event.message is not None:
                    self._counted.add(event.message.usage)
                    self.answer_id = event.message.id or ""
            case "message_delta":
                self._counted.add(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    self._finish(event.delta, chunks)
            case "message_stop":
                self.is_done = True
            case "error":
                raise UpstreamError(failure_of_document(200, decode_error(body), self._rules))
            case _:
                pass  # there may be other events, says Anthropic

    def _open(self, block: Block, chunks: list[Chunk]) -> None:
        self._block = block
        self._opens = True
        self._has_said = self._has_arguments = False
        self._signature = block.signature or ""
        match block.type:
            case "text" if block.text:
                self._say(Chunk(0, block.text), block.text, chunks)
            case "thinking" if block.thinking:
                self._say(Chunk(0, reasoning=block.thinking), block.thinking, chunks)
            case "redacted_thinking":
                chunks.append(Chunk(0, signature=hidden_signature(block.data or ""), opens_block=True))
            case "tool_use":
                if not block.name or self._calls >= CALLS_MAX:
                    raise BadAnswer
                self._calls += 1
                self._call(block.name, "", chunks)

    def _read_delta(self, delta: _Delta, chunks: list[Chunk]) -> None:
        match delta.type:
            case "text_delta" if delta.text:
                self._say(Chunk(0, delta.text), delta.text, chunks)
            case "thinking_delta" if delta.thinking:
                self._say(Chunk(0, reasoning=delta.thinking), delta.thinking, chunks)
            case "input_json_delta" if delta.partial_json:
                if self._block is None or self._block.type != "tool_use":
                    raise BadAnswer
                self._has_arguments = True
                self._call("", delta.partial_json, chunks)
            case "signature_delta":
                self._signature += delta.signature
            case "citations_delta":
                citation = citation_of(delta.citation)
                if citation is not None:
                    chunks.append(Chunk(0, citations=(citation,)))

    def _say(self, chunk: Chunk, text: str, chunks: list[Chunk]) -> None:
        self.output_bytes += len(text) if text.isascii() else len(text.encode())
        if self._opens:
            chunk.opens_block, self._opens = True, False
        self._has_said = True
        chunks.append(chunk)

    def _call(self, name: str, arguments: str, chunks: list[Chunk]) -> None:
        assert self._block is not None
        self.output_bytes += len(name) + len(arguments.encode())
        call = ToolCallDelta(self._calls - 1, self._block.id or "", name, arguments)
        chunks.append(Chunk(0, tool_calls=(call,)))

    def _close(self, chunks: list[Chunk]) -> None:
        """The block under way is over, whether it said so or another thing began."""
        block, self._block = self._block, None
        if block is None:
            return
        if block.type == "thinking" and self._signature:
            signed = Chunk(0, signature=shown_signature(self._signature), opens_block=not self._has_said)
            chunks.append(signed)
        elif block.type == "tool_use" and not self._has_arguments:
            self._block = block
            self._call("", arguments_of(block.input) or "{}", chunks)
            self._block = None

    def _finish(self, delta: _Delta, chunks: list[Chunk]) -> None:
        reason = finish_reason_of(delta.stop_reason, has_calls=self._calls > 0)
        self._close(chunks)
        if not self._is_finished:
            self._is_finished = True
            chunks.append(Chunk(0, finish_reason=reason, stop_sequence=delta.stop_sequence or ""))
