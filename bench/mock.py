"""A provider that streams: chunks at a given pace, each in a write of its own. `python -m bench.mock PORT…`"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

from bench.exchange import DONE, stream_event, stream_shape

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"server: mock\r\ntransfer-encoding: chunked\r\n\r\n"
)
_LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_REQUEST_BYTES_MAX = 64 * 1024  # our own load sends 1 KB


class StreamMock(asyncio.Protocol):
    """One connection; requests come one after another, each answered by one stream."""

    def __init__(self, call_later: Callable[..., asyncio.TimerHandle]) -> None:
        self._call_later = call_later
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = content_length(head)
        if length is None or length > _REQUEST_BYTES_MAX:
            self._transport.write(_LENGTH_REQUIRED)
            self._transport.close()
        elif len(body) >= length:
            self._received = body[length:]
            self._chunks, pace_ms = stream_shape(body)
            self._pace_s = pace_ms / 1000
            self._index = 0
            self._send_next()

    def _send_next(self) -> None:
        index = self._index
        event = stream_event(index, self._chunks, now_ns=time.monotonic_ns())
        data = b"%x\r\n%b\r\n" % (len(event), event)
        if index == 0:
            data = _HEAD + data
        if index == self._chunks - 1:
            data += b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)
            self._timer = None
        else:
            self._timer = self._call_later(self._pace_s, self._send_next)
        self._index = index + 1
        self._transport.write(data)


def content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    opened = []
    for port in ports:
        server = await loop.create_server(lambda: StreamMock(loop.call_later), "127.0.0.1", port, backlog=4096)
        opened.append(server.sockets[0].getsockname()[1])
    print("listening", *opened, flush=True)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve([int(word) for word in sys.argv[1:]]))
