"""Requests as bytes, each with a name and what must become of it: how many are answered, and the code that ends it."""

from __future__ import annotations

import msgspec

from waypost.kit.errors import ErrorCode

_INVALID = ErrorCode.INPUT_VALIDATION_ERROR
_TOO_MUCH_HEAD = ErrorCode.HEADERS_TOO_LARGE
_HOST = b"Host: a.example\r\n"


class Shape(msgspec.Struct, frozen=True):
    data: bytes
    accepted: tuple[tuple[str, bytes, bytes], ...] = ()
    """(method, target, body) of each request that reaches the handler."""
    refused: ErrorCode | None = None
    is_closed: bool = False
    """Whether we close after the answers; always so after a refusal."""


def _get(headers: bytes = b"", *, target: bytes = b"/", version: bytes = b"HTTP/1.1", host: bytes = _HOST) -> bytes:
    return b"GET %b %b\r\n%b%b\r\n" % (target, version, host, headers)


def _post(headers: bytes, body: bytes) -> bytes:
    return b"POST /p HTTP/1.1\r\n%b%b\r\n%b" % (_HOST, headers, body)


def _chunked(body: bytes, headers: bytes = b"") -> bytes:
    return _post(b"Transfer-Encoding: chunked\r\n" + headers, body)


def _ok(data: bytes, *accepted: tuple[str, bytes, bytes], is_closed: bool = False) -> Shape:
    return Shape(data, accepted or (("GET", b"/", b""),), is_closed=is_closed)


def _refused(data: bytes, code: ErrorCode = _INVALID, *accepted: tuple[str, bytes, bytes]) -> Shape:
    return Shape(data, accepted, code, is_closed=True)


def _posted(body: bytes) -> tuple[str, bytes, bytes]:
    return ("POST", b"/p", body)


_GOT = ("GET", b"/", b"")
_MANY_HEADERS = b"".join(b"X-%d: y\r\n" % n for n in range(64))

