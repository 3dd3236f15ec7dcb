"""One caller's HTTP/1.1 connection: hands each complete request to the handler, and keeps time.

It answers requests one at a time and in order. While one is being answered, what the caller sends ahead
is read once (at most 256 KiB) and then left in the kernel. Nothing here makes a task, a future or a timer per request:
the server's sweep looks at the single `deadline_s`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from waypost.kit.errors import ErrorCode
from waypost.transport.exchange import CLOSE, Exchange, render_head
from waypost.transport.http1_request import Phase, RequestReader, Streams, TakesImages
from waypost.transport.incoming import Incoming
from waypost.transport.limits import ServerLimits
from waypost.transport.outbox import Outbox
from waypost.transport.proxy_header import ProxyHeaderInvalid, read_proxy_header
from waypost.transport.server_state import ServerState

Handler = Callable[[Exchange], None]
Refuse = Callable[[ErrorCode], tuple[bytes, bytes]]
"""An error code → (header lines, body) of its answer; the status is the code's."""
AnswerEarly = Callable[[bytes, bytes], bytes]
"""(what was read between two requests, the date line) → all of its answer, where it is a whole request that may follow
another and be followed; b"" where it is to be read."""

_IDLE, _HEAD, _BODY = Phase
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s
_NEVER_S: Final = float("inf")


