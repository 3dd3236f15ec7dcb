"""Answers as bytes, each with a name and what a caller must make of it."""

from __future__ import annotations

import msgspec

from waypost.transport.http1_client import TransportFailure

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_MALFORMED = TransportFailure.MALFORMED
_TRUNCATED = TransportFailure.TRUNCATED


class Shape(msgspec.Struct, frozen=True):
    data: bytes
    status: int = 0
    """0 when not even a head may be told."""
    body: bytes = b""
    failure: TransportFailure | None = None
    is_reused: bool = False
    is_closed: bool = False
    """The origin closes after these bytes."""
    request: bytes = b"POST"


def _kept(data: bytes, body: bytes = b"ok", status: int = 200) -> Shape:
    return Shape(data, status, body, is_reused=True)


def _once(data: bytes, body: bytes = b"ok", status: int = 200, request: bytes = b"POST") -> Shape:
    """Complete, but the connection carries nothing more."""
    return Shape(data, status, body, request=request)


def _until_closed(data: bytes, body: bytes) -> Shape:
    return Shape(data, 200, body, is_closed=True)


def _fails(
    data: bytes, failure: TransportFailure = _MALFORMED, status: int = 0, body: bytes = b"", *, is_closed: bool = False
) -> Shape:
    return Shape(data, status, body, failure, is_closed=is_closed)


def _length(headers: bytes = b"", body: bytes = b"ok") -> bytes:
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (_OK, len(body), headers, body)


SHAPES: dict[str, Shape] = {
    # Complete
    "by length": _kept(_length()),
    "empty": _kept(_length(body=b""), b""),
    "no reason": _kept(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    "other status": _kept(b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\nno", b"no", 429),
    "redirect": _kept(b"HTTP/1.1 302 Found\r\nLocation: http://b/\r\nContent-Length: 0\r\n\r\n", b"", 302),
    "chunked": _kept(_OK + _CHUNKED + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n"),
    "chunked with trailer": _kept(_OK + _CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"),
    "chunked in capitals": _kept(_OK + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "after 100": _kept(b"HTTP/1.1 100 Continue\r\n\r\n" + _length()),
    "after 103": _kept(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nLink: y\r\n\r\n" + _length()),
    "204": _kept(b"HTTP/1.1 204 No Content\r\n\r\n", b"", 204),
    "204 with length": _kept(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", 204),
    "304": _kept(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", 304),
    "upgrade offered": _kept(_length(b"Connection: Upgrade\r\nUpgrade: h2\r\n")),
    "kept alive in HTTP/1.0": _kept(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    "connection close": _once(_length(b"Connection: close\r\n")),
    "HTTP/1.0": _once(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "bytes after the end": _once(_length() + b"extra"),
    "second answer": _once(_length() + _length()),
    "bytes after connection close": _once(_length(b"Connection: close\r\n") + b"extra"),
    "answer to HEAD": _once(_OK + b"Content-Length: 5\r\n\r\n", b"", request=b"HEAD"),
    "chunked answer to HEAD": _once(_OK + _CHUNKED, b"", request=b"HEAD"),
    "until closed": _until_closed(_OK + b"\r\nok", b"ok"),
    "until closed, empty": _until_closed(_OK + b"\r\n", b""),
    "until closed in HTTP/1.0": _until_closed(b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    # Truncated
    "closed before anything": _fails(b"", TransportFailure.RESET, is_closed=True),
    "closed in the status line": _fails(b"HTTP/1.1 2", _TRUNCATED, is_closed=True),
    "closed in the headers": _fails(_OK + b"X: y\r\n", _TRUNCATED, is_closed=True),
    "closed after 100": _fails(b"HTTP/1.1 100 Continue\r\n\r\n", _TRUNCATED, is_closed=True),
    "closed before the length": _fails(_OK + b"Content-Length: 3\r\n\r\nok", _TRUNCATED, 200, b"ok", is_closed=True),
    "closed before the body": _fails(_OK + b"Content-Length: 3\r\n\r\n", _TRUNCATED, 200, is_closed=True),
    "closed within a chunk": _fails(_OK + _CHUNKED + b"3\r\nok", _TRUNCATED, 200, b"ok", is_closed=True),
    "closed before the last chunk": _fails(_OK + _CHUNKED + b"2\r\nok\r\n", _TRUNCATED, 200, b"ok", is_closed=True),
    "closed within the last chunk": _fails(
        _OK + _CHUNKED + b"2\r\nok\r\n0\r\n", _TRUNCATED, 200, b"ok", is_closed=True
    ),
    # Malformed
    "not HTTP": _fails(b"SSH-2.0-OpenSSH_9\r\n"),
    "TLS alert": _fails(b"\x15\x03\x01\x00\x02\x02\x46"),
    "HTTP/0.9": _fails(b"HTTP/0.9 200 OK\r\n\r\n"),
    "HTTP/2.0": _fails(b"HTTP/2.0 200 OK\r\n\r\n"),
    "status of two digits": _fails(b"HTTP/1.1 20 OK\r\n\r\n"),
    "status 0": _fails(b"HTTP/1.1 000 OK\r\n\r\n"),
    "status 600": _fails(b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n"),
    "switching protocols": _fails(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nab"),
    "bare LF": _fails(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    "bare LF in headers": _fails(_OK + b"Content-Length: 2\n\nok"),
    "folded header": _fails(_OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
    "control byte in a value": _fails(_OK + b"X: a\x01\r\nContent-Length: 2\r\n\r\nok"),
    "space before a colon": _fails(_OK + b"Content-Length : 2\r\n\r\nok"),
    "two lengths": _fails(_OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    "two equal lengths": _fails(_OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    "length with sign": _fails(_OK + b"Content-Length: +2\r\n\r\nok"),
    "length of many zeros": _fails(_OK + b"Content-Length: %b2\r\n\r\nok" % (b"0" * 40)),
    "length and chunked": _fails(_OK + b"Content-Length: 2\r\n" + _CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    "gzip": _fails(_OK + b"Transfer-Encoding: gzip\r\n\r\nok"),
    "gzip, chunked": _fails(_OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "chunked in HTTP/1.0": _fails(b"HTTP/1.0 200 OK\r\n" + _CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    "chunk size not hexadecimal": _fails(_OK + _CHUNKED + b"g\r\n", status=200),
    "second chunk size not hexadecimal": _fails(_OK + _CHUNKED + b"2\r\nok\r\ng\r\n", status=200, body=b"ok"),
    "chunk longer than its size": _fails(_OK + _CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", status=200, body=b"ok"),
    "chunk ended by LF": _fails(_OK + _CHUNKED + b"2\r\nok\n0\r\n\r\n", status=200, body=b"ok"),
    # Sizes (the limits of the test: 2,000 bytes of headers, 1,000 of body)
    "headers too long": _fails(_OK + b"X: %b\r\n\r\n" % (b"y" * 2000)),
    "headers without end": _fails(_OK + b"X: " + b"y" * 2500),
    "informational answers without end": _fails(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 70),
    "body too long by length": _fails(_OK + b"Content-Length: 1001\r\n\r\n", TransportFailure.TOO_LARGE),
    "body too long in chunks": _fails(
        _OK + _CHUNKED + b"1f4\r\n%b\r\n1f5\r\n%b\r\n0\r\n\r\n" % (b"x" * 500, b"x" * 501),
        TransportFailure.TOO_LARGE,
        200,
    ),
    "body too long until closed": _fails(_OK + b"\r\n" + b"x" * 1001, TransportFailure.TOO_LARGE, 200),
}