SHAPES: dict[str, Shape] = {
    # Accepted
    "get": _ok(_get()),
    "get with query": _ok(_get(target=b"/a/b%2Fc?x=1&y=%20?z"), ("GET", b"/a/b%2Fc?x=1&y=%20?z", b"")),
    "empty header value": _ok(_get(b"X-A:\r\nX-B: 1\r\n")),
    "white space around a value": _ok(_get(b"X-A: \t v \t\r\n")),
    "no white space before a value": _ok(_get(b"X-A:v\r\n")),
    "bytes over 127 in a value": _ok(_get(b"X-A: \xc3\xa9\r\n")),
    "repeated list header": _ok(_get(b"Accept: a\r\nAccept: b\r\n")),
    "63 more headers": _ok(_get(b"".join(b"X-%d: y\r\n" % n for n in range(63)))),
    "header names in any case": _ok(b"GET / HTTP/1.1\r\nhOsT: a\r\n\r\n"),
    "host with port": _ok(_get(host=b"Host: a.example:8080\r\n")),
    "host as IPv6 literal": _ok(_get(host=b"Host: [::1]:8080\r\n")),
    "empty host": _ok(_get(host=b"Host:\r\n")),
    "empty line before the request": _ok(b"\r\n" + _get()),
    "options of a path": _ok(b"OPTIONS /x HTTP/1.1\r\n%b\r\n" % _HOST, ("OPTIONS", b"/x", b"")),
    "delete with body": _ok(b"DELETE /x HTTP/1.1\r\n%bContent-Length: 2\r\n\r\nab" % _HOST, ("DELETE", b"/x", b"ab")),
    "body by length": _ok(_post(b"Content-Length: 3\r\n", b"abc"), _posted(b"abc")),
    "body of length 0": _ok(_post(b"Content-Length: 0\r\n", b""), _posted(b"")),
    "length with leading zero": _ok(_post(b"Content-Length: 003\r\n", b"abc"), _posted(b"abc")),
    "length with trailing space": _ok(_post(b"Content-Length: 3 \r\n", b"abc"), _posted(b"abc")),
    "body with CR, LF and NUL": _ok(_post(b"Content-Length: 6\r\n", b"\r\n\r\n\0\0"), _posted(b"\r\n\r\n\0\0")),
    "chunked": _ok(_chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), _posted(b"abc0123456789")),
    "chunked, empty": _ok(_chunked(b"0\r\n\r\n"), _posted(b"")),
    "chunked, sizes with zeros and capitals": _ok(
        _chunked(b"00B\r\nabcdefghijk\r\n000\r\n\r\n"), _posted(b"abcdefghijk")
    ),
    "chunked, extension": _ok(_chunked(b'1;a=b;c="d"\r\nx\r\n0;e\r\n\r\n'), _posted(b"x")),
    "chunked in capitals": _ok(_post(b"Transfer-Encoding: CHUNKED\r\n", b"1\r\nx\r\n0\r\n\r\n"), _posted(b"x")),
    "two requests at once": _ok(_get() + _post(b"Content-Length: 1\r\n", b"x"), _GOT, _posted(b"x")),
    "three after chunked": _ok(_chunked(b"1\r\nx\r\n0\r\n\r\n") + _get() + _get(), _posted(b"x"), _GOT, _GOT),
    "connection close": _ok(_get(b"Connection: close\r\n"), is_closed=True),
    "connection close among others": _ok(_get(b"Connection: TE, Close\r\n"), is_closed=True),
    "nothing answered after close": _ok(_get(b"Connection: close\r\n") + _get(), is_closed=True),
    "HTTP/1.0": _ok(_get(version=b"HTTP/1.0"), is_closed=True),
    "HTTP/1.0 without host": _ok(b"GET / HTTP/1.0\r\n\r\n", is_closed=True),
    "HTTP/1.0 kept alive": _ok(_get(b"Connection: keep-alive\r\n", version=b"HTTP/1.0")),
    "upgrade header without connection": _ok(_get(b"Upgrade: h2c\r\n")),
    "expectation of HTTP/1.0 ignored": _ok(_get(b"Expect: x\r\n", version=b"HTTP/1.0"), is_closed=True),
    # Duplicates
    "two hosts": _refused(_get(b"Host: b\r\n")),
    "two equal hosts": _refused(_get(_HOST)),
    "two content-lengths": _refused(_post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"xx")),
    "two equal content-lengths": _refused(_post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"x")),
    "two transfer-encodings": _refused(
        _chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
    ),
    "two authorizations": _refused(_get(b"Authorization: a\r\nAuthorization: b\r\n")),
    "two content types": _refused(_get(b"Content-Type: a\r\nCONTENT-TYPE: b\r\n")),
    "two x-api-keys": _refused(_get(b"X-Api-Key: a\r\nx-api-key: a\r\n")),
    "two x-goog-api-keys": _refused(_get(b"X-Goog-Api-Key: a\r\nx-goog-api-key: a\r\n")),
    # Framing
    "length and chunked": _refused(_post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    "chunked and length": _refused(_post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n")),
    "gzip": _refused(_post(b"Transfer-Encoding: gzip\r\n", b"")),
    "gzip, chunked": _refused(_post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    "chunked, chunked": _refused(_post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n")),
    "chunked, identity": _refused(_post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n")),
    "identity": _refused(_post(b"Transfer-Encoding: identity\r\n", b"")),
    "xchunked": _refused(_post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n")),
    "vertical tab before chunked": _refused(_post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n")),
    "empty transfer-encoding": _refused(_post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n")),
    "space before the colon of transfer-encoding": _refused(_post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n")),
    "transfer-encoding in HTTP/1.0": _refused(
        b"POST / HTTP/1.0\r\n%bTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % _HOST
    ),
    "length with sign": _refused(_post(b"Content-Length: +1\r\n", b"x")),
    "negative length": _refused(_post(b"Content-Length: -1\r\n", b"x")),
    "hexadecimal length": _refused(_post(b"Content-Length: 0x1\r\n", b"x")),
    "length with underscore": _refused(_post(b"Content-Length: 1_0\r\n", b"0123456789")),
    "list of lengths": _refused(_post(b"Content-Length: 1, 1\r\n", b"x")),
    "two words as length": _refused(_post(b"Content-Length: 1 1\r\n", b"x")),
    "empty length": _refused(_post(b"Content-Length:\r\n", b"")),
    "length over 64 bits": _refused(_post(b"Content-Length: 99999999999999999999\r\n", b"")),
    "length of many zeros": _refused(_post(b"Content-Length: %b1\r\n" % (b"0" * 40), b"x")),
    "body too large by length": _refused(_post(b"Content-Length: 1001\r\n", b""), ErrorCode.PAYLOAD_TOO_LARGE),
    "body too large by chunks": _refused(
        _chunked(b"1F4\r\n%b\r\n1F5\r\n%b\r\n" % (b"x" * 500, b"x" * 501)), ErrorCode.PAYLOAD_TOO_LARGE
    ),
    "chunk size not hexadecimal": _refused(_chunked(b"g\r\nx\r\n0\r\n\r\n")),
    "chunk size with prefix": _refused(_chunked(b"0x1\r\nx\r\n0\r\n\r\n")),
    "chunk size with sign": _refused(_chunked(b"+1\r\nx\r\n0\r\n\r\n")),
    "negative chunk size": _refused(_chunked(b"-1\r\nx\r\n0\r\n\r\n")),
    "chunk size with trailing space": _refused(_chunked(b"1 \r\nx\r\n0\r\n\r\n")),
    "chunk size over 64 bits": _refused(_chunked(b"11111111111111111\r\n")),
    "no chunk size": _refused(_chunked(b"\r\nx\r\n0\r\n\r\n")),
    "chunk longer than its size": _refused(_chunked(b"1\r\nxy\r\n0\r\n\r\n")),
    "chunk size ended by LF": _refused(_chunked(b"1\nx\r\n0\r\n\r\n")),
    "chunk ended by LF": _refused(_chunked(b"1\r\nx\n0\r\n\r\n")),
    "last chunk ended by LF": _refused(_chunked(b"1\r\nx\r\n0\r\n\n")),
    "chunk extension with bare CR": _refused(_chunked(b"1;a\rb\r\nx\r\n0\r\n\r\n")),
    "chunk extension with NUL": _refused(_chunked(b"1;\0\r\nx\r\n0\r\n\r\n")),
    "trailer": _refused(_chunked(b"0\r\nX-A: b\r\n\r\n")),
    "trailer that frames": _refused(_chunked(b"0\r\nContent-Length: 3\r\n\r\nabc")),
    # Lines
    "bare LF everywhere": _refused(b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after a header": _refused(_get(b"X-A: b\nX-C: d\r\n")),
    "bare LF at the end": _refused(b"GET / HTTP/1.1\r\n%b\n" % _HOST),
    "bare CR in a value": _refused(_get(b"X-A: b\rc\r\n")),
    "bare CR before a header": _refused(_get(b"X-A: b\rX-C: d\r\n")),
    "folded header": _refused(_get(b"X-A: b\r\n c\r\n")),
    "header folded with a tab": _refused(_get(b"X-A: b\r\n\tc\r\n")),
    "folded empty header": _refused(_get(b"X-A:\r\n b\r\n")),
    "space before the first header": _refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "NUL in a value": _refused(_get(b"X-A: b\0c\r\n")),
    "control byte in a value": _refused(_get(b"X-A: b\x01c\r\n")),
    "DEL in a value": _refused(_get(b"X-A: b\x7fc\r\n")),
    "space before a colon": _refused(_get(b"X-A : b\r\n")),
    "parenthesis in a name": _refused(_get(b"X(A): b\r\n")),
    "byte over 127 in a name": _refused(_get(b"X\xe9: b\r\n")),
    "NUL in a name": _refused(_get(b"X\0A: b\r\n")),
    "empty name": _refused(_get(b": b\r\n")),
    "header without colon": _refused(_get(b"X-A\r\n")),
    # Start line and host
    "no host": _refused(_get(host=b"")),
    "host with a space": _refused(_get(host=b"Host: a b\r\n")),
    "host with a path": _refused(_get(host=b"Host: a/b\r\n")),
    "host with user": _refused(_get(host=b"Host: u@a\r\n")),
    "two names as host": _refused(_get(host=b"Host: a, b\r\n")),
    "absolute form": _refused(_get(target=b"http://a.example/")),
    "asterisk form": _refused(b"OPTIONS * HTTP/1.1\r\n%b\r\n" % _HOST),
    "no slash": _refused(_get(target=b"a")),
    "fragment": _refused(_get(target=b"/a#b")),
    "byte over 127 in the target": _refused(_get(target=b"/\xc3\xa9")),
    "NUL in the target": _refused(_get(target=b"/\0")),
    "tab in the target": _refused(_get(target=b"/a\tb")),
    "connect": _refused(b"CONNECT a.example:443 HTTP/1.1\r\n%b\r\n" % _HOST, ErrorCode.METHOD_NOT_ALLOWED),
    "trace": _refused(b"TRACE / HTTP/1.1\r\n%b\r\n" % _HOST, ErrorCode.METHOD_NOT_ALLOWED),
    "a method of another protocol": _refused(b"SOURCE /x ICE/1.0\r\n\r\n", ErrorCode.METHOD_NOT_ALLOWED),
    "unknown method": _refused(b"BREW / HTTP/1.1\r\n%b\r\n" % _HOST),
    "method in small letters": _refused(b"get / HTTP/1.1\r\n%b\r\n" % _HOST),
    "HTTP/0.9": _refused(b"GET /\r\n\r\n"),
    "HTTP/1.2": _refused(_get(version=b"HTTP/1.2")),
    "HTTP/2.0": _refused(_get(version=b"HTTP/2.0")),
    "HTTP/2 preface": _refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "protocol in small letters": _refused(_get(version=b"http/1.1")),
    # llhttp tells the version but not the protocol's name; nothing in it can differ from HTTP/1.0 for us.
    "RTSP is read as HTTP": _ok(_get(version=b"RTSP/1.0"), is_closed=True),
    "words after the version": _refused(_get(version=b"HTTP/1.1 x")),
    "TLS hello": _refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "upgrade to websocket": _refused(_get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")),
    "upgrade to h2c with a body": _refused(
        _post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n", b"abc")
    ),
    "unknown expectation": _refused(_post(b"Expect: 200-ok\r\nContent-Length: 1\r\n", b"x")),
    # Sizes (the limits of the test: 64 headers, 2,000 bytes of them, 800 a line, 1,000 of body)
    "65 more headers": _refused(_get(_MANY_HEADERS + b"X-64: y\r\n"), _TOO_MUCH_HEAD),
    "64 more headers": _refused(_get(_MANY_HEADERS), _TOO_MUCH_HEAD),
    "65 of one header": _refused(_get(b"X: y\r\n" * 65), _TOO_MUCH_HEAD),
    "header line too long": _refused(_get(b"X-A: %b\r\n" % (b"y" * 800)), _TOO_MUCH_HEAD),
    "target too long": _refused(_get(target=b"/" + b"y" * 800), _TOO_MUCH_HEAD),
    "headers too long": _refused(_get(b"".join(b"X-%d: %b\r\n" % (n, b"y" * 700) for n in range(3))), _TOO_MUCH_HEAD),
    "headers without end": _refused(_get()[:-2] + b"X-A: " + b"y" * 3000, _TOO_MUCH_HEAD),
    "target without end": _refused(b"GET /" + b"y" * 3000, _TOO_MUCH_HEAD),
    # After a good one
    "second request refused": _refused(_get() + _get(host=b""), _INVALID, _GOT),
    "smuggled request in a body": _ok(_post(b"Content-Length: %d\r\n" % len(_get()), _get()), _posted(_get())),
    "garbage after a body": _refused(_post(b"Content-Length: 1\r\n", b"x\0\0\0"), _INVALID, _posted(b"x")),
}