class Rules:
    """What every connection of a server is given."""

    __slots__ = (
        *("answer_early", "connections", "handler", "is_proxy", "limits", "on_bug", "on_lost", "outbox", "refuse"),
        *("state", "streams", "takes_images", "time"),
    )

    def __init__(
        self, handler: Handler, refuse: Refuse, limits: ServerLimits, on_bug: Callable[[BaseException], None] | None
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.limits = limits
        self.on_bug = on_bug
        self.state = ServerState()
        self.outbox = Outbox()
        self.connections: set[Connection] = set()
        self.answer_early: AnswerEarly | None = None
        self.streams: Streams | None = None
        """Which bodies are handed on as they arrive."""
        self.takes_images: TakesImages | None = None
        """Which of the others may be as large as one with images."""
        self.is_proxy: Callable[[str], bool] = lambda _: False
        """Whether the peer at an address may tell, by a PROXY header, whom it speaks for."""
        self.time: Callable[[], float] = lambda: 0.0
        self.on_lost: Callable[[], None] = lambda: None

    def bug(self, error: Exception) -> None:
        self.state.bugs += 1
        if self.on_bug is not None:
            self.on_bug(error)


class Connection:
    """One caller's connection: an asyncio.Protocol by its methods. It does not inherit, so that it can be compiled."""

    __slots__ = (
        "_base_bytes",
        "_blocked_bytes",
        "_client_host",
        "_early",
        "_exchange",
        "_incoming",
        "_is_advancing",
        "_is_blocked",
        "_is_closing",
        "_is_paused",
        "_linger_bytes",
        "_queue",
        "_reader",
        "_refusal",
        "_rules",
        "_since_s",
        "_watched",
        "deadline_s",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._reader = RequestReader(rules.limits, rules.state, self._on_request, rules.streams, rules.takes_images)
        self._queue: list[Exchange] = []  # a deque would take 700 bytes of each connection
        self._exchange: Exchange | None = None
        self._incoming: Incoming | None = None  # of the exchange, until all of its body is there
        self._refusal: ErrorCode | None = None  # waits for the answers before it
        self._client_host = ""
        self._early: bytes | None = None  # of a proxy: what it sent before it is clear who the caller is
        self._watched: Phase | None = None  # what `deadline_s` is for; None while an answer is being made
        self._since_s = 0.0  # when we began to wait for a body, and
        self._base_bytes = 0  # what had arrived of it by then
        self._is_advancing = False
        self._is_paused = False
        self._is_blocked = False
        self._blocked_bytes = 0
        self._is_closing = False
        self._linger_bytes = -1  # ≥ 0 while a refused caller may finish sending
        self.deadline_s = _NEVER_S

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        rules = self._rules
        self.transport.set_write_buffer_limits(high=rules.limits.write_high_water_bytes)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple) and peer:
            self._client_host = str(peer[0])
            if rules.is_proxy(self._client_host):
                self._early = b""
        rules.connections.add(self)
        rules.state.accepted += 1
        if rules.state.is_closing:
            self._close()
            return
        self._watched = _IDLE
        self.deadline_s = rules.time() + rules.limits.head_s

    def data_received(self, data: bytes) -> None:
        if self._linger_bytes >= 0:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self._close_now()
            return
        if self._is_closing or self._refusal is not None:
            return
        try:
            if self._rules.answer_early is not None and self._answered_early(self._rules.answer_early, data):
                return
            if self._early is not None:
                data = self._without_proxy_header(self._early + data)
            if data:
                self._refusal = self._reader.feed(data)
                if self._refusal is not None and self._reader.incoming is not None:
                    self._reader.incoming.fail(self._refusal)
        except ProxyHeaderInvalid:
            self._refusal = ErrorCode.INPUT_VALIDATION_ERROR
        except Exception as error:  # noqa: BLE001  a bug of ours must not reach the loop, which would log what was sent
            self._rules.bug(error)
            self.cut()
            return
        if self._exchange is None:
            self._advance()
        elif self._incoming is not None:
            self._hand_on(self._exchange, self._incoming)
        else:
            self._pause()

    def _answered_early(self, answer_early: AnswerEarly, data: bytes) -> bool:
        """Whether what was read was answered without being read as a request."""
        rules = self._rules
        if self._watched is not _IDLE or self._is_blocked or self._early is not None or rules.state.is_draining:
            return False
        answer = answer_early(data, rules.state.date_line)
        if not answer:
            return False
        self.deadline_s = rules.time() + rules.limits.keep_alive_s
        self.send(answer)
        return True

    def _without_proxy_header(self, data: bytes) -> bytes:
        """What follows the header, if there is one; b"" while that is not clear. Raises ProxyHeaderInvalid."""
        header = read_proxy_header(data)
        if header is None:
            self._early = data
            return b""
        self._early = None
        self._client_host = header.host or self._client_host
        return data[header.length :]

    def eof_received(self) -> None:
        self._rules.outbox.flush()  # after this the loop closes the transport
        # A caller that closed its side has gone away: TCP cannot tell a half-close from a full one in time.
        self._is_closing = True
        self.deadline_s = self._rules.time() + self._rules.limits.stalled_reader_s
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  why it was lost changes nothing
        rules = self._rules
        self._is_closing = True
        self._lose()
        for exchange in self._queue:
            rules.state.buffered_bytes -= len(exchange.body)
            exchange.detach()
        self._queue.clear()
        self._reader.close()
        rules.connections.discard(self)
        rules.on_lost()

    def pause_writing(self) -> None:
        self._is_blocked = True
        self._blocked_bytes = self.transport.get_write_buffer_size()
        self.deadline_s = self._rules.time() + self._rules.limits.stalled_reader_s
        if self._exchange is not None and self._exchange.watcher is not None:
            self._guard(self._exchange, self._exchange.watcher.pause)

    def resume_writing(self) -> None:
        self._is_blocked = False
        if self._is_closing:
            return
        if self._exchange is None:
            self._watched = None
            self._advance()
            return
        self.deadline_s = _NEVER_S
        if self._incoming is not None:
            self._watched = None
            self._flow()
        if self._exchange.watcher is not None:
            self._guard(self._exchange, self._exchange.watcher.resume)

    # What an exchange calls.

    def send(self, data: bytes) -> None:
        self._rules.outbox.add(self.transport, data)

    def flush(self) -> None:
        self._rules.outbox.flush()

    def begun(self) -> None:
        if not self._queue:
            self._reader.rest()

    def finish(self, exchange: Exchange, *, is_kept: bool) -> None:
        self._release(exchange)
        if not is_kept or self._rules.state.is_draining:
            self._close()
        elif not self._is_advancing:
            self._advance()

    def drop(self, exchange: Exchange, *, must_reset: bool) -> None:
        self._release(exchange)
        if must_reset:
            self.cut()
        else:
            self._close()

    # What the server calls.

    def check(self, now_s: float) -> None:
        """The deadline has passed."""
        limits = self._rules.limits
        if self._linger_bytes >= 0:
            self._close_now()
        elif self._is_blocked and self.transport.get_write_buffer_size() < self._blocked_bytes:
            self._blocked_bytes = self.transport.get_write_buffer_size()
            self.deadline_s = now_s + limits.stalled_reader_s
        elif self._is_blocked or self._is_closing:
            self.cut()
        elif self._watched is _IDLE:
            self._close()
        elif self._watched is _BODY and self._is_body_in_time(now_s):
            self.deadline_s = now_s + 1.0
            if self._incoming is None:
                self.deadline_s = min(self.deadline_s, self._since_s + limits.body_s)
        elif self._exchange is not None and self._incoming is not None:
            self._refusal = ErrorCode.REQUEST_TIMEOUT
            self._incoming.fail(self._refusal)
            self._hand_on(self._exchange, self._incoming)
        else:
            self._refuse(ErrorCode.REQUEST_TIMEOUT)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, not even a part of one."""
        return self._exchange is None and not self._queue and not self._is_closing and self._reader.phase is _IDLE

    def retire(self) -> None:
        """Close, unless a request is under way."""
        if self.is_idle:
            self._close()

    # Requests, one after the other.

    def _on_request(self, request: RequestReader) -> None:
        self._queue.append(Exchange(request, self, self._rules.state, self._client_host))

    def _advance(self) -> None:
        """Start the next request, or see to what we are waiting for."""
        queue = self._queue
        self._is_advancing = True  # an answer given within the handler comes back to this loop, not into a deeper one
        while queue and self._exchange is None and not self._is_blocked and not self._is_closing:
            self._start(queue.pop(0))
        self._is_advancing = False
        if self._is_closing:
            return
        if self._incoming is not None:
            self._flow()
        elif self._exchange is not None or self._is_blocked:
            if queue or self._refusal is not None:
                self._pause()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
            if self._reader.owes_continue:
                self._reader.owes_continue = False
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._watch()

    def _start(self, exchange: Exchange) -> None:
        rules = self._rules
        self._exchange = exchange
        rules.state.exchanges += 1
        self._watched = None
        self.deadline_s = _NEVER_S
        if exchange.incoming is not None:
            self._take(exchange, exchange.incoming)
        try:
            rules.handler(exchange)
        except Exception as error:  # noqa: BLE001  one request fails, the process does not
            self._fail(exchange, error)

    def _release(self, exchange: Exchange) -> None:
        self._exchange = self._incoming = None
        state = self._rules.state
        state.exchanges -= 1
        state.buffered_bytes -= len(exchange.body)
        exchange.detach()

    # Bodies that are handed on as they arrive.

    def _take(self, exchange: Exchange, incoming: Incoming) -> None:
        """The exchange begins, with whatever has arrived of its body."""
        if incoming.is_ended:
            exchange.body_ended(is_kept=incoming.is_kept)
        else:
            self._incoming = incoming
            incoming.on_flow = self._flow

    def _hand_on(self, exchange: Exchange, incoming: Incoming) -> None:
        """More of it has arrived, or it is clear that no more will."""
        if incoming.is_ended:
            self._incoming = None
            self._watched = None
            self.deadline_s = _NEVER_S
            exchange.body_ended(is_kept=incoming.is_kept)
        self._guard(exchange, incoming.flush)
        if self._exchange is not exchange or self._is_closing:
            return
        if self._incoming is not None:
            self._flow()
        elif self._queue or self._refusal is not None:
            self._pause()  # what follows the body waits for the answer

    def _flow(self) -> None:
        """Read on, if somebody takes what comes, and see that it comes fast enough; else leave it in the kernel."""
        incoming = self._incoming
        if incoming is None or self._is_closing or self._refusal is not None:
            return
        if not incoming.wants_more:
            self._pause()
            self._watched = None
            if not self._is_blocked:
                self.deadline_s = _NEVER_S
            return
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        if self._reader.owes_continue:
            self._reader.owes_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._is_blocked:
            self._watch()  # from the beginning after each pause: that was not the caller's

    def _watch(self) -> None:
        phase = self._reader.phase
        if phase is self._watched:
            return  # the time for a head runs from its first byte
        self._watched = phase
        limits = self._rules.limits
        now_s = self._since_s = self._rules.time()
        if phase is _IDLE:
            self.deadline_s = now_s + limits.keep_alive_s
        elif phase is _HEAD:
            self.deadline_s = now_s + limits.head_s
        else:
            self._base_bytes = self._reader.body_bytes
            self.deadline_s = now_s + min(limits.body_grace_s, limits.body_s)

    def _is_body_in_time(self, now_s: float) -> bool:
        limits = self._rules.limits
        waited_s = now_s - self._since_s
        arrived = self._reader.body_bytes - self._base_bytes
        is_late = (
            self._incoming is None and waited_s >= limits.body_s
        )  # what is not held may take as long as it is large
        return not is_late and arrived >= waited_s * limits.body_bytes_per_s

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    # Ends.

    def _refuse(self, code: ErrorCode) -> None:
        """Answer on our own, and close."""
        rules = self._rules
        try:
            headers, body = rules.refuse(code)
        except Exception as error:  # noqa: BLE001  as in `_start`
            rules.bug(error)
            self.cut()
            return
        head = render_head(code.status, rules.state.date_line, CLOSE, headers)
        if self._reader.is_head_request:
            body = b""
        self.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._is_closing = True
        self._reader.close()
        self._linger()

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        """A bug in the handler."""
        self._rules.bug(error)
        if exchange.has_written:
            exchange.abort()
        elif exchange.is_open:
            try:
                headers, body = self._rules.refuse(ErrorCode.INTERNAL_ERROR)
            except Exception as second:  # noqa: BLE001  as in `_start`
                self._rules.bug(second)
                exchange.abort()
            else:
                exchange.respond(ErrorCode.INTERNAL_ERROR.status, headers, body)

    def _guard(self, exchange: Exchange, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  as in `_start`
            self._fail(exchange, error)

    def _lose(self) -> None:
        """The caller has gone away."""
        exchange = self._exchange
        if exchange is not None:
            watcher = exchange.watcher
            self._release(exchange)
            if watcher is not None:
                self._guard(exchange, watcher.leave)

    def _close(self) -> None:
        """Close once everything written has been sent."""
        self._is_closing = True
        if self._is_paused or self._queue or self._reader.phase is not _IDLE:
            self._linger()
        else:
            self._close_now()

    def _linger(self) -> None:
        """Send our side's end and read on for a moment: closing with unread bytes would reset our answer away."""
        limits = self._rules.limits
        self._linger_bytes = limits.linger_bytes
        self.deadline_s = self._rules.time() + limits.linger_s
        if self.transport.can_write_eof():
            self._rules.outbox.flush()
            self.transport.write_eof()
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def _close_now(self) -> None:
        self._is_closing = True
        self._linger_bytes = -1
        self.deadline_s = self._rules.time() + self._rules.limits.stalled_reader_s
        self._rules.outbox.flush()
        self.transport.close()

    def cut(self) -> None:
        """Close at once with a TCP reset, whatever is under way and whatever was not sent yet."""
        self._is_closing = True
        self._lose()
        raw = self.transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX and not self.transport.is_closing():
            # Without it uvloop's abort is an ordinary close, and the kernel keeps trying to deliver what was written.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()
