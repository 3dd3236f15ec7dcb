"""The caller's side of an execution: what dispatch delivers, written in the caller's format.

A relay answers one exchange. Before its first byte it may still answer with any status; after it (content, or a
heartbeat) an error is told within the stream, and the stream never ends as if it were whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from waypost.dispatch.ports import Running
from waypost.kit import ids
from waypost.kit.errors import Refusal
from waypost.kit.money import Nanos, format_usd
from waypost.kit.values import replace
from waypost.transport.exchange import Exchange
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.dialects import error_headers, render_error
from waypost.wire.formats import ChatFormat
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import ChatRequest

HEARTBEAT_S = 15.0
LOOKS = 15  # at a stream between two heartbeats
JSON_TYPE = b"content-type: application/json\r\ncache-control: no-store\r\n"
_STREAM_HEADERS = b"content-type: %b\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"


class PlainRelay:
    """One JSON answer."""

    __slots__ = ("_exchange", "_format", "_headers", "_identity", "_request", "_request_id")

    def __init__(
        self,
        exchange: Exchange,
        headers: bytes,
        chat_format: ChatFormat,
        request: ChatRequest,
        identity: AnswerIdentity,
        request_id: bytes,
    ) -> None:
        self._exchange = exchange
        self._headers = headers
        self._format = chat_format
        self._request = request
        self._identity = identity
        self._request_id = request_id

    def attach(self, execution: Running) -> None:
        self._exchange.watcher = execution

    def on_model(self, slug: str) -> None:
        self._identity = replace(self._identity, model=slug)

    def on_chunks(self, chunks: Sequence[Chunk]) -> None:  # noqa: ARG002
        raise AssertionError("a plain call has no chunks")

    def deliver(self) -> None:
        """There is nothing before the end."""

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: Nanos) -> None:
        assert completion is not None
        body = self._format.render(completion, self._request, self._identity, usage, format_usd(charge_nanos))
        self._exchange.respond(200, JSON_TYPE + self._headers, body)

    def on_failed(self, refusal: Refusal) -> None:
        body = render_error(self._format.dialect, refusal, ids.text("req", self._request_id))
        self._exchange.respond(refusal.code.status, JSON_TYPE + self._headers + error_headers(refusal), body)

    def on_broken(self) -> None:
        self._exchange.abort()


class StreamRelay:
    """Server-sent events, with heartbeats while nothing else is sent."""

    __slots__ = (
        "_exchange",
        "_format",
        "_has_written",
        "_headers",
        "_identity",
        "_is_begun",
        "_open_streams",
        "_quiet_since_s",
        "_request",
        "_request_id",
        "_writer",
    )

    def __init__(
        self,
        exchange: Exchange,
        headers: bytes,
        chat_format: ChatFormat,
        request: ChatRequest,
        identity: AnswerIdentity,
        request_id: bytes,
        *,
        open_streams: OpenStreams,
    ) -> None:
        self._exchange = exchange
        self._headers = headers
        self._format = chat_format
        self._request = request
        self._identity = identity
        self._writer = chat_format.stream(request, identity)
        self._request_id = request_id
        self._is_begun = False
        self._open_streams = open_streams
        self._has_written = True  # since the last look: no clock is read for a chunk
        self._quiet_since_s = 0.0

    def attach(self, execution: Running) -> None:
        self._open_streams.add(self)
        self._exchange.watcher = execution

    def on_model(self, slug: str) -> None:
        self._identity = replace(self._identity, model=slug)
        self._writer = self._format.stream(self._request, self._identity)

    def on_chunks(self, chunks: Sequence[Chunk]) -> None:
        self._write(self._writer.render(chunks))

    def deliver(self) -> None:
        self._exchange.flush()

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: Nanos) -> None:
        assert completion is None, "a streamed call was relayed chunk by chunk"
        self._open_streams.discard(self)
        self._begin()
        self._exchange.end(self._writer.finish(usage, format_usd(charge_nanos)))

    def on_failed(self, refusal: Refusal) -> None:
        self._open_streams.discard(self)
        if self._is_begun:
            self._exchange.end(self._writer.fail(refusal, ids.text("req", self._request_id)))
            return
        body = render_error(self._format.dialect, refusal, ids.text("req", self._request_id))
        self._exchange.respond(refusal.code.status, JSON_TYPE + self._headers + error_headers(refusal), body)

    def on_broken(self) -> None:
        self._open_streams.discard(self)
        self._exchange.abort()

    def look(self, now_s: float, heartbeat_s: float) -> bool:
        """Once in a while: tell the caller, and whatever stands between, that the connection lives, if nothing else did
        for so long. That fixes the status at 200. False when nobody waits any more."""
        if now_s - self._quiet_since_s >= heartbeat_s and not self._has_written:
            self._write(self._writer.heartbeat)
        if self._has_written:
            self._has_written = False
            self._quiet_since_s = now_s
        return self._exchange.is_open

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._exchange.begin(200, _STREAM_HEADERS % self._writer.content_type + self._headers)
            self._headers = b""

    def _write(self, data: bytes) -> None:
        if data:
            self._begin()
            self._exchange.write(data)
            self._has_written = True


class OpenStreams:
    """Every stream of this process, so that one timer serves the heartbeats of all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._streams: set[StreamRelay] = set()
        self._loop = loop
        self._heartbeat_s = heartbeat_s
        self._timer = loop.call_later(heartbeat_s / LOOKS, self._sweep)

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: StreamRelay) -> None:
        self._streams.add(stream)

    def discard(self, stream: StreamRelay) -> None:
        self._streams.discard(stream)

    def close(self) -> None:
        self._timer.cancel()

    def _sweep(self) -> None:
        # Set again first: a defect that one stream brings to light must not end the heartbeats of all.
        self._timer = self._loop.call_later(self._heartbeat_s / LOOKS, self._sweep)
        now_s = self._loop.time()
        for stream in list(self._streams):
            if not stream.look(now_s, self._heartbeat_s):
                self._streams.discard(stream)
