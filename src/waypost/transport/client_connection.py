"""One pooled connection to an origin, and the call that it carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, Protocol, cast

from waypost.transport.http1_response import ResponseReader, TransportFailure
from waypost.transport.limits import CallTimeouts
from waypost.transport.outbox import Outbox

_P = ParamSpec("_P")


class Receiver(Protocol):
    """Is told the answer as it arrives: never from inside `Pool.call`, and never after `Call.abort`."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The final answer's status (200 … 599) and headers, names in lower case."""

    def on_data(self, data: bytes) -> None:
        """At most once per read of the socket."""

    def on_end(self) -> None:
        """The message is complete, and the connection is back in the pool."""

    def on_failure(self, failure: TransportFailure) -> None:
        """There will be no (further) answer. Exactly one of `on_end` and `on_failure` is called."""


class Upload(Protocol):
    """The body of a request that is not held, but written as it comes."""

    @property
    def length(self) -> int | None:
        """In bytes; None when that is not known."""

    def begin(self, call: Call) -> None:
        """There is a connection: from now on `call.write`, and at last `call.end`. May come from inside `Pool.call`."""

    def on_continue(self) -> None:
        """The origin wants it, as was asked by `expect: 100-continue`."""

    def on_blocked(self) -> None:
        """The origin takes no more for the moment: write nothing until `on_writable`."""

    def on_writable(self) -> None: ...


