"""Calls to one origin over pooled HTTP/1.1 connections; answers are pushed into a receiver.

A call takes the connection that was used last (LIFO, so that those not needed grow old and close), writes its request
at once, and is called back from the socket's reads. A task exists only while a connection is opened; one sweep per pool
enforces every deadline.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final, ParamSpec

from waypost.transport.client_connection import Call, ClientConnection, Receiver, Upload
from waypost.transport.http1_response import TransportFailure
from waypost.transport.limits import CallTimeouts, ClientLimits
from waypost.transport.origin import Origin
from waypost.transport.outbox import Outbox
from waypost.transport.sweep import Sweep
from waypost.transport.tunnel import open_tunnel

__all__ = [
    "UNBOUNDED",
    "Call",
    "CallTimeouts",
    "ClientLimits",
    "Origin",
    "Pool",
    "Receiver",
    "TransportFailure",
    "Upload",
]

_P = ParamSpec("_P")

UNBOUNDED: Final = sys.maxsize
"""As `body_bytes_max` of a call whose answer is a stream."""


class Pool:
    """The connections to one origin. Made, used and closed inside one running loop.

    An exception out of a receiver is a bug: it is counted in `bugs`, handed to `on_bug`, and ends the call.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        limits: ClientLimits | None = None,
        on_bug: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._origin = origin
        self._limits = limits or ClientLimits()
        self._on_bug = on_bug
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox()
        self._idle: list[ClientConnection] = []
        self._connections: set[ClientConnection] = set()
        self._openings: dict[asyncio.Task[None], Call] = {}
        self._is_closed = False
        self._emptied = asyncio.Event()
        self._sweep = Sweep(self._loop, self._check)
        self.bugs = 0

    @property
    def idle(self) -> int:
        """Connections that wait for a call."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """Connections, waiting and in use."""
        return len(self._connections)

    def call(
        self,
        head: bytes,
        body: bytes | Upload,
        receiver: Receiver,
        timeouts: CallTimeouts,
        *,
        body_bytes_max: int | None = None,
    ) -> Call:
        """Send one request; the receiver is told the answer, later.

        `head` is the request line and header lines, each ending in CRLF, without content-length and the blank line. An
        answer longer than `body_bytes_max` (the pool's limit unless given) fails as TOO_LARGE.
        """
        if body_bytes_max is None:
            body_bytes_max = self._limits.body_bytes
        if isinstance(body, bytes):
            call = Call(receiver, timeouts, now_s=self._loop.time(), body_bytes_max=body_bytes_max)
            request = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        else:
            call = Call(receiver, timeouts, now_s=self._loop.time(), body_bytes_max=body_bytes_max, upload=body)
            request = _upload_head(head, body)
        is_head_request = head.startswith(b"HEAD ")
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                connection.start(call, request, is_head_request=is_head_request)
                return call
        opening = self._loop.create_task(self._open(call, request, is_head_request=is_head_request))
        call.opening = opening
        self._openings[opening] = call
        opening.add_done_callback(self._openings.pop)
        return call

    async def close(self) -> None:
        """Close every connection. Calls under way, and later ones, fail with RESET."""
        self._is_closed = True
        self._sweep.stop()
        openings = dict(self._openings)
        for opening in openings:
            opening.cancel()
        await asyncio.gather(*openings, return_exceptions=True)
        for call in openings.values():
            self._fail(call, TransportFailure.RESET)
        for connection in tuple(self._connections):
            connection.fail(TransportFailure.RESET)
        while self._connections:
            self._emptied.clear()
            await self._emptied.wait()

    async def _open(self, call: Call, request: bytes, *, is_head_request: bool) -> None:
        if self._is_closed:
            self._fail(call, TransportFailure.RESET)
            return
        connection = ClientConnection(self, self._limits.header_bytes)
        try:
            async with asyncio.timeout(min(call.timeouts.connect_s, call.timeouts.total_s)):
                await self._connect(connection)
        except asyncio.CancelledError:
            connection.abandon()
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: a host that is no name
            connection.abandon()
            self._fail(call, _why(error))
        else:
            call.opening = None
            connection.start(call, request, is_head_request=is_head_request)

    def _fail(self, call: Call, failure: TransportFailure) -> None:
        """A call that was given no connection."""
        if call.opening is not None:
            call.opening = None
            self.tell(call.receiver.on_failure, failure)

    async def _connect(self, connection: ClientConnection) -> None:
        origin, loop = self._origin, self._loop
        tls = origin.ssl_context
        name = (origin.server_hostname or origin.host) if tls is not None else None
        protocol: Any = connection  # by its methods, if not by its class
        if origin.unix_path:
            await loop.create_unix_connection(lambda: protocol, origin.unix_path, ssl=tls, server_hostname=name)
        elif origin.proxy is not None:
            through = await open_tunnel(origin.proxy, origin.host, origin.port)
            try:
                await loop.create_connection(lambda: protocol, sock=through, ssl=tls, server_hostname=name)
            except BaseException:
                through.close()
                raise
        else:
            await loop.create_connection(lambda: protocol, origin.host, origin.port, ssl=tls, server_hostname=name)

    def _check(self, now_s: float) -> None:
        for connection in tuple(self._connections):
            connection.check(now_s)

    # For the connections.

    def add(self, connection: ClientConnection) -> None:
        self._connections.add(connection)

    def keep(self, connection: ClientConnection) -> bool:
        """Whether the connection now waits for the next call."""
        if self._is_closed or len(self._idle) >= self._limits.idle_connections:
            return False
        connection.idle_until_s = self._loop.time() + self._limits.idle_s
        self._idle.append(connection)
        return True

    def forget(self, connection: ClientConnection) -> None:
        """The connection is no longer fit for a call."""
        if connection in self._idle:
            self._idle.remove(connection)

    def remove(self, connection: ClientConnection) -> None:
        """The connection is closed."""
        self.forget(connection)
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def tell(self, callback: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """A bug in a receiver must not reach the loop, which would log what was said."""
        try:
            callback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            self.bug(error)

    def bug(self, error: Exception) -> None:
        self.bugs += 1
        if self._on_bug is not None:
            self._on_bug(error)


def _upload_head(head: bytes, upload: Upload) -> bytes:
    if upload.length is None:
        return b"%btransfer-encoding: chunked\r\n\r\n" % head
    return b"%bcontent-length: %d\r\n\r\n" % (head, upload.length)


def _why(error: Exception) -> TransportFailure:
    if isinstance(error, TimeoutError):
        return TransportFailure.CONNECT_TIMEOUT
    if isinstance(error, socket.gaierror | UnicodeError):
        return TransportFailure.DNS
    if isinstance(error, ssl.SSLError):
        return TransportFailure.TLS
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return TransportFailure.RESET
    return TransportFailure.CONNECT_REFUSED
