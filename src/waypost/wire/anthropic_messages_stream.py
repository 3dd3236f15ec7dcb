"""Anthropic Messages, streamed: `message_start`, then block after block, then `message_delta` with the usage of all.

Blocks of this format come one after another, those of others may interleave: pieces of a block that is not yet at its
turn wait until the block before it is whole. A block is whole once another one follows, a call once its arguments are.

The start says 0 for usage, whoever answers: what was used is known at the end, and `message_delta` says all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from waypost.kit.errors import Refusal
from waypost.wire.anthropic_messages_answer import (
    encode_value,
    render_call_signature,
    render_hidden,
    render_stop,
    render_usage,
    shown_image,
)
from waypost.wire.anthropic_messages_citations import render_citation
from waypost.wire.canonical import Chunk, Signature, ToolCallDelta, Usage
from waypost.wire.dialects import render_error
from waypost.wire.identity import AnswerIdentity
from waypost.wire.sse import EVENTS

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_NO_USAGE = (
    b'{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,'
    b'"service_tier":"standard"}'
)
_TEXT_START = b'{"type":"text","text":""}'
_THINKING_START = b'{"type":"thinking","thinking":"","signature":""}'
_TEXT, _THINKING, _HIDDEN, _CALL = "text", "thinking", "hidden", "call"
_is_json = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Open:
    """A block: at its turn, or waiting for it with what it has to say."""

    __slots__ = ("arguments", "is_signed", "kind", "start", "waiting")

    def __init__(self, kind: str, start: bytes) -> None:
        self.kind = kind
        self.start = start  # JSON of the block as it begins
        self.waiting: list[bytes] = []  # deltas as JSON
        self.arguments: list[str] = []
        self.is_signed = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing more is expected once something else has begun."""
        if self.kind is not _CALL:
            return True
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False  # without looking at all of it
        try:
            _is_json("".join(self.arguments).encode())
        except (ValueError, RecursionError):
            return False
        return True


