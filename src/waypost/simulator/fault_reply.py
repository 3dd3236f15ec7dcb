"""Faults in the content of a reply: other answers instead of it, and damage to its headers, JSON and events."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain, cycle, pairwise, takewhile

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Answer
from waypost.simulator.fault import Fault
from waypost.simulator.reply import Ending, Framing, Piece, Reply, Stage
from waypost.simulator.request import ChatRequest
from waypost.simulator.style import Complaint, Identity, Style

_BOMB_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 16
_ENDLESS_BYTES = 4 << 20
_HEADER_BYTES = 100_000
_DEPTH = 100_000
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LINE_ENDS = {
    "crlf": (b"\r\n",),
    "cr": (b"\r",),
    "lf": (b"\n",),
    "mix": (b"\n", b"\r", b"\r\n"),  # in this order no CR meets an LF that is not its own
}


class Turn(msgspec.Struct, frozen=True):
    """One request that is being answered."""

    style: Style
    identity: Identity
    request: ChatRequest
    answer: Answer
    headers: dict[str, str]


def error_reply(style: Style, identity: Identity, complaint: Complaint) -> Reply:
    """An error as this provider puts it."""
    if not complaint.type:
        error_type, code = style.error_type(complaint.status)
        complaint = replace(complaint, type=error_type, code=complaint.code or code)
    content_type, body = style.error(identity, complaint)
    return page(style, identity, complaint.status, content_type, body)


def page(style: Style, identity: Identity, status: int, content_type: str, body: bytes) -> Reply:
    """Any body that is not a completion."""
    return Reply(status, style.headers(identity, content_type), document=body, framing=Framing.LENGTH)


def spoil_reply(fault: Fault, turn: Turn, reply: Reply) -> Reply:
    """The reply after the fault; the same one when the fault lies elsewhere."""
    is_stream = turn.request.is_stream
    if (replace := _INSTEAD.get(fault.kind)) is not None and (fault.stage is Stage.THINKING or not is_stream):
        return replace(fault, turn)
    if (alter := _JSON.get(fault.kind)) is not None:
        return _with_json_altered(reply, fault, turn.style, alter)
    if (spoil := _EVENTS.get(fault.kind)) is not None and is_stream:
        reply.events = spoil(fault, turn, reply.events)
        return reply
    match fault.kind:
        case "gigantic_header":
            reply.headers.append(("X-Padding", "a" * (fault.bytes or _HEADER_BYTES)))
        case "many_headers":
            reply.headers += ((f"X-Padding-{at}", "a") for at in range(fault.count_of or 1000))
        case "wrong_content_length":
            reply = _whole(reply)
            length = len(reply.document or b"")
            reply.declared_length = length // 2 if fault.value == "short" else length + 100
            reply.ending = Ending.CLOSE
        case "encoding":
            reply = _encoded(_whole(reply), fault.encoding or "br")
        case "split_utf8" | "byte_by_byte":
            reply.group, reply.split = 1, None
            reply.events = _cut_up(reply.events, fault.kind == "byte_by_byte")
        case "endless_line":
            reply.ending = Ending.CLOSE
    return reply


# Other answers


def _status(fault: Fault, turn: Turn) -> Reply:
    reply = error_reply(turn.style, turn.identity, _complaint(fault, turn.style, fault.status or 500))
    if fault.retry_after:
        reply.headers.append(("Retry-After", fault.retry_after))
    if fault.retry_after_ms:
        reply.headers.append(("retry-after-ms", fault.retry_after_ms))
    return reply


def _echo(fault: Fault, turn: Turn) -> Reply:
    reply = error_reply(turn.style, turn.identity, _echoing(fault, turn))
    reply.headers.append(
        ("X-Debug", f"{turn.style.credential(turn.headers)} {turn.headers.get('host')} {turn.request.model}")
    )
    return reply


def _json_error(fault: Fault, turn: Turn) -> Reply:
    # Plain text is no JSON error, so a style's 5xx shape will not do.
    content_type, body = turn.style.error(turn.identity, _complaint(fault, turn.style, 400))
    return page(turn.style, turn.identity, 200, content_type, body)


def _html(_fault: Fault, turn: Turn) -> Reply:
    body = b"<!doctype html><html><head><title>Maintenance</title></head><body><h1>We'll be back</h1></body></html>"
    return page(turn.style, turn.identity, 200, "text/html", body)


def _empty(_fault: Fault, turn: Turn) -> Reply:
    content_type = "text/event-stream" if turn.request.is_stream else "application/json"
    return page(turn.style, turn.identity, 200, content_type, b"")


def _redirect(fault: Fault, turn: Turn) -> Reply:
    reply = page(turn.style, turn.identity, fault.status or 307, "text/plain", b"moved\n")
    reply.headers.append(("Location", fault.location or "http://127.0.0.1:1/v1/chat/completions"))
    return reply


def _bomb(fault: Fault, turn: Turn) -> Reply:
    encoding = fault.encoding or "gzip"
    content_type = "text/event-stream" if turn.request.is_stream else "application/json"
    reply = page(turn.style, turn.identity, 200, content_type, _bomb_body(encoding, fault.bytes or _BOMB_BYTES))
    reply.headers.append(("Content-Encoding", encoding))
    return reply


@lru_cache(maxsize=4)
def _bomb_body(encoding: str, size: int) -> bytes:
    packer = _compressor(encoding)
    blank = b" " * (1 << 20)
    packed = [packer.compress(blank) for _ in range(size >> 20)]
    return b"".join((*packed, packer.compress(b" " * (size & 0xFFFFF)), packer.flush()))


_INSTEAD: dict[str, Callable[[Fault, Turn], Reply]] = {
    "status": _status,
    "echo_secret": _echo,
    "json_error_200": _json_error,
    "html_200": _html,
    "empty_200": _empty,
    "redirect": _redirect,
    "bomb": _bomb,
}


def _complaint(fault: Fault, style: Style, status: int) -> Complaint:
    error_type, code = style.error_type(status)
    return Complaint(
        status=status,
        message=fault.message or "The simulated provider could not process your request.",
        type=fault.type or error_type,
        code=fault.code or code,
        param=fault.param or None,
    )


def _echoing(fault: Fault, turn: Turn) -> Complaint:
    # A line end in a header or in plain text would be another fault than this one.
    prompt = " ".join(turn.request.last_user_text.split())
    credential = turn.style.credential(turn.headers)
    message = (
        f"Could not process {prompt!r} for key {credential} at http://{turn.headers.get('host')}"
        f"{turn.style.prefix} with model {turn.request.model} (provider {turn.style.name})"
    )
    status = fault.status or 400
    error_type, code = turn.style.error_type(status)
    return Complaint(status, message, error_type, code)


# Bodies


def _whole(reply: Reply) -> Reply:
    """A streamed reply as one document, generated before it is sent."""
    if reply.document is None:
        pieces = list(reply.events)
        reply.document = b"".join(piece.data for piece in pieces)
        reply.thinking = iter([Piece(b"", Stage.THINKING, sum(piece.output_tokens for piece in pieces))])
    reply.framing = Framing.LENGTH
    return reply


def _encoded(reply: Reply, encoding: str) -> Reply:
    reply.headers.append(("Content-Encoding", encoding))
    if encoding in ("gzip", "deflate"):
        packer = _compressor(encoding)
        reply.document = packer.compress(reply.document or b"") + packer.flush()
    return reply


def _compressor(encoding: str) -> zlib._Compress:
    return zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)


def _with_json_altered(reply: Reply, fault: Fault, style: Style, alter: Alter) -> Reply:
    def altered(data: bytes) -> bytes:
        start, end = data.find(b"{"), data.rfind(b"}") + 1
        return data[:start] + alter(fault, style, data[start:end]) + data[end:]

    def one_altered(events: Iterator[Piece]) -> Iterator[Piece]:
        is_due = True
        for piece in events:
            if is_due and piece.stage >= fault.stage and b"{" in piece.data:
                piece.data, is_due = altered(piece.data), False
            yield piece

    if reply.document is None:
        reply.events = one_altered(reply.events)
    else:
        reply.document = altered(reply.document)
    return reply


def _with_wrong_types(style: Style, document: bytes) -> bytes:
    return json.dumps({**json.loads(document), style.answers_field: "none"}).encode()


def _with_number(style: Style, document: bytes, value: bytes) -> bytes:
    """The first number of its field replaced; where an event has none, one is added."""
    found = style.number_field.search(document)
    if found is None:
        return document[:-1] + b',"index":' + value + b"}"
    name = found[0].partition(b":")[0]
    return document[: found.start()] + name + b":" + value + document[found.end() :]


def _deepened(fault: Fault, document: bytes) -> bytes:
    depth = fault.depth or _DEPTH
    return document[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"


Alter = Callable[[Fault, Style, bytes], bytes]

_JSON: dict[str, Alter] = {
    "truncated_json": lambda _, __, document: document[: len(document) // 2],
    "nan": lambda fault, style, document: _with_number(style, document, fault.value.encode()),
    "overflow": lambda _, style, document: _with_number(style, document, b"18446744073709551616"),
    "duplicate_keys": lambda _, style, document: document[:-1] + b',"%b":[]}' % style.answers_field.encode(),
    "deep_json": lambda fault, _, document: _deepened(fault, document),
    "wrong_types": lambda _, style, document: _with_wrong_types(style, document),
}


# Streams


def _inserted(fault: Fault, events: Iterator[Piece], extra: Iterable[bytes]) -> Iterator[Piece]:
    """`extra` where the fault's phase begins."""
    is_due = True
    for piece in events:
        if is_due and piece.stage >= fault.stage:
            is_due = False
            yield from (Piece(data, piece.stage) for data in extra)
        yield piece
    if is_due:
        yield from (Piece(data, Stage.DONE) for data in extra)


