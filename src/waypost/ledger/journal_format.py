"""The bytes of the money journal: a segment is a magic number and records, each

    [length u32][CRC-32 u32][LSN u64][type u8][payload]        little-endian; length and CRC cover LSN, type, payload

in a file preallocated with zeros, so that a length of zero is the end of what was written. LSNs of one run of a process
count up by one through all its segments: a gap is a loss that no checksum could show.

The checksum is CRC-32 (ISO-HDLC) of zlib, not CRC-32C: it finds every burst of up to 32 bits and misses other damage
once in 4e9, exactly as CRC-32C does, and it is in the standard library. CRC-32C would only buy better odds against
a few scattered bit errors in one record, and cost a dependency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is an exception
from zlib import crc32

from waypost.ledger.record import Ack, Close, Extend, Grant, Open, Outcome, Progress
from waypost.wire.canonical import Usage

MAGIC = b"waypost\x01"  # the last byte is the version of the layout
RECORD_BYTES_MAX = 16_384  # an acknowledgement of 500 attempts is 8 KiB; OPEN and CLOSE are some 200 bytes
ACKNOWLEDGED_MAX = 500  # ids in one acknowledgement


Record = Grant | Open | Close | Ack | Progress | Extend

_FRAME = Struct("<II")
_BODY = Struct("<QB")
_GRANT = Struct("<16s16sq")
_OPEN = Struct("<QB16s16s16s16s16sqqqBqqB")  # then names; this and CLOSE with LSN and type before the payload
_CLOSE = Struct("<QB16sB??qqqqiqqqqqqH")
_OTHER_UNITS = Struct("<6q")  # behind a CLOSE's text, when any of them is not zero; then the answer's digest, if any
_NO_OTHERS = (0,) * 6
_NAMES = Struct("<HHH")
_PROGRESS = Struct("<16sqqq")
_EXTEND = Struct("<16sq")
_FRAME_BYTES = _FRAME.size
_PREFIX_BYTES = _FRAME.size + _BODY.size
_STREAM, _LONG_HOLD = 1, 2  # bits of the byte before OPEN's names, which once was 1 for a stream and else 0
_TYPE_GRANT, _TYPE_OPEN, _TYPE_CLOSE, _TYPE_ACK, _TYPE_PROGRESS, _TYPE_EXTEND = 1, 2, 3, 4, 5, 6


def encode_grant(lsn: int, record: Grant) -> bytes:
    return _framed(_BODY.pack(lsn, _TYPE_GRANT) + _GRANT.pack(record.lease_id, record.org_id, record.granted_nanos))


def encode_open(lsn: int, record: Open) -> bytes:
    fixed = _OPEN.pack(
        lsn,
        _TYPE_OPEN,
        record.attempt_id,
        record.execution_id,
        record.lease_id,
        record.org_id,
        record.api_key_id,
        record.hold_nanos,
        record.cost_bound_nanos,
        record.price_version,
        record.attempt_number,
        record.opened_at_ms,
        record.accepted_at_ms,
        _STREAM * record.is_stream + _LONG_HOLD * record.has_long_hold,
    )
    body = fixed + _names(record.model, record.provider, record.deployment)
    return _FRAME.pack(len(body), crc32(body)) + body


@lru_cache(4_096)
def _names(*names: str) -> bytes:
    """Their lengths, and they: of a route, so there are few of them, and making them took a third of an OPEN."""
    encoded = [name.encode() for name in names]
    assert sum(map(len, encoded)) < RECORD_BYTES_MAX // 2
    return _NAMES.pack(*map(len, encoded)) + b"".join(encoded)


def encode_close(lsn: int, record: Close) -> bytes:
    error_code = record.error_code.encode()
    usage = record.usage
    fixed = _CLOSE.pack(
        lsn,
        _TYPE_CLOSE,
        record.attempt_id,
        record.outcome,
        record.is_final,
        usage.is_estimated,
        record.charge_nanos,
        record.cogs_nanos,
        record.closed_at_ms,
        record.first_content_ms,
        record.status,
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        len(error_code),
    )
    if not usage.has_rare_units:
        body = b"%b%b%b" % (fixed, error_code, record.answer)
        return _FRAME.pack(len(body), crc32(body)) + body
    others = _OTHER_UNITS.pack(
        usage.audio_input_tokens,
        usage.image_input_tokens,
        usage.audio_output_tokens,
        usage.images,
        usage.duration_ms,
        usage.characters,
    )
    return _framed(fixed + error_code + others + record.answer)


def encode_progress(lsn: int, record: Progress) -> bytes:
    counts = _PROGRESS.pack(record.attempt_id, record.input_tokens, record.output_tokens, record.charge_nanos)
    return _framed(_BODY.pack(lsn, _TYPE_PROGRESS) + counts)


def encode_extend(lsn: int, record: Extend) -> bytes:
    return _framed(_BODY.pack(lsn, _TYPE_EXTEND) + _EXTEND.pack(record.attempt_id, record.hold_nanos))


def encode(lsn: int, record: Open | Close | Progress | Extend) -> bytes:
    """Whichever it is."""
    match record:
        case Open():
            return encode_open(lsn, record)
        case Close():
            return encode_close(lsn, record)
        case Progress():
            return encode_progress(lsn, record)
        case Extend():
            return encode_extend(lsn, record)


def encode_ack(lsn: int, attempt_ids: Sequence[bytes]) -> bytes:
    assert len(attempt_ids) <= ACKNOWLEDGED_MAX
    return _framed(_BODY.pack(lsn, _TYPE_ACK) + b"".join(attempt_ids))


def read_segment(data: bytes, damaged_at: list[int]) -> Iterator[tuple[int, Record]]:
    """(LSN, record) of everything readable in a segment.

    A torn tail, which is what a dying process leaves, ends the reading and is no damage. Anything unreadable before a
    readable record is: its offset goes to `damaged_at`, and reading goes on behind it, because a CLOSE that can still
    be read is worth more than the guess that would stand in for it.
    """
    at = len(MAGIC)
    if data[:at] != MAGIC:
        if not MAGIC.startswith(data.rstrip(b"\0")):  # else its maker died before it was used
            damaged_at.append(0)
        return
    while at < len(data):
        body_end = _valid_end(data, at)
        if body_end is not None:
            record = _decode(data, at, body_end)
            if record is not None:
                yield _BODY.unpack_from(data, at + _FRAME_BYTES)[0], record
                at = body_end
                continue
        bad, at = at, _next_readable(data, at)
        if at < len(data) or _is_more_than_torn(data, bad):
            damaged_at.append(bad)


def _framed(body: bytes) -> bytes:
    assert len(body) <= RECORD_BYTES_MAX
    return _FRAME.pack(len(body), crc32(body)) + body


def _valid_end(data: bytes, at: int) -> int | None:
    """Where the record at this offset ends, or None when there is none with a right checksum."""
    if at + _PREFIX_BYTES > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME_BYTES + length
    if not _BODY.size <= length <= RECORD_BYTES_MAX or end > len(data):
        return None
    return end if crc32(data[at + _FRAME_BYTES : end]) == checksum else None


def _next_readable(data: bytes, bad: int) -> int:
    """The offset of the next readable record behind an unreadable place, or the end of the data."""
    written = data[bad:].rstrip(b"\0")
    zeros = len(written) - len(written.lstrip(b"\0"))
    # A length that is a multiple of 256 begins with zeros of its own.
    start = bad + max(1, zeros - 3)
    for at in range(start, min(bad + len(written), start + 2 * RECORD_BYTES_MAX)):
        end = _valid_end(data, at)
        if end is not None and _decode(data, at, end) is not None:
            return at
    return len(data)


def _is_more_than_torn(data: bytes, bad: int) -> bool:
    """Whether more is unreadable than one record that was being written could account for."""
    return bool(data[bad + RECORD_BYTES_MAX :].strip(b"\0"))


def _decode(data: bytes, at: int, end: int) -> Record | None:
    """The record of a frame whose checksum is right; None for a type or length that this layout does not know."""
    kind = data[at + _PREFIX_BYTES - 1]
    payload = data[at + _PREFIX_BYTES : end]
    try:
        if kind == _TYPE_OPEN:
            return _decode_open(data[at + _FRAME_BYTES : end])
        if kind == _TYPE_CLOSE:
            return _decode_close(data[at + _FRAME_BYTES : end])
        if kind == _TYPE_GRANT:
            return Grant(*_GRANT.unpack(payload))
        if kind == _TYPE_PROGRESS:
            return Progress(*_PROGRESS.unpack(payload))
        if kind == _TYPE_EXTEND:
            return Extend(*_EXTEND.unpack(payload))
        if kind == _TYPE_ACK:
            return Ack(tuple(payload[i : i + 16] for i in range(0, len(payload), 16)))
    except (ValueError, StructError):  # an outcome of a later version, text that is not UTF-8, another length
        return None
    return None


def _decode_open(body: bytes) -> Open:
    *fixed, flags = _OPEN.unpack_from(body)[2:]
    model_bytes, provider_bytes, deployment_bytes = _NAMES.unpack_from(body, _OPEN.size)
    model_at = _OPEN.size + _NAMES.size
    provider_at = model_at + model_bytes
    deployment_at = provider_at + provider_bytes
    model, provider = body[model_at:provider_at], body[provider_at:deployment_at]
    deployment = body[deployment_at : deployment_at + deployment_bytes]
    fixed += (bool(flags & _STREAM), model.decode(), provider.decode(), deployment.decode())
    return Open(*fixed, bool(flags & _LONG_HOLD))  # type: ignore[call-arg]  # it counts `fixed` as any number of them


def _decode_close(body: bytes) -> Close:
    (attempt_id, outcome, is_final, is_estimated, charge, cogs, closed_at, first_content, status, *tokens, length) = (
        _CLOSE.unpack_from(body)[2:]
    )
    end = _CLOSE.size + length
    has_others = len(body) - end >= _OTHER_UNITS.size
    others = _OTHER_UNITS.unpack_from(body, end) if has_others else _NO_OTHERS
    end_of_units = end + _OTHER_UNITS.size if has_others else end
    return Close(
        attempt_id,
        Outcome(outcome),
        is_final,
        charge,
        cogs,
        closed_at,
        first_content,
        status,
        body[_CLOSE.size : end].decode(),
        Usage(*(*tokens, *others), is_estimated),  # type: ignore[call-arg]  # as above
        body[end_of_units:],
    )