class Owner(Protocol):
    """The pool, as its connections see it."""

    outbox: Outbox

    def add(self, connection: ClientConnection) -> None: ...
    def keep(self, connection: ClientConnection) -> bool: ...
    def forget(self, connection: ClientConnection) -> None: ...
    def remove(self, connection: ClientConnection) -> None: ...
    def tell(self, callback: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None: ...
    def bug(self, error: Exception) -> None: ...


class Call:
    """One request under way. A caller uses `is_sent`, `abort`, `pause` and `resume`, and to upload a body `write` and
    `end`; the rest is the pool's."""

    __slots__ = (
        "body_bytes",
        "body_bytes_max",
        "connection",
        "has_answered",
        "has_moved",
        "is_close_delimited",
        "is_paused",
        "is_sent",
        "opening",
        "quiet_since_s",
        "receiver",
        "timeouts",
        "total_at_s",
        "upload",
    )

    def __init__(
        self,
        receiver: Receiver,
        timeouts: CallTimeouts,
        *,
        now_s: float,
        body_bytes_max: int,
        upload: Upload | None = None,
    ) -> None:
        self.is_sent = False
        """Whether any byte of the request was handed to a connected socket."""
        self.is_close_delimited = False
        """After `on_end`: the answer ended with the connection, so nobody can tell whether it was complete."""
        self.receiver = receiver
        self.timeouts = timeouts
        self.total_at_s = now_s + timeouts.total_s
        self.quiet_since_s = now_s
        self.has_moved = False  # since the last sweep
        self.has_answered = False
        self.is_paused = False
        self.body_bytes = 0
        self.body_bytes_max = body_bytes_max
        self.connection: ClientConnection | None = None
        self.opening: asyncio.Task[None] | None = None
        self.upload = upload
        """Until all of it is written."""

    def write(self, data: bytes) -> None:
        """A part of the body."""
        upload, connection = self.upload, self.connection
        if upload is None or connection is None or not data:
            return  # the call is over
        self.has_moved = True
        connection.send(b"%x\r\n%b\r\n" % (len(data), data) if upload.length is None else data)

    def end(self) -> None:
        """The body is written."""
        upload, self.upload = self.upload, None
        if upload is not None and self.connection is not None:
            self.has_moved = True
            if upload.length is None:
                self.connection.send(b"0\r\n\r\n")

    def abort(self) -> None:
        """Close the connection at once. The receiver hears nothing more."""
        if self.connection is not None:
            self.connection.discard()
        elif self.opening is not None:
            opening, self.opening = self.opening, None
            opening.cancel()

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self.connection is not None and not self.is_paused:
            self.is_paused = True
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        if self.connection is not None and self.is_paused:
            self.is_paused = False
            self.has_moved = True
            self.connection.transport.resume_reading()


class ClientConnection:
    """Carries one call at a time. An asyncio.Protocol by its methods; it inherits nothing, so that it can be
    compiled."""

    __slots__ = (
        "_asked_in",
        "_call",
        "_is_abandoned",
        "_is_blocked",
        "_is_head_told",
        "_is_open",
        "_is_reused",
        "_owner",
        "_reader",
        "idle_until_s",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, owner: Owner, header_bytes_max: int) -> None:
        self._owner = owner
        self._reader = ResponseReader(header_bytes_max)
        self._call: Call | None = None
        self._asked_in = -1  # the turn of the loop at whose end its request leaves
        self._is_abandoned = False
        self._is_blocked = False  # the origin does not take what was written
        self._is_open = False
        self._is_reused = False
        self._is_head_told = False
        self.idle_until_s = float("inf")  # until its first call has ended

    # What the pool calls.

    def start(self, call: Call, request: bytes, *, is_head_request: bool) -> None:
        """Send the request of a call."""
        self._call = call
        call.connection = self
        call.has_moved = True
        call.is_sent = True
        self._is_head_told = False
        self._reader.expect(is_head_request=is_head_request)
        self._asked_in = self._owner.outbox.turn
        self.send(request)
        if call.upload is not None:
            self._owner.tell(call.upload.begin, call)

    def send(self, data: bytes) -> None:
        """A part of the request, at the end of this turn of the loop."""
        self._owner.outbox.add(self.transport, data)

    def check(self, now_s: float) -> None:
        """Enforce what is due."""
        call = self._call
        if call is None:
            if now_s >= self.idle_until_s:
                self.discard()
        elif now_s >= call.total_at_s:
            self.fail(TransportFailure.TOTAL_TIMEOUT)
        elif call.has_moved or call.is_paused or (call.upload is not None and not self._is_blocked):
            call.has_moved = False
            call.quiet_since_s = now_s
        elif call.has_answered:
            if now_s - call.quiet_since_s >= call.timeouts.idle_s:
                self.fail(TransportFailure.IDLE_TIMEOUT)
        elif call.timeouts.first_byte_s is not None and now_s - call.quiet_since_s >= call.timeouts.first_byte_s:
            self.fail(TransportFailure.FIRST_BYTE_TIMEOUT)

    def fail(self, failure: TransportFailure) -> None:
        """Close at once, and tell the receiver."""
        call = self._call
        self.discard()
        if call is not None:
            self._owner.tell(call.receiver.on_failure, failure)

    def discard(self) -> None:
        """Close at once; the receiver hears nothing more."""
        call = self._call
        if call is not None:
            self._call = call.connection = None
        self._owner.forget(self)
        if self._is_open:
            self.transport.abort()

    def abandon(self) -> None:
        """Opening it failed, or was given up; the loop may still report it as made, and then never as lost."""
        self._is_abandoned = True
        self.discard()
        self._owner.remove(self)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._is_open = True
        if self._is_abandoned:
            self.transport.abort()
        else:
            self._owner.add(self)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self.discard()  # an idle connection that speaks is out of step with us
            return
        if self._asked_in == self._owner.outbox.turn:
            call.is_sent = False  # and so is one that speaks before our request has left, which it now never does
            self.fail(TransportFailure.RESET_REUSED if self._is_reused else TransportFailure.RESET)
            return
        call.has_moved = call.has_answered = True
        try:
            malformed = self._reader.feed(data)
            failure = self._deliver(call) or malformed  # what arrived before the fault counts
        except Exception as error:  # noqa: BLE001  must not reach the loop, which would log what was said
            self._owner.bug(error)
            failure = TransportFailure.MALFORMED
        if self._call is not call:
            return  # aborted by its receiver
        if failure is not None:
            self.fail(failure)
        elif self._reader.is_complete:
            self._finish(call)

    def pause_writing(self) -> None:
        self._is_blocked = True
        if self._call is not None and self._call.upload is not None:
            self._owner.tell(self._call.upload.on_blocked)

    def resume_writing(self) -> None:
        self._is_blocked = False
        if self._call is not None and self._call.upload is not None:
            self._owner.tell(self._call.upload.on_writable)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_open = False
        self._end(exc)
        self._owner.remove(self)
        self._reader.close()

    # The answer.

    def _deliver(self, call: Call) -> TransportFailure | None:
        reader = self._reader
        if not reader.has_head:
            if reader.is_asked_on and call.upload is not None:
                reader.is_asked_on = False
                call.upload.on_continue()
            return None
        if not self._is_head_told:
            self._is_head_told = True
            if reader.body_length is not None and reader.body_length > call.body_bytes_max and not reader.is_complete:
                return TransportFailure.TOO_LARGE
            call.receiver.on_head(reader.status, reader.take_headers())
        data = reader.take_body()
        if data and self._call is call:
            call.body_bytes += len(data)
            if call.body_bytes > call.body_bytes_max:
                return TransportFailure.TOO_LARGE
            call.receiver.on_data(data)
        return None

    def _finish(self, call: Call) -> None:
        transport = self.transport
        self._call = call.connection = None
        # An answer before the end of its request: the origin may not read the rest.
        is_reusable = self._reader.is_reusable and call.upload is None and not transport.get_write_buffer_size()
        if is_reusable and not transport.is_closing() and self._owner.keep(self):
            self._is_reused = True
            if call.is_paused:
                transport.resume_reading()
        else:
            transport.abort()
        try:
            call.receiver.on_end()
        except Exception as error:  # noqa: BLE001  as in `Owner.tell`, without its call: this is how most calls end
            self._owner.bug(error)

    def _end(self, exc: Exception | None) -> None:
        """The origin closed, or the connection broke."""
        call = self._call
        if call is None:
            self._owner.forget(self)
        elif self._reader.is_close_delimited and exc is None:
            call.is_close_delimited = True
            self._finish(call)
        elif not call.has_answered:
            self.fail(TransportFailure.RESET_REUSED if self._is_reused else TransportFailure.RESET)
        else:
            self.fail(TransportFailure.TRUNCATED if exc is None else TransportFailure.RESET)