class StreamRenderer:
    """Writes one stream; see `wire.formats.StreamWriter`."""

    content_type = EVENTS
    heartbeat = PING
    __slots__ = (
        "_blocks",
        "_calls",
        "_finish_reason",
        "_has_refused",
        "_identity",
        "_index",
        "_is_begun",
        "_shows",
        "_stop_sequence",
        "_text_head",
    )

    def __init__(self, identity: AnswerIdentity, *, shows: bool) -> None:
        self._identity = identity
        self._shows = shows  # whether the caller wants to read the thinking
        self._blocks: deque[_Open] = deque()  # the first one is at its turn
        self._calls: dict[int, _Open] = {}
        self._index = 0  # of the block at its turn
        self._text_head = b""  # everything up to the text of a `text_delta` for the block at its turn
        self._is_begun = False
        self._has_refused = False
        self._finish_reason = "stop"
        self._stop_sequence = ""

    def render(self, chunks: Iterable[Chunk]) -> bytes:
        out: list[bytes] = []
        if not self._is_begun:
            self._is_begun = True
            out.append(self._message_start())
        for chunk in chunks:
            content = chunk.content
            if content and self._text_head and not chunk.opens_block and _is_text_alone(chunk):
                out += (self._text_head, encode_value(content), b"}}\n\n")
            elif chunk.index == 0:
                self._take(chunk, out)
        return b"".join(out)

    def finish(self, usage: Usage, cost: str) -> bytes:
        out = [] if self._is_begun else [self._message_start()]
        while self._blocks:
            self._close(out)
        reason = "refusal" if self._has_refused and self._finish_reason == "stop" else self._finish_reason
        out.append(
            b'event: message_delta\ndata: {"type":"message_delta","delta":{%b},"usage":%b}\n\n'
            % (render_stop(reason, self._stop_sequence), render_usage(usage, cost))
        )
        out.append(_MESSAGE_STOP)
        return b"".join(out)

    def fail(self, refusal: Refusal, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % render_error("anthropic", refusal, request_id)

    def _message_start(self) -> bytes:
        return (
            b'event: message_start\ndata: {"type":"message_start","message":{"id":"%b","type":"message",'
            b'"role":"assistant","model":%b,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%b}}\n\n'
            % (self._identity.completion_id.encode(), encode_value(self._identity.model), _NO_USAGE)
        )

    # Which block a piece belongs to

    def _take(self, chunk: Chunk, out: list[bytes]) -> None:
        if chunk.reasoning:
            block = self._block(_THINKING, _THINKING_START, chunk, out)
            if self._shows:
                self._add(block, b'{"type":"thinking_delta","thinking":%b}' % encode_value(chunk.reasoning), out)
        if chunk.signature is not None:
            self._sign(chunk.signature, out, is_alone=chunk.opens_block and not chunk.reasoning)
        if chunk.content:
            self._add_text(chunk.content, chunk, out)
        for citation in chunk.citations:
            block = self._block(_TEXT, _TEXT_START, None, out)
            self._add(block, b'{"type":"citations_delta","citation":%b}' % render_citation(citation), out)
        if chunk.refusal:
            self._has_refused = True
            self._add_text(chunk.refusal, None, out)
        for image in chunk.images:
            self._add_text(shown_image(image), Chunk(0, opens_block=True), out)
        if chunk.audio is not None and chunk.audio.transcript:
            self._add_text(chunk.audio.transcript, None, out)
        for call in chunk.tool_calls:
            self._take_call(call, out)
        if chunk.finish_reason:
            self._finish_reason, self._stop_sequence = chunk.finish_reason, chunk.stop_sequence

    def _add_text(self, text: str, chunk: Chunk | None, out: list[bytes]) -> None:
        block = self._block(_TEXT, _TEXT_START, chunk, out)
        self._add(block, b'{"type":"text_delta","text":%b}' % encode_value(text), out)

    def _block(self, kind: str, start: bytes, chunk: Chunk | None, out: list[bytes]) -> _Open:
        """The block under way when it is of that kind, else a new one."""
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.kind is kind and not last.is_signed and not (chunk and chunk.opens_block):
            return last
        return self._open(_Open(kind, start), out)

    def _sign(self, signature: Signature, out: list[bytes], *, is_alone: bool) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.kind is _THINKING and not last.is_signed and not is_alone:
            last.is_signed = True
            sealed = self._identity.sealed(signature).encode()
            self._add(last, b'{"type":"signature_delta","signature":"%b"}' % sealed, out)
        elif self._shows:
            self._open(_Open(_HIDDEN, render_hidden(signature, self._identity, shows=True)), out)
        else:
            block = self._open(_Open(_THINKING, _THINKING_START), out)
            block.is_signed = True
            sealed = self._identity.sealed(signature).encode()
            self._add(block, b'{"type":"signature_delta","signature":"%b"}' % sealed, out)

    def _take_call(self, piece: ToolCallDelta, out: list[bytes]) -> None:
        block = self._calls.get(piece.index)
        if block is None:
            if piece.signature is not None:
                self._open(_Open(_HIDDEN, render_call_signature(piece.signature, self._identity)), out)
            call_id = self._identity.tool_call_id(piece.id, choice=0, index=piece.index, prefix="toolu_")
            start = b'{"type":"tool_use","id":"%b","name":%b,"input":{}}' % (
                call_id.encode(),
                encode_value(piece.name),
            )
            block = self._calls[piece.index] = self._open(_Open(_CALL, start), out)
        if piece.arguments:
            block.arguments.append(piece.arguments)
            self._add(block, b'{"type":"input_json_delta","partial_json":%b}' % encode_value(piece.arguments), out)
            if len(self._blocks) > 1:
                self._advance(out)

    # Whose turn it is

    def _open(self, block: _Open, out: list[bytes]) -> _Open:
        self._blocks.append(block)
        if len(self._blocks) == 1:
            self._start(out)
        else:
            self._advance(out)
        return block

    def _advance(self, out: list[bytes]) -> None:
        """Close what is whole, now that something follows it."""
        while len(self._blocks) > 1 and self._blocks[0].is_whole:
            self._close(out)

    def _start(self, out: list[bytes]) -> None:
        block = self._blocks[0]
        out.append(
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, block.start)
        )
        self._text_head = b""
        if block.kind is _TEXT:
            self._text_head = (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"text_delta","text":' % self._index
            )
        waiting, block.waiting = block.waiting, []
        for delta in waiting:
            self._write(delta, out)

    def _add(self, block: _Open, delta: bytes, out: list[bytes]) -> None:
        if block is self._blocks[0]:
            self._write(delta, out)
        else:
            block.waiting.append(delta)

    def _write(self, delta: bytes, out: list[bytes]) -> None:
        out.append(
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
            % (self._index, delta)
        )

    def _close(self, out: list[bytes]) -> None:
        """End the block at its turn, and begin the next one's."""
        block = self._blocks[0]
        if block.kind is _THINKING and not block.is_signed:
            sealed = self._identity.sealed(None).encode()
            self._write(b'{"type":"signature_delta","signature":"%b"}' % sealed, out)
        out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index)
        self._blocks.popleft()
        self._index += 1
        self._text_head = b""
        if self._blocks:
            self._start(out)


def _is_text_alone(chunk: Chunk) -> bool:
    """Whether a chunk has text and nothing else to tell."""
    return not (
        chunk.reasoning
        or chunk.tool_calls
        or chunk.refusal
        or chunk.finish_reason
        or chunk.signature is not None
        or chunk.citations
        or chunk.images
        or chunk.audio is not None
    )
