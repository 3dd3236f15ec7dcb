"""One request and its answer, as a handler sees them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from waypost.kit.payload import Payload
from waypost.transport.http1_request import RequestReader
from waypost.transport.incoming import Incoming
from waypost.transport.server_state import ServerState

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_BODYLESS = frozenset((204, 304))
_NO_HEADERS: dict[bytes, bytes] = {}


CLOSE = b"connection: close\r\n"


def render_head(status: int, date_line: bytes, connection_line: bytes, headers: bytes) -> bytes:
    """Status line and header lines, without the blank line."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b%b%b" % (line, date_line, connection_line, headers)


class Caller(Protocol):
    """The connection that a request came by."""

    def send(self, data: bytes) -> None:
        """To the socket, in order, at the end of this turn of the loop."""

    def flush(self) -> None:
        """To the socket now, what was sent until now."""

    def begun(self) -> None:
        """A streamed answer has begun, which may take long: what was needed to read its request can go."""

    def finish(self, exchange: Exchange, *, is_kept: bool) -> None:
        """The answer has been written to its end."""

    def drop(self, exchange: Exchange, *, must_reset: bool) -> None:
        """The answer will not be completed: close, with a TCP reset where nothing else would tell the caller."""


class Watcher(Protocol):
    """Whoever makes an answer, as its connection sees them."""

    def leave(self) -> None:
        """Called once if the caller goes away, or reads nothing for 30 s, before the answer has ended."""

    def pause(self) -> None:
        """256 KiB wait to be read by the caller: write no more until `resume`."""

    def resume(self) -> None: ...


class Exchange:
    """A request, to be answered once: by `respond`, or by `begin`, any number of `write`, and `end`. It is complete,
    unless it has an `incoming` body, which may still be on its way.

    Once the caller has gone, every method is without effect, so a handler need not ask before it writes.
    """

    __slots__ = (
        "_caller",
        "_head",
        "_is_begun",
        "_is_chunked",
        "_is_http10",
        "_is_kept",
        "_state",
        "body",
        "client_host",
        "headers",
        "incoming",
        "method",
        "more_headers",
        "path",
        "query",
        "watcher",
    )

    def __init__(self, request: RequestReader, caller: Caller, state: ServerState, client_host: str) -> None:
        self.method = request.method
        self.path, _, self.query = request.target.decode("ascii").partition("?")
        """Path and query as received, percent-encoded."""
        self.headers = request.headers
        """Lower-case names; repeated headers joined by a comma. None of those that must stand once stands twice. Once a
        streamed answer has begun, none are left."""
        self.body = Payload(request.body)
        self.incoming: Incoming | None = request.incoming
        """The body, where it is handed on as it arrives and not held; `body` is empty then."""
        self.client_host = client_host
        """The peer's address, or the one that a trusted proxy told by a PROXY header; empty on a Unix socket."""
        self.watcher: Watcher | None = None
        self.more_headers = b""
        """Header lines of whichever answer it will be."""
        self._caller: Caller | None = caller
        self._state = state
        self._is_http10 = request.is_http10
        self._is_kept = request.is_keep_alive
        self._is_begun = False
        self._head = b""  # of a streamed answer, until its first write
        self._is_chunked = False

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for this answer, or for the rest of it."""
        return self._caller is not None

    @property
    def has_written(self) -> bool:
        """Whether any byte of the answer may have left."""
        return self._is_begun and not self._head

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer in one write.

        `headers` are further lines, each ending in CRLF, without date, content-length and connection.
        """
        caller = self._caller
        if caller is None:
            return
        assert not self._is_begun or self._head, "answered twice"
        is_kept = self._is_kept and not self._state.is_draining
        head = self._head_of(status, headers, is_kept=is_kept)
        if status in _BODYLESS:
            caller.send(head + b"\r\n")
        elif self.method == "HEAD":
            caller.send(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)))
        else:
            caller.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        caller.finish(self, is_kept=is_kept)

    def begin(self, status: int, headers: bytes, *, length: int | None = None) -> None:
        """A streamed answer. Its head leaves with the first `write`, or by `flush_head`. `length` in bytes, where it is
        known; whoever gives it writes as many."""
        assert not self._is_begun, "answered twice"
        self._is_begun = True
        if self._is_http10:
            self._is_kept = False  # the end of the connection is the end of the body
        self._is_chunked = not self._is_http10 and length is None
        is_kept = self._is_kept = self._is_kept and not self._state.is_draining
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        self._head = b"%b%b\r\n" % (self._head_of(status, headers, is_kept=is_kept), framing)
        self.headers = _NO_HEADERS
        if self._caller is not None:
            self._caller.begun()

    def flush_head(self) -> None:
        if self._caller is not None and self._head:
            head, self._head = self._head, b""
            self._caller.send(head)

    def write(self, data: bytes) -> None:
        """One write to the socket."""
        caller = self._caller
        if caller is None or not data:
            return
        assert self._is_begun, "written before begun"
        if self.method == "HEAD":
            return
        if self._is_chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(data), data)
        elif self._head:
            data = self._head + data
        self._head = b""
        caller.send(data)

    def flush(self) -> None:
        """What was written is handed to the kernel now, not at the end of this turn of the loop: it arrives even when
        this process is killed next."""
        if self._caller is not None:
            self._caller.flush()

    def end(self, data: bytes = b"") -> None:
        """The streamed answer is complete, with this as its last part; both in one write."""
        caller = self._caller
        if caller is None:
            return
        assert self._is_begun, "ended before begun"
        last = self._head
        if self.method != "HEAD":
            if self._is_chunked:
                last = b"%b%x\r\n%b\r\n0\r\n\r\n" % (last, len(data), data) if data else last + b"0\r\n\r\n"
            else:
                last += data
        self._head = b""
        if last:
            caller.send(last)
        caller.finish(self, is_kept=self._is_kept)

    def abort(self) -> None:
        """Close without the end of the answer, so that nobody takes what was written for the whole."""
        if self._caller is not None:
            self._caller.drop(self, must_reset=self.has_written and not self._is_chunked)

    def body_ended(self, *, is_kept: bool) -> None:
        """For the connection: all of an incoming body is there, and another request may follow it."""
        self._is_kept = is_kept and not self._is_begun

    def detach(self) -> None:
        """For the connection: nobody waits any more. Also breaks the cycle between this object and its handler."""
        self._caller = None
        if self.incoming is not None:
            self.incoming.detach()
        self.watcher = None

    def _head_of(self, status: int, headers: bytes, *, is_kept: bool) -> bytes:
        connection = CLOSE if not is_kept else b"connection: keep-alive\r\n" if self._is_http10 else b""
        headers = headers + self.more_headers if self.more_headers else headers
        return render_head(status, self._state.date_line, connection, headers)
