"""Requests out of bytes: llhttp in its strict mode, and the rules it leaves to us (RFC 9112, RFC 9110 §5 and §7).

Sans-io: `feed` takes what was read, in any cut, and calls `on_request` for every complete request. llhttp itself
refuses bare CR and LF, obs-fold, control characters, names that are not tokens, repeated or malformed Content-Length,
and Content-Length beside Transfer-Encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import NoReturn

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from waypost.kit.errors import ErrorCode
from waypost.transport.incoming import Incoming
from waypost.transport.limits import ServerLimits
from waypost.transport.server_state import ServerState

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
# Two readers of a request that repeats one of these may act on different values.
_SINGLE = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"content-type",
        b"x-api-key",
        b"x-goog-api-key",
        b"expect",
    )
)
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_LENGTH_DIGITS_MAX = 19
_FRAGMENT = ord("#")


Streams = Callable[[bytes], int | None]
"""The path of a PUT → how many bytes its body may have, handed on as it arrives; None for one that is held."""


TakesImages = Callable[[bytes], bool]
"""The path of a POST → whether its body may be as large as one with images."""


class Phase(Enum):
    """What the next byte belongs to."""

    IDLE = 0
    HEAD = 1
    BODY = 2


_IDLE, _HEAD, _BODY = Phase  # a member reached through its class costs 80 ns more


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _nobody(_: RequestReader) -> None:
    """Is called back after the end."""


class _Refused(Exception):
    """Leaves llhttp; the code waits in the reader."""


class RequestReader:
    """The requests of one connection. After `feed` returned a code it must not be fed again.

    A body is held, and `on_request` called when it is complete; or, where `streams` says so, `on_request` is called
    with the head, and `incoming` is pushed what follows, which its connection hands on after each feed.

    During `on_request`, which is given the reader itself, `method`, `target`, `headers`, `body`, `is_http10` and
    `is_keep_alive` are those of the request that is complete.
    """

    __slots__ = (
        "_arrived",
        "_buffer",
        "_bytes_max",
        "_completed",
        "_completed_before_feed",
        "_feed_bytes",
        "_is_closed",
        "_limits",
        "_on_request",
        "_parser",
        "_refusal",
        "_repeats",
        "_state",
        "_streams",
        "_takes_images",
        "body",
        "body_bytes",
        "headers",
        "incoming",
        "is_http10",
        "is_keep_alive",
        "method",
        "owes_continue",
        "phase",
        "target",
    )

    def __init__(
        self,
        limits: ServerLimits,
        state: ServerState,
        on_request: Callable[[RequestReader], None],
        streams: Streams | None = None,
        takes_images: TakesImages | None = None,
    ) -> None:
        self._limits = limits
        self._state = state
        self._on_request = on_request
        self._streams = streams
        self._takes_images = takes_images
        self._parser: HttpRequestParser | None = None  # made by the first byte
        self._is_closed = False
        self._refusal: ErrorCode | None = None
        self._completed = 0
        self._completed_before_feed = 0
        self._feed_bytes = 0
        self._arrived = 0  # of a head, before this feed
        self._repeats = 0
        self._bytes_max = 0  # of a body that is not held
        self._buffer: bytearray | None = None  # a body of more than one part
        self.method = ""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.incoming: Incoming | None = None
        """The body under way, when it is handed on as it arrives."""
        self.is_http10 = False
        self.is_keep_alive = False
        self.body_bytes = 0
        """What has arrived of an unfinished body."""
        self.phase = _IDLE
        self.owes_continue = False
        """The caller waits for `100 Continue` before it sends the body."""

    def feed(self, data: bytes) -> ErrorCode | None:
        """Read on. A code: what follows the requests handed out so far is refused, and the connection over."""
        assert not self._is_closed, "fed after close"
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpRequestParser(self)
        self._completed_before_feed = self._completed
        self._feed_bytes = len(data)
        try:
            parser.feed_data(data)
        except HttpParserError as error:
            if self._refusal is None and isinstance(error, HttpParserCallbackError) and error.__context__:
                raise error.__context__ from None  # a bug of ours
            return self._refusal or ErrorCode.INPUT_VALIDATION_ERROR
        except HttpParserUpgrade:
            return ErrorCode.INPUT_VALIDATION_ERROR
        if self.phase is _HEAD and self._completed == self._completed_before_feed:
            self._arrived += len(data)
            if self._arrived > self._limits.header_bytes + self._limits.line_bytes:
                return ErrorCode.HEADERS_TOO_LARGE
        return None

    @property
    def is_head_request(self) -> bool:
        """Whether the request being read is a HEAD, as far as is known."""
        return self._parser is not None and bool(self.target) and self._parser.get_method() == b"HEAD"

    def rest(self) -> None:
        """Nothing will be read for a while: between two requests all of llhttp's state is that it is there, 1 KiB of
        it, and the headers of the request before are somebody else's. What a request that is the last one leaves
        behind stays: its llhttp knows that nothing may follow."""
        if self.phase is _IDLE and self.is_keep_alive:
            self._parser = None
            self.headers = {}

    def close(self) -> None:
        """Let go of an unfinished body, and of llhttp, which holds on to this object."""
        if self.incoming is None:
            self._state.buffered_bytes -= self.body_bytes
        self.incoming = None
        self.body_bytes = 0
        self.body = b""
        self._buffer = None
        self._parser = None
        self._is_closed = True
        self._on_request = _nobody  # whom it called back: without the cycles all go at once

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._completed - self._completed_before_feed >= self._limits.pipelined_requests:
            self._refuse(ErrorCode.RATE_LIMITED)
        self.phase = _HEAD
        self._arrived = 0
        self._repeats = 0
        self.target = b""
        self.headers = {}

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if name not in headers and self.phase is _HEAD:
            headers[name] = value.rstrip()
        elif name in _SINGLE or self.phase is _BODY:
            # A trailer could say what the head did not: none of our callers sends one.
            self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
        elif self._repeats >= self._limits.header_count:
            self._refuse(ErrorCode.HEADERS_TOO_LARGE)  # each repetition copies what is there
        else:
            self._repeats += 1
            headers[name] = b"%b, %b" % (headers[name], value.rstrip())

    def on_headers_complete(self) -> None:
        parser, target = self._parser, self.target
        assert parser is not None
        # A head in a read shorter than a single line may be keeps every limit of size.
        if self._arrived or self._feed_bytes > self._limits.line_bytes:
            self._check_sizes()
        if len(self.headers) + self._repeats > self._limits.header_count:
            self._refuse(ErrorCode.HEADERS_TOO_LARGE)
        method = _METHODS.get(parser.get_method())
        if method is None:
            self._refuse(ErrorCode.METHOD_NOT_ALLOWED)
        self.method = method
        # Only the origin form: we are nobody's forward proxy, and `OPTIONS *` asks about nothing we have.
        if parser.should_upgrade() or target[:1] != b"/" or _FRAGMENT in target:
            self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
        self._check_version(parser.get_http_version())
        streamed_max = None
        if method == "PUT" and self._streams is not None:
            streamed_max = self._streams(target.partition(b"?")[0])
        self._check_framing(self._limits.body_bytes if streamed_max is None else streamed_max)
        self.phase = _BODY
        if streamed_max is not None:
            self._begin_stream(streamed_max)

    def on_body(self, data: bytes) -> None:
        if self.incoming is not None:
            self._pass_on(self.incoming, data)
            return
        size = len(data)
        self.body_bytes += size
        self._state.buffered_bytes += size
        if self.body_bytes > self._limits.body_bytes and self.body_bytes > self._image_body_bytes():
            self._refuse(ErrorCode.PAYLOAD_TOO_LARGE)
        if self._state.buffered_bytes > self._limits.buffered_bytes:
            self._refuse(ErrorCode.SERVICE_UNAVAILABLE)
        if self.body_bytes == size:
            self.body = data
        elif self._buffer is None:
            # Not a list of parts: with tiny chunks it would take fifty times their size.
            self._buffer = bytearray(self.body + data)
        else:
            self._buffer += data

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self.is_keep_alive = self._parser.should_keep_alive()
        if self.incoming is not None:
            self._end_stream(self.incoming)
            return
        if self._buffer is not None:
            self.body = bytes(self._buffer)
            self._buffer = None
        self.body_bytes = 0  # counted on in the state, until the answer ends
        self._completed += 1
        self.phase = _IDLE
        self.owes_continue = False
        self._on_request(self)
        self.body = b""

    # A body that is not held.

    def _begin_stream(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        length = self.headers.get(b"content-length", b"0")
        self.incoming = Incoming(None if b"transfer-encoding" in self.headers else int(length))
        self.is_keep_alive = False  # until it has ended
        self._on_request(self)

    def _pass_on(self, incoming: Incoming, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.body_bytes > self._bytes_max:
            self._refuse(ErrorCode.PAYLOAD_TOO_LARGE)
        incoming.push(data)

    def _end_stream(self, incoming: Incoming) -> None:
        incoming.is_ended = True
        incoming.is_kept = self.is_keep_alive
        self.incoming = None
        self.body_bytes = 0
        self._completed += 1
        self.phase = _IDLE
        self.owes_continue = False

    # Rules.

    def _check_sizes(self) -> None:
        limits, total = self._limits, 0
        for name, value in self.headers.items():
            size = len(name) + len(value) + 4  # colon, space, CRLF
            total += size
            if size > limits.line_bytes:
                self._refuse(ErrorCode.HEADERS_TOO_LARGE)
        if total > limits.header_bytes or len(self.target) > limits.line_bytes:
            self._refuse(ErrorCode.HEADERS_TOO_LARGE)

    def _check_version(self, version: str) -> None:
        self.is_http10 = version == "1.0"
        if version != "1.1" and not self.is_http10:
            self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)

    def _check_framing(self, bytes_max: int) -> None:
        headers = self.headers
        host = headers.get(b"host")
        if not self.is_http10 if host is None else not _is_host(host):
            self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
        length = headers.get(b"content-length")
        if length is not None:
            if len(length) > _LENGTH_DIGITS_MAX:
                self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
            if int(length) > bytes_max and int(length) > self._image_body_bytes():
                self._refuse(ErrorCode.PAYLOAD_TOO_LARGE)
        coding = headers.get(b"transfer-encoding")
        # An HTTP/1.0 message with Transfer-Encoding is faulty framing (RFC 9112 §6.1).
        if coding is not None and (coding.lower() != b"chunked" or self.is_http10):
            self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
        expectation = headers.get(b"expect")
        if expectation is not None and not self.is_http10:
            if expectation.lower() != b"100-continue":
                self._refuse(ErrorCode.INPUT_VALIDATION_ERROR)
            self.owes_continue = True

    def _image_body_bytes(self) -> int:
        """How large a body may be for the images in it; 0 where there are none. Asked for large ones alone."""
        if (
            self._takes_images is None
            or self.method != "POST"
            or not self._takes_images(self.target.partition(b"?")[0])
        ):
            return 0
        return self._limits.image_body_bytes

    def _refuse(self, code: ErrorCode) -> NoReturn:
        self._refusal = code
        raise _Refused
