"""The length of films and sounds, from their containers, however their bytes are cut."""

from __future__ import annotations

import io
import itertools
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.wire.media_duration import DurationReader


def box(kind: bytes, *parts: bytes, wide: bool = False) -> bytes:
    body = b"".join(parts)
    if wide:
        return (1).to_bytes(4, "big") + kind + (16 + len(body)).to_bytes(8, "big") + body
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def mvhd(ticks_per_s: int, duration: int, version: int = 0) -> bytes:
    size = 8 if version else 4
    times = bytes(2 * size) + ticks_per_s.to_bytes(4, "big") + duration.to_bytes(size, "big")
    return box(b"mvhd", bytes([version, 0, 0, 0]), times, bytes(80))


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")
FILM = FTYP + box(b"free", bytes(30)) + box(b"moov", mvhd(600, 2_424), box(b"trak", bytes(400)))
LATE = FTYP + box(b"mdat", bytes(5_000), wide=True) + box(b"moov", mvhd(90_000, 90_000 * 60, version=1))
FRAGMENTS = FTYP + box(
    b"moov", mvhd(1_000, 0), box(b"trak", bytes(9)), box(b"mvex", box(b"mehd", b"\0\0\0\0\0\0\x0f\xa0"))
)


def sound(seconds: float, *, rate: int = 8_000) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * 4))
    return written.getvalue()


def duration_ms(content_type: str, data: bytes, cuts: list[int] | None = None) -> int | None:
    reader = DurationReader(content_type)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])
    return reader.finish()


KNOWN = [
    ("video/mp4", FILM, 4_040),
    ("video/quicktime", LATE, 60_000),
    ("audio/mp4", FRAGMENTS, 4_000),
    ("audio/wav", sound(2.5), 2_500),
    ("audio/wav", sound(1) + b"LIST" + bytes(20), 1_000),
    # A writer that did not know yet: as much as there is.
    ("audio/wav", sound(1)[:40] + b"\xff\xff\xff\xff" + sound(1)[44:], 1_000),
]


@pytest.mark.parametrize(("content_type", "data", "expected"), KNOWN)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_a_length_is_the_same_however_the_bytes_are_cut(
    content_type: str, data: bytes, expected: int, cuts: list[int]
) -> None:
    assert duration_ms(content_type, data, cuts) == expected


def test_byte_by_byte() -> None:
    for content_type, data, expected in KNOWN:
        assert duration_ms(content_type, data[:6_000], list(range(6_000))) == duration_ms(content_type, data[:6_000])
        assert duration_ms(content_type, data) == expected


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("video/mp4", b""),
        ("video/mp4", FTYP),
        ("video/mp4", FTYP + box(b"moov", mvhd(0, 500))),
        ("video/mp4", FTYP + box(b"moov", mvhd(600, 0xFFFFFFFF)) + box(b"moof", bytes(40))),
        ("video/mp4", FTYP + box(b"moov", mvhd(1, 0xFFFFFFFE))),  # a century
        ("video/mp4", FTYP + b"\0\0\0\x04moov"),
        ("video/mp4", FTYP + b"\0\0\0\0mdat" + bytes(99)),
        ("audio/wav", sound(1)[:20]),
        ("audio/wav", sound(1)[:28] + bytes(4) + sound(1)[32:]),  # of no bytes a second
        ("audio/wav", sound(0)),
        ("audio/mpeg", FILM),
        ("image/png", FILM),
    ],
)
def test_what_does_not_make_sense_has_no_length(content_type: str, data: bytes) -> None:
    assert duration_ms(content_type, data) is None


@given(
    st.sampled_from(["video/mp4", "audio/wav"]),
    st.binary(max_size=600),
    st.integers(0, 5_500),
    st.lists(st.integers(0, 6_000), max_size=5),
)
def test_no_bytes_break_it(content_type: str, noise: bytes, at: int, cuts: list[int]) -> None:
    begun = (FILM if content_type == "video/mp4" else sound(1))[:at]
    for data in (noise, begun + noise, begun[: at // 2] + noise + begun[at // 2 :]):
        found = duration_ms(content_type, data, cuts)
        assert found == duration_ms(content_type, data)
        assert found is None or 0 < found < 2**31
