"""The HTTP/1.1 server: listens, keeps the connections, and looks after their deadlines."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any

from waypost.transport.exchange import Exchange
from waypost.transport.http1_request import Streams, TakesImages
from waypost.transport.limits import ServerLimits
from waypost.transport.server_connection import AnswerEarly, Connection, Handler, Refuse, Rules
from waypost.transport.sweep import Sweep

__all__ = ["AnswerEarly", "Exchange", "Handler", "Http1Server", "Refuse", "ServerLimits"]

_BACKLOG = 4096  # a burst of reconnecting callers after a restart; the kernel caps it at somaxconn
_TLS_SHUTDOWN_S = 2.0
_TCP_INFO_UNACKED = 24  # after eight bytes and four 32-bit numbers
_IDLE_LOOK_S = 0.02
_RELIEF_S = 0.1  # between looks at the sockets of siblings
_RELIEVED_AT_ONCE = 64  # callers taken from one of them in a look
_ACCEPTED_AT_ONCE = 256  # callers at the own sockets, beside the one that the loop takes in a turn


class Http1Server:
    """Listens, and gives every complete request to `handler`, inside the loop and outside any task.

    `refuse` renders what the transport itself answers. An exception out of a handler is counted in `bugs`, handed to
    `on_bug`, and answered with INTERNAL_ERROR where nothing was written yet.
    """

    def __init__(
        self,
        handler: Handler,
        refuse: Refuse,
        limits: ServerLimits | None = None,
        *,
        on_bug: Callable[[BaseException], None] | None = None,
        streams: Streams | None = None,
        takes_images: TakesImages | None = None,
    ) -> None:
        """`streams`: which bodies are given to the handler as they arrive, in `Exchange.incoming`; `takes_images`:
        which of the others may have `limits.image_body_bytes`."""
        self._rules = Rules(handler, refuse, limits or ServerLimits(), on_bug)
        self._rules.streams = streams
        self._rules.takes_images = takes_images
        self._rules.on_lost = self._on_lost
        self._listeners: list[asyncio.Server] = []
        self._own: list[_Listening] = []
        self._siblings: list[_Listening] = []
        self._relief: asyncio.TimerHandle | None = None
        self._welcomes: set[asyncio.Task[None]] = set()
        self._sweep: Sweep | None = None
        self._emptied: asyncio.Event = asyncio.Event()
        self.port = 0
        """Of the first TCP listener."""

    @property
    def connections(self) -> int:
        return len(self._rules.connections)

    @property
    def accepted(self) -> int:
        """Connections since the start."""
        return self._rules.state.accepted

    @property
    def waiting(self) -> int:
        """Connections that wait to be accepted; 0 where the system does not tell."""
        return sum(_accept_queue(each) for listener in self._listeners for each in listener.sockets)

    @property
    def exchanges(self) -> int:
        """Requests whose answer has not ended."""
        return self._rules.state.exchanges

    @property
    def buffered_bytes(self) -> int:
        """Request bodies held at the moment."""
        return self._rules.state.buffered_bytes

    def keep(self, request_bytes: int) -> None:
        """Count request bodies that somebody else holds on to after their exchange has ended; a negative number lets
        them go."""
        self._rules.state.buffered_bytes += request_bytes

    @property
    def bugs(self) -> int:
        """Exceptions out of handlers since the start."""
        return self._rules.state.bugs

    def use(self, handler: Handler, limits: ServerLimits, is_proxy: Callable[[str], bool]) -> None:
        """From now on: who is given requests, how much each may take, and whether the peer at an address may send a
        PROXY header. Sizes hold for new connections only."""
        self._rules.handler = handler
        self._rules.limits = limits
        self._rules.is_proxy = is_proxy

    def answer_early(self, answer: AnswerEarly | None) -> None:
        """From now on: who is asked before anything is read as a request."""
        self._rules.answer_early = answer

    async def listen(
        self,
        *,
        host: str = "",
        port: int = 0,
        unix_path: str = "",
        sock: socket.socket | None = None,
        siblings: Sequence[socket.socket] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Accept connections; may be called for several addresses. Raises OSError when the address cannot be taken.

        `siblings` are listening sockets of other processes: who waits there for longer than 0.1 s is taken too."""
        loop = asyncio.get_running_loop()
        rules = self._rules
        rules.time = loop.time
        tls: dict[str, Any] = {}
        if ssl_context is not None:
            handshake_s = rules.limits.head_s
            tls = {"ssl": ssl_context, "ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": _TLS_SHUTDOWN_S}

        def connect() -> Any:  # by its methods a protocol, if not by its class
            return Connection(rules)

        own: list[_Listening] = []

        def accept() -> Any:
            # The loop accepts one in each of its turns, which are long just when many come.
            for each in own:
                self._take(each, _ACCEPTED_AT_ONCE)
            return connect()

        if unix_path:
            listener = await loop.create_unix_server(accept, unix_path, backlog=_BACKLOG, **tls)
        elif sock is not None:
            listener = await loop.create_server(accept, sock=sock, backlog=_BACKLOG, **tls)
        else:
            listener = await loop.create_server(accept, host or None, port, backlog=_BACKLOG, **tls)
        own += [_Listening(socket.socket(fileno=os.dup(each.fileno())), connect, tls) for each in listener.sockets]
        self._own += own
        self._siblings = [_Listening(each, connect, tls) for each in siblings]
        if siblings:
            self._relief = loop.call_later(_RELIEF_S, self._relieve_siblings)
        if not unix_path:
            self.port = self.port or listener.sockets[0].getsockname()[1]
        self._listeners.append(listener)
        if self._sweep is None:
            self._sweep = Sweep(loop, self._check)

    def _relieve_siblings(self) -> None:
        """Take callers whom another process has let wait since the last look, because it is dead or cannot keep up.
        One that lives has accepted them long before."""
        loop = asyncio.get_running_loop()
        self._relief = loop.call_later(_RELIEF_S, self._relieve_siblings)
        for sibling in self._siblings:
            self._take(sibling, _RELIEVED_AT_ONCE)

    def _take(self, listening: _Listening, at_most: int) -> None:
        """Accept who waits at a socket."""
        loop = asyncio.get_running_loop()
        for _ in range(at_most):
            try:
                taken, _ = listening.sock.accept()
            except OSError:  # nobody waits, or gave up
                break
            task = loop.create_task(_welcome(loop, listening.connect, taken, listening.tls))
            self._welcomes.add(task)
            task.add_done_callback(self._welcomes.discard)

    def stop_accepting(self) -> None:
        """No new connection, and one more request at most on each that is open: every answer says it is the last."""
        self._rules.state.is_draining = True
        if self._relief is not None:
            self._relief.cancel()
        for each in (*self._own, *self._siblings):
            each.sock.close()
        self._own.clear()
        self._siblings = []
        for listener in self._listeners:
            listener.close()

    async def let_idle_leave(self, timeout_s: float) -> None:
        """After `stop_accepting`: give callers who are between two requests this long to send the next one, whose
        answer tells them to leave. Closing at once would lose what is on its way."""
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + timeout_s
        while loop.time() < ends_at_s and any(each.is_idle for each in self._rules.connections):  # noqa: ASYNC110
            await asyncio.sleep(_IDLE_LOOK_S)

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting, close what is idle, let what runs end for up to `timeout_s`, then abort the rest."""
        rules = self._rules
        self.stop_accepting()
        rules.state.is_closing = True
        for connection in tuple(rules.connections):
            connection.retire()
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_empty()
        except TimeoutError:
            for connection in tuple(rules.connections):
                connection.cut()
            await self._until_empty()
        if self._sweep is not None:
            self._sweep.stop()

    async def _until_empty(self) -> None:
        while self._rules.connections:
            self._emptied.clear()
            await self._emptied.wait()

    def _on_lost(self) -> None:
        if not self._rules.connections:
            self._emptied.set()

    def _check(self, now_s: float) -> None:
        rules = self._rules
        rules.state.refresh_date()
        for connection in [each for each in rules.connections if each.deadline_s <= now_s]:
            connection.check(now_s)


class _Listening:
    """A socket that callers come to, beside the loop that listens there as well, here or in another process."""

    __slots__ = ("connect", "sock", "tls")

    def __init__(self, sock: socket.socket, connect: Callable[[], Any], tls: dict[str, Any]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.connect = connect
        self.tls = tls


def _accept_queue(listening: socket.socket) -> int:
    """`tcpi_unacked` of a listening socket: tcp(7), and `tcp_get_info` in Linux' net/ipv4/tcp.c."""
    if sys.platform != "linux" or listening.family == socket.AF_UNIX:
        return 0
    info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED + 4)
    return int.from_bytes(info[_TCP_INFO_UNACKED : _TCP_INFO_UNACKED + 4], sys.byteorder)


async def _welcome(
    loop: asyncio.AbstractEventLoop, connect: Callable[[], Any], taken: socket.socket, tls: dict[str, Any]
) -> None:
    """Serve a caller who was accepted elsewhere than by the loop."""
    taken.setblocking(False)
    try:
        await loop.connect_accepted_socket(connect, taken, **tls)
    except OSError:  # gone meanwhile, or no TLS (an ssl.SSLError is one)
        taken.close()
