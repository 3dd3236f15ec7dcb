"""Answers out of bytes: llhttp in its strict mode, and the rules it leaves to us. Sans-io.

llhttp is not told when the connection ends, nor that a request was HEAD: both are decided here.
"""

from __future__ import annotations

from enum import Enum, auto

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

_LENGTH_DIGITS_MAX = 19
_SWITCHING_PROTOCOLS = 101
_TAKEN: dict[bytes, bytes] = {}
_REPEATS_MAX = 256  # headers that repeat another; each repetition copies what is there


class TransportFailure(Enum):
    """Why a call has no complete answer."""

    DNS = auto()
    CONNECT_REFUSED = auto()
    CONNECT_TIMEOUT = auto()
    TLS = auto()
    RESET = auto()
    """The connection broke."""
    RESET_REUSED = auto()
    """A reused connection closed before any byte of the answer: the origin most likely never read the request."""
    TRUNCATED = auto()
    """The origin closed before the end that it had announced."""
    MALFORMED = auto()
    TOO_LARGE = auto()
    FIRST_BYTE_TIMEOUT = auto()
    IDLE_TIMEOUT = auto()
    TOTAL_TIMEOUT = auto()


class _Stop(Exception):
    """Leaves llhttp."""


class ResponseReader:
    """The answers of one connection. `expect` before each; after `feed` returned a failure it is not fed again."""

    __slots__ = (
        "_arrived",
        "_body",
        "_failure",
        "_head_bytes",
        "_header_bytes_max",
        "_is_head_request",
        "_parser",
        "_repeats",
        "body_length",
        "has_head",
        "headers",
        "is_asked_on",
        "is_close_delimited",
        "is_complete",
        "is_reusable",
        "status",
    )

    def __init__(self, header_bytes_max: int) -> None:
        self._header_bytes_max = header_bytes_max
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._body: list[bytes] = []
        self._failure: TransportFailure | None = None
        self.expect(is_head_request=False)

    def expect(self, *, is_head_request: bool) -> None:
        """Begin the next answer."""
        self._is_head_request = is_head_request
        self._arrived = 0
        self._head_bytes = 0
        self._repeats = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Lower-case names; repeated headers joined by a comma. Cookies, which cannot be (RFC 6265 §3), are lines."""
        self.body_length: int | None = None
        """As announced; None when chunked, or ended by the end of the connection."""
        self.has_head = False
        """Status and headers of the final answer are known."""
        self.is_asked_on = False
        """The origin wants the body of the request (`100 Continue`), and has not answered yet."""
        self.is_close_delimited = False
        """Whether the end of the connection is the end of this answer, so that nobody can tell it from a break."""
        self.is_complete = False
        self.is_reusable = False
        """After a complete answer: whether the connection may carry another."""

    def feed(self, data: bytes) -> TransportFailure | None:
        """Read on. What arrived before a failure counts: look at `has_head` and `take_body` first."""
        parser = self._parser
        assert parser is not None, "fed after close"
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.is_complete:
                self.is_reusable = False  # more came than was asked for
                return None
            if self._failure is None and isinstance(error, HttpParserCallbackError) and error.__context__:
                raise error.__context__ from None  # a bug of ours
            return self._failure or TransportFailure.MALFORMED
        if not self.has_head:
            self._arrived += len(data)
            if self._arrived > self._header_bytes_max:
                return TransportFailure.MALFORMED
        return None

    def take_headers(self) -> dict[bytes, bytes]:
        """Those of the final answer, once: they are the receiver's, and not kept here as long as a stream runs."""
        headers, self.headers = self.headers, _TAKEN
        return headers

    def take_body(self) -> bytes:
        """What arrived of the body since the last call."""
        body = self._body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    def close(self) -> None:
        """Let go of llhttp, which holds on to this object."""
        self._parser = None

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise _Stop

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._header_bytes_max:
            self._fail(TransportFailure.MALFORMED)
        if self.has_head:
            return  # a trailer says nothing that we act upon
        name = name.lower()
        headers = self.headers
        if name not in headers:
            headers[name] = value.rstrip()
        elif name == b"set-cookie" and self._repeats < _REPEATS_MAX:
            self._repeats += 1
            headers[name] = b"%b\r\nset-cookie: %b" % (headers[name], value.rstrip())
        elif self._repeats >= _REPEATS_MAX:
            self._fail(TransportFailure.MALFORMED)
        else:
            self._repeats += 1
            headers[name] = b"%b, %b" % (headers[name], value.rstrip())

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self.headers
        assert parser is not None
        status = parser.get_status_code()
        if not 100 <= status <= 599 or status == _SWITCHING_PROTOCOLS:
            self._fail(TransportFailure.MALFORMED)
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            self._fail(TransportFailure.MALFORMED)
        if status < 200:
            self.headers = {}  # 1xx: the final answer follows; the bytes count on
            self.is_asked_on = self.is_asked_on or status == 100
            return
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if length is not None:
            if len(length) > _LENGTH_DIGITS_MAX:
                self._fail(TransportFailure.MALFORMED)
            self.body_length = int(length)
        elif coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            self._fail(TransportFailure.MALFORMED)
        self.status = status
        self.is_close_delimited = length is None and coding is None
        self.has_head = True
        if self._is_head_request:
            self.is_complete = True
            raise _Stop  # llhttp would wait for the body that is announced

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self.has_head:
            assert self._parser is not None
            self.is_complete = True
            self.is_reusable = self._parser.should_keep_alive()

    def _fail(self, failure: TransportFailure) -> None:
        self._failure = failure
        raise _Stop
