"""What is fuzzed: for each parser a function that takes bytes and raises when a rule is broken, and samples.

Rules beyond "no exception": the cut of the bytes changes nothing, counts come back to zero, nothing grows beyond what
was read.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.ledger.journal_samples import journal_samples
from tests.transport.request_shapes import SHAPES as REQUESTS
from tests.transport.response_shapes import SHAPES as RESPONSES
from waypost.kit.errors import ErrorCode
from waypost.kit.values import as_dict
from waypost.ledger.journal_format import read_segment
from waypost.metering.usage import is_plausible
from waypost.providers import anthropic_fields, gemini_fields, openai_fields
from waypost.tenancy.api_key import assemble, is_well_formed
from waypost.transport.http1_request import RequestReader
from waypost.transport.http1_response import ResponseReader
from waypost.transport.limits import ServerLimits
from waypost.transport.proxy_header import SIGNATURE, ProxyHeaderInvalid, read_proxy_header
from waypost.transport.server_state import ServerState
from waypost.wire.sse import SseParser, SseTooLarge

_BYTES_ALONE = 12
LIMITS = ServerLimits(header_bytes=2000, line_bytes=800, body_bytes=1000)


class Target(msgspec.Struct, frozen=True):
    run: Callable[[bytes], None]
    samples: list[bytes]


def _cuts(data: bytes) -> list[bytes]:
    """Three parts, at places that the bytes themselves choose."""
    if len(data) < 2:
        return [data]
    first = data[0] % len(data)
    second = first + data[-1] % (len(data) - first)
    return [data[:first], data[first:second], data[second:]]


def _requests(parts: list[bytes]) -> tuple[list[tuple[str, bytes, bytes]], ErrorCode | None]:
    state = ServerState()
    seen: list[tuple[str, bytes, bytes]] = []
    reader = RequestReader(LIMITS, state, lambda each: seen.append((each.method, each.target, each.body)))
    code = next((code for part in parts if (code := reader.feed(part)) is not None), None)
    reader.close()
    assert state.buffered_bytes == sum(len(body) for _, _, body in seen)
    return seen, code


def read_requests(data: bytes) -> None:
    whole, in_parts = _requests([data]), _requests(_cuts(data))
    if b"lose" not in data and whole[1] is not ErrorCode.RATE_LIMITED:
        assert whole[0] == in_parts[0]


def _answer(parts: list[bytes]) -> tuple[bool, int, bytes]:
    reader = ResponseReader(4096)
    body = b""
    for part in parts:
        if reader.is_complete:
            break
        failure = reader.feed(part)
        body += reader.take_body()
        if failure is not None:
            return False, 0, b""
    return reader.has_head, reader.status, body


def read_answer(data: bytes) -> None:
    has_head, status, body = _answer([data])
    assert not has_head or 200 <= status <= 599
    assert len(body) <= len(data)
    _answer(_cuts(data))


def _events(parts: list[bytes]) -> list[object]:
    parser, events = SseParser(), list[object]()
    for part in parts:
        events += parser.feed(part)
    return events


def _byte_by_byte(data: bytes) -> list[bytes]:
    """Byte by byte for a while, from a place on that the bytes themselves choose."""
    begin = data[len(data) // 2] % len(data) if data else 0
    end = begin + _BYTES_ALONE
    return [data[:begin], *[data[at : at + 1] for at in range(begin, min(end, len(data)))], data[end:]]


def read_events(data: bytes) -> None:
    try:
        assert _events([data]) == _events(_cuts(data)) == _events(_byte_by_byte(data))
    except SseTooLarge:
        assert len(data) > 1 << 20


def read_journal(data: bytes) -> None:
    damaged: list[int] = []
    records = list(read_segment(data, damaged))
    assert len(records) * 16 <= len(data)
    assert all(0 <= at < max(1, len(data)) for at in damaged)


def read_key(data: bytes) -> None:
    if is_well_formed(data):
        assert assemble(bytes.fromhex(data[3:67].decode())).encode() == data


class _Sent(msgspec.Struct):
    usage: msgspec.Raw


_decode_sent = msgspec.json.Decoder(_Sent).decode
_WINDOW = 100_000


def read_usage(data: bytes) -> None:
    try:
        sent = _decode_sent(b'{"usage":%b}' % data).usage
    except (msgspec.DecodeError, RecursionError):
        return
    for fields in (openai_fields, anthropic_fields, gemini_fields):
        usage = fields.usage_of(sent)
        if usage is None or not is_plausible(usage, context_window=_WINDOW, max_output=_WINDOW, n=1):
            continue
        counts = [count for name, count in as_dict(usage).items() if name != "is_estimated"]
        assert all(isinstance(count, int) and 0 <= count <= 1 << 40 for count in counts)


def read_proxy(data: bytes) -> None:
    try:
        header = read_proxy_header(data)
    except ProxyHeaderInvalid:
        assert data.startswith(SIGNATURE)
        return
    if header is not None:
        assert header.length <= len(data)
        assert header.length == 0 or read_proxy_header(data[: header.length - 1]) is None


_USAGES = [
    b'{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4}}',
    b'{"input_tokens":12,"output_tokens":3,"cache_creation_input_tokens":5,"cache_read_input_tokens":2}',
    b'{"promptTokenCount":12,"candidatesTokenCount":3,"thoughtsTokenCount":2,"totalTokenCount":17}',
    b'{"prompt_tokens":-1,"completion_tokens":1e400,"total_tokens":null}',
    b"null",
]
TARGETS = {
    "requests": Target(read_requests, [shape.data for shape in REQUESTS.values()]),
    "answers": Target(read_answer, [shape.data for shape in RESPONSES.values()]),
    "events": Target(
        read_events,
        [
            b'data: {"a":1}\n\n',
            b"\xef\xbb\xbf: c\r\ndata: a\rdata:b\r\n\r\nevent: error\ndata: x\n\n",
            b"data\n\ndata:\n",
        ],
    ),
    "journal": Target(read_journal, journal_samples()),
    "keys": Target(read_key, [assemble(bytes(range(32))).encode(), b"sk_"]),
    "usage": Target(read_usage, _USAGES),
    "proxy": Target(
        read_proxy, [SIGNATURE + b"\x21\x11\0\x0c" + bytes(12) + b"GET / HTTP/1.1\r\n", SIGNATURE, b"GET "]
    ),
}
