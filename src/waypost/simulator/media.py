"""Small files that a simulated model makes: valid, and always the same for the same seed."""

from __future__ import annotations

import base64
import struct

from waypost.simulator.picture import picture

CONTENT_TYPES = {"png": "image/png", "mp4": "video/mp4", "wav": "audio/wav"}
PADDING_BYTES_MAX = 256 << 20
_SAMPLES_PER_S = 8_000
_TIMESCALE = 1_000  # of the movie's clock: milliseconds


def media(kind: str, seed: str, at: int, *, duration_ms: int, padding_bytes: int = 0) -> bytes:
    """A file of one of CONTENT_TYPES; a film is padded with a free box, the others are as long as they are."""
    if kind == "mp4":
        return _film(duration_ms, padding_bytes)
    if kind == "wav":
        return _silence(duration_ms)
    return base64.b64decode(picture(seed, at))


def _film(duration_ms: int, padding_bytes: int) -> bytes:
    """An MP4 without a track (ISO/IEC 14496-12): its brand, and how long it claims to be."""
    brand = _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41")
    header = struct.pack(">IIIII", 0, 0, 0, _TIMESCALE, duration_ms) + struct.pack(">IH", 0x10000, 0x100) + bytes(10)
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    movie = _box(b"moov", _box(b"mvhd", header + matrix + bytes(24) + struct.pack(">I", 1)))
    return brand + movie + (_box(b"free", bytes(min(padding_bytes, PADDING_BYTES_MAX))) if padding_bytes else b"")


def _silence(duration_ms: int) -> bytes:
    """A WAV of 8-bit silence."""
    count = _SAMPLES_PER_S * duration_ms // 1000
    form = struct.pack("<HHIIHH", 1, 1, _SAMPLES_PER_S, _SAMPLES_PER_S, 1, 8)
    body = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", count) + b"\x80" * count
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content