def _ended_by(fault: Fault, events: Iterator[Piece], last: Iterable[bytes]) -> Iterator[Piece]:
    """The stream up to the fault's phase, and then only `last`."""
    yield from takewhile(lambda piece: piece.stage < fault.stage, events)
    yield from (Piece(data, fault.stage) for data in last)


def _error_event(fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    complaint = _complaint(fault, turn.style, fault.status or 500)
    return _ended_by(fault, events, [turn.style.error_event(turn.identity, complaint)])


def _echo_event(fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    return _ended_by(fault, events, [turn.style.error_event(turn.identity, _echoing(fault, turn))])


def _endless_line(fault: Fault, _turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    blocks = -(-(fault.bytes or _ENDLESS_BYTES) // _BLOCK_BYTES)
    return _ended_by(fault, events, chain([b'data: {"'], (b"a" * _BLOCK_BYTES for _ in range(blocks))))


def _comment_flood(fault: Fault, _turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    thousands, rest = divmod(fault.count_of or 10_000, 1000)
    return _inserted(
        fault, events, chain((b": flood\n" * 1000 for _ in range(thousands)), [b": flood\n" * rest + b"\n"])
    )


def _garbage(fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    return _inserted(fault, events, [turn.style.frame(b'{"%b": oops' % turn.style.answers_field.encode())])


def _early_usage(fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    usage = turn.style.usage(turn.answer.tokens)
    return _inserted(fault, events, [turn.style.usage_event(turn.identity, usage)])


def _duplicate_usage(_fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    for piece in events:
        yield piece
        if piece.stage is Stage.USAGE:
            yield Piece(turn.style.usage_event(turn.identity, turn.style.usage(turn.answer.tokens)), Stage.USAGE)


def _line_ends(fault: Fault, _turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    ends = cycle(_LINE_ENDS[fault.value])
    for piece in events:
        piece.data = _LINE_END.sub(lambda _: next(ends), piece.data)
        yield piece


def _no_blank_lines(_fault: Fault, _turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    for piece in events:
        piece.data = piece.data.rstrip(b"\r\n") + b"\n"
        yield piece


def _bom(_fault: Fault, _turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    return chain([Piece(b"\xef\xbb\xbf", Stage.OPENING)], events)


def _two_done(_fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    end = turn.style.end_events()
    return chain(events, (Piece(end, Stage.DONE) for _ in range(1 if turn.style.done else 2)))


def _event_after_done(_fault: Fault, turn: Turn, events: Iterator[Piece]) -> Iterator[Piece]:
    style = turn.style
    late = style.late_event(turn.identity)
    extra = [late] if style.done else [style.end_events(), late]
    return chain(events, (Piece(data, Stage.DONE) for data in extra))


def _cut_up(events: Iterator[Piece], is_every_byte: bool) -> Iterator[Piece]:
    """Each event in pieces: single bytes, or cut inside every character that has several bytes."""
    for piece in events:
        data = piece.data
        cuts = range(1, len(data)) if is_every_byte else [at for at in range(1, len(data)) if data[at] & 0xC0 == 0x80]
        bounds = [0, *cuts, len(data)]
        for start, end in pairwise(bounds):
            # A pause, however short, makes the next part a segment of its own.
            pause_s = piece.pause_s if start == 0 else 0.0 if is_every_byte else 0.001
            yield Piece(data[start:end], piece.stage, piece.output_tokens if start == 0 else 0, pause_s)


_EVENTS: dict[str, Callable[[Fault, Turn, Iterator[Piece]], Iterator[Piece]]] = {
    "error_event": _error_event,
    "echo_secret": _echo_event,
    "garbage_event": _garbage,
    "early_usage": _early_usage,
    "duplicate_usage": _duplicate_usage,
    "line_ends": _line_ends,
    "no_blank_lines": _no_blank_lines,
    "bom": _bom,
    "comment_flood": _comment_flood,
    "endless_line": _endless_line,
    "two_done": _two_done,
    "event_after_done": _event_after_done,
}
