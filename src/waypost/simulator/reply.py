"""An answer on its way to the wire: a head and pieces of a body, each knowing its place in the answer.

Faults change a reply before it is put into HTTP, or the writes that come out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, IntEnum, auto

import msgspec

_REASONS = {
    200: "OK", 301: "Moved Permanently", 302: "Found", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Payload Too Large",
    422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip

Headers = list[tuple[str, str]]


class Stage(IntEnum):
    """Places in an answer, in order. A fault's phase begins before the first write of its stage or a later one."""

    THINKING = 0  # output of an answer that is not streamed, before anything is sent
    HEAD = 1
    OPENING = 2  # comments, a chunk with nothing but the role
    FIRST = 3  # the first output
    CONTENT = 4
    SECOND_HALF = 5
    USAGE = 6  # what carries the usage
    DONE = 7  # [DONE], the last bytes, the last HTTP chunk


class Framing(Enum):
    LENGTH = auto()  # Content-Length
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


class Ending(Enum):
    """What becomes of the connection after the last write."""

    KEEP_ALIVE = auto()
    CLOSE = auto()
    HALF_CLOSE = auto()  # FIN, then wait for the caller to close
    RESET = auto()
    HANG = auto()  # silence until the caller closes


class Piece(msgspec.Struct):
    """One event of a stream or one stretch of a body, before HTTP framing."""

    data: bytes
    stage: Stage
    output_tokens: int = 0
    pause_s: float = 0.0  # waited before it is sent


class Write(msgspec.Struct):
    """Bytes for the socket. `output_tokens` become due to the bill when it is written."""

    data: bytes
    stage: Stage
    output_tokens: int = 0
    pause_s: float = 0.0
    is_apart: bool = False  # the next write goes out in a later turn of the loop, so as a TCP segment of its own


class Reply(msgspec.Struct):
    status: int
    headers: Headers  # without framing
    document: bytes | None = None  # a whole body; None when streamed
    events: Iterator[Piece] = iter(())  # a streamed body
    framing: Framing = Framing.CHUNKED
    thinking: Iterator[Piece] = iter(())
    declared_length: int | None = None  # a wrong Content-Length
    ending: Ending = Ending.KEEP_ALIVE
    is_billable: bool = False  # a completion, as opposed to a refusal or a page
    split: Callable[[bytes], list[bytes]] | None = None  # where framed bytes are torn into several TCP segments
    group: int = 1  # events without a pause that share one HTTP chunk
    is_hex_upper: bool = False

    @property
    def pieces(self) -> Iterator[Piece]:
        return self.events if self.document is None else stretches(self.document)


def writes(reply: Reply, is_kept_alive: bool) -> Iterator[Write]:
    """The reply as HTTP/1.1."""
    for thought in reply.thinking:
        yield Write(b"", Stage.THINKING, thought.output_tokens, thought.pause_s)
    yield Write(_head(reply, is_kept_alive), Stage.HEAD)
    for piece in reply.pieces if reply.group == 1 else _grouped(reply.pieces, reply.group):
        data = piece.data
        if reply.framing is Framing.CHUNKED and data:
            data = (b"%X\r\n%b\r\n" if reply.is_hex_upper else b"%x\r\n%b\r\n") % (len(data), data)
        parts = [data] if reply.split is None else reply.split(data)
        for part in parts[:-1]:
            yield Write(part, piece.stage, piece.output_tokens, piece.pause_s, is_apart=True)
            piece.output_tokens, piece.pause_s = 0, 0.0
        yield Write(parts[-1], piece.stage, piece.output_tokens, piece.pause_s)
    if reply.framing is Framing.CHUNKED:
        yield Write(b"0\r\n\r\n", Stage.DONE)


def stretches(document: bytes) -> Iterator[Piece]:
    """A whole body cut at the places that correspond to a stream's stages."""
    usage = document.find(b'"usage"')
    usage = usage if usage > 0 else len(document) * 3 // 4
    cuts = [0, usage // 4, usage // 2, usage, len(document) - 2]
    if sorted(set(cuts)) != cuts:
        yield Piece(document, Stage.FIRST)
        return
    first, half, usage, end = cuts[1:]
    yield Piece(document[:first], Stage.FIRST)
    yield Piece(document[first:half], Stage.CONTENT)
    yield Piece(document[half:usage], Stage.SECOND_HALF)
    yield Piece(document[usage:end], Stage.USAGE)
    yield Piece(document[end:], Stage.DONE)


def _head(reply: Reply, is_kept_alive: bool) -> bytes:
    lines = [f"{name}: {value}" for name, value in reply.headers if is_kept_alive or name != "Connection"]
    if reply.framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    elif reply.framing is Framing.LENGTH:
        length = len(reply.document or b"") if reply.declared_length is None else reply.declared_length
        lines.append(f"Content-Length: {length}")
    if not is_kept_alive:
        lines.append("Connection: close")
    if reply.headers[0][0].islower():  # the server writes all its headers in one manner
        lines = [name.lower() + colon + value for name, colon, value in (line.partition(":") for line in lines)]
    lines.insert(0, f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def _grouped(pieces: Iterator[Piece], size: int) -> Iterator[Piece]:
    """Neighbours of one stage that need no pause, joined up to `size` at a time."""
    held: Piece | None = None
    count = 0
    for piece in pieces:
        if held is not None and count < size and piece.stage is held.stage and not piece.pause_s:
            held = Piece(held.data + piece.data, held.stage, held.output_tokens + piece.output_tokens, held.pause_s)
            count += 1
            continue
        if held is not None:
            yield held
        held, count = piece, 1
    if held is not None:
        yield held
