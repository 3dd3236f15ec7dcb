"""One TCP connection of a simulated provider: reads HTTP/1.1 requests, plays answers, and ends as it is told.

It has no HTTP library under it, since it has to send what no library would.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Protocol, cast

import msgspec

from waypost.simulator.playback import Listener, Playback
from waypost.simulator.reply import Ending, Write

_HEAD_BYTES_MAX = 64 << 10
_BODY_BYTES_MAX = 64 << 20
_HELD_S_MAX = 600.0  # how long a silent or half-closed connection waits for its caller
_RESET_DELAY_S = 0.01  # lets what was written before an RST reach the caller first
_LINGER_ZERO = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN


class HttpRequest(msgspec.Struct):
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]  # as received
    body: bytes
    is_kept_alive: bool

    @property
    def fields(self) -> dict[str, str]:
        """Headers by lower-case name, the last of each."""
        return {name.lower(): value for name, value in self.headers}


class Host(Protocol):
    """Whose connections these are."""

    def on_connect(self, connection: Connection) -> Ending:
        """KEEP_ALIVE to serve it; any other ending takes effect at once."""

    def on_request(self, connection: Connection, request: HttpRequest) -> None: ...

    def on_lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Requests are answered one after another; what arrives meanwhile waits, and is dropped after the last answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._received = bytearray()
        self._request: HttpRequest | None = None  # its head is complete, its body is not
        self._body_left = 0  # -1: chunked
        self._playback: Playback | None = None
        self._listener: Listener | None = None
        self._is_done = False  # nothing more is read from this connection
        self._hold: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    @property
    def is_idle(self) -> bool:
        return self._playback is None and self._request is None and not self._received and not self._is_done

    def play(self, writes: Iterator[Write], ending: Ending, listener: Listener) -> None:
        """Sends an answer to the request that was just read."""

        def on_done() -> None:
            if ending is not Ending.HANG:
                self._listener = None
                listener.on_closed(is_early=False)
            self._playback = None
            self.end(ending)

        self._listener = listener
        self._playback = Playback(self.transport, writes, listener, on_done)
        self._playback.run()

    def end(self, ending: Ending) -> None:
        """What becomes of the connection now."""
        loop = asyncio.get_running_loop()
        self._is_done = ending is not Ending.KEEP_ALIVE
        match ending:
            case Ending.KEEP_ALIVE:
                if self._received:
                    # Not at once: a caller with a thousand requests in one segment would go a thousand calls deep.
                    loop.call_soon(self._read)
            case Ending.CLOSE:
                self.transport.close()
            case Ending.HALF_CLOSE:
                self.transport.write_eof()
                self._hold = loop.call_later(_HELD_S_MAX, self.transport.abort)
            case Ending.RESET:
                self._hold = loop.call_later(_RESET_DELAY_S, self.reset)
            case Ending.HANG:
                self._hold = loop.call_later(_HELD_S_MAX, self.transport.abort)

    def reset(self) -> None:
        """Sends RST."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None and not self.transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it
        ending = self._host.on_connect(self)
        if ending is Ending.RESET:
            self._is_done = True
            self.reset()
        elif ending is not Ending.KEEP_ALIVE:
            self.end(ending)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._hold is not None:
            self._hold.cancel()
        if self._playback is not None:
            self._playback.stop()
        if self._listener is not None:
            self._listener.on_closed(is_early=True)
        self._is_done = True
        self._host.on_lost(self)

    def pause_writing(self) -> None:
        if self._playback is not None:
            self._playback.block()

    def resume_writing(self) -> None:
        if self._playback is not None:
            self._playback.unblock()

    def data_received(self, data: bytes) -> None:
        if self._is_done:
            return
        self._received += data
        self._read()

    # Reading

    def _read(self) -> None:
        if self._is_done or self._playback is not None:
            return
        if self._request is None and not self._read_head():
            return
        assert self._request is not None, "its head was read"
        body = self._chunked_body() if self._body_left < 0 else self._counted_body()
        if body is None:
            return
        request, self._request = self._request, None
        request.body = body
        self._host.on_request(self, request)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _HEAD_BYTES_MAX:
                self._refuse(431)
            return False
        lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        words = lines[0].split(" ")
        headers = [(name, value.strip()) for name, colon, value in (line.partition(":") for line in lines[1:]) if colon]
        if len(words) != 3 or len(headers) != len(lines) - 1:
            self._refuse(400)
            return False
        path, _, query = words[1].partition("?")
        request = HttpRequest(words[0], path, query, headers, b"", is_kept_alive=True)
        fields = request.fields
        request.is_kept_alive = words[2] == "HTTP/1.1" and fields.get("connection", "").lower() != "close"
        length = fields.get("content-length", "0")
        if not length.isdigit() or int(length) > _BODY_BYTES_MAX:
            self._refuse(413 if length.isdigit() else 400)
            return False
        self._body_left = -1 if fields.get("transfer-encoding", "").lower() == "chunked" else int(length)
        if fields.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._request = request
        return True

    def _counted_body(self) -> bytes | None:
        if len(self._received) < self._body_left:
            return None
        body = bytes(self._received[: self._body_left])
        del self._received[: self._body_left]
        return body

    def _chunked_body(self) -> bytes | None:
        """Decodes from the start each time: callers send small chunked bodies, if any."""
        received, at = self._received, 0
        parts: list[bytes] = []
        while True:
            line_end = received.find(b"\r\n", at)
            if line_end < 0:
                break
            try:
                size = int(bytes(received[at:line_end]).partition(b";")[0], 16)
            except ValueError:
                self._refuse(400)
                return None
            at = line_end + 2 + size + 2
            if len(received) < at:
                break
            if size == 0:
                del received[:at]
                return b"".join(parts)
            parts.append(bytes(received[line_end + 2 : at - 2]))
        if len(received) > _BODY_BYTES_MAX:
            self._refuse(413)
        return None

    def _refuse(self, status: int) -> None:
        self._is_done = True
        self._received.clear()
        self.transport.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        self.transport.close()
