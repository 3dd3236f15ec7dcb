"""Pictures that a simulated model paints: small, of one colour, always the same for the same seed."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

_SIDE = 8  # pixels


def picture(seed: str, at: int) -> str:
    """A PNG in base64 (https://www.w3.org/TR/png-3/)."""
    colour = hashlib.sha256(f"{seed}|{at}".encode()).digest()[:3]
    lines = (b"\0" + colour * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return base64.b64encode(png).decode()
