"""What may be answered without being read as a request."""

from __future__ import annotations

import pytest

from tests.transport.request_shapes import SHAPES
from waypost.transport.whole_request import WholeRequest

BODY = b'{"model":"swift-1"}'
HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(BODY)
WHOLE = HEAD + b"\r\n" + BODY


# Where each of them ends nobody doubts: it is what they say that is refused.
SAYING_TOO_MUCH = {
    *("unknown expectation", "65 more headers", "64 more headers", "65 of one header", "header line too long"),
    *("target too long", "headers too long", "two hosts", "two equal hosts", "two authorizations"),
    *("two content types", "two x-api-keys", "two x-goog-api-keys", "length of many zeros", "no host"),
    *("host with a path", "host with user", "two names as host", "host with a space", "absolute form", "fragment"),
    *("asterisk form", "trace"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_one_request_is_read_as_one_or_refused_for_what_it_says(name: str) -> None:
    shape = SHAPES[name]
    whole = WholeRequest()
    start = whole.start(shape.data)
    if start and shape.refused is None:
        assert [f"{method} {target.decode()}".encode() for method, target, _ in shape.accepted] == [start.strip()]
        assert not shape.is_closed
    elif start:
        assert name in SAYING_TOO_MUCH
    assert whole.start(WHOLE) == b"POST /v1/messages", "the one before leaves nothing behind"


def test_a_request_with_its_whole_body_is_known_by_how_it_starts() -> None:
    whole = WholeRequest()
    for _ in range(3):
        assert whole.start(WHOLE) == b"POST /v1/messages"


@pytest.mark.parametrize("cut", range(len(WHOLE)))
def test_a_part_of_a_request_is_not_one_and_neither_is_more(cut: int) -> None:
    whole = WholeRequest()
    assert whole.start(WHOLE[:cut]) == b""
    assert not cut or whole.start(WHOLE[cut:]) == b""
    assert whole.start(WHOLE + WHOLE[: cut + 1]) == b""
    assert whole.start(WHOLE) == b"POST /v1/messages"


@pytest.mark.parametrize(
    "data",
    [
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD + b"Connection: close\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"X: a\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        HEAD + b"X: a\r\n continued\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 1\r\n\r\n" + BODY,
        HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + BODY,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 HTTP/1.1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + b" " * 70000,
        b"",
    ],
)
def test_whatever_is_not_plainly_one_request_is_to_be_read(data: bytes) -> None:
    assert WholeRequest().start(data) == b""
