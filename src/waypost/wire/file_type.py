"""What a file is, by its first bytes alone: neither a name nor a declared type is believed.

Only what models read and write is known: pictures, moving pictures, sound, and PDF. Everything else, such as HTML, SVG,
scripts, programs and archives, has no type here, whatever it says of itself.
"""

from __future__ import annotations

import msgspec

HEAD_BYTES = 512 * 1024  # a JPEG may have this much of colour profile and preview before it tells its size
_SIDE_MAX = 1 << 24  # pixels; a header that says more is not one of a picture
# ISO 14496-12 §4.3: the major brand of an `ftyp` box. Any other is a film in MP4.
_BRANDS = {
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"3gp4": "video/3gpp",
    b"3gp5": "video/3gpp",
    b"3gp6": "video/3gpp",
}
_FILM_BRANDS = (
    b"isom",
    b"iso2",
    b"iso4",
    b"iso5",
    b"iso6",
    b"mp41",
    b"mp42",
    b"avc1",
    b"dash",
    b"M4V ",
    b"MSNV",
    b"f4v ",
)
EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/heic": "heic",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/3gpp": "3gp",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "application/pdf": "pdf",
}


class FileType(msgspec.Struct, frozen=True):
    """`width` and `height` in pixels, of a picture whose header tells them."""

    content_type: str
    width: int | None = None
    height: int | None = None


def file_type(head: bytes) -> FileType | None:
    """The type of a file that begins with these bytes: at least 64 of them, or all it has; better `HEAD_BYTES`.

    None when it is none of those known, or its header is not one that such a file can have."""
    for begins, read in (
        (b"\x89PNG\r\n\x1a\n", _png),
        (b"\xff\xd8\xff", _jpeg),
        (b"GIF8", _gif),
        (b"RIFF", _riff),
        (b"\x1a\x45\xdf\xa3", _matroska),
        (b"OggS\0", lambda _: FileType("audio/ogg")),
        (b"fLaC\0", lambda _: FileType("audio/flac")),
        (b"ID3", lambda given: FileType("audio/mpeg") if len(given) > 10 and given[3] in (2, 3, 4) else None),
        (b"%PDF-", lambda given: FileType("application/pdf") if given[5:6] in (b"1", b"2") else None),
    ):
        if head.startswith(begins):
            return read(head)
    if head[4:8] == b"ftyp" and int.from_bytes(head[:4], "big") >= 16:
        return _iso_media(head[8:12])
    return _sound_frame(head)


def _picture(content_type: str, width: int, height: int) -> FileType | None:
    if not (0 < width <= _SIDE_MAX and 0 < height <= _SIDE_MAX):
        return None
    return FileType(content_type, width, height)


def _png(head: bytes) -> FileType | None:
    """W3C PNG §11.2.1: IHDR, 13 bytes long, is the first chunk."""
    if head[8:16] != b"\0\0\0\x0dIHDR" or len(head) < 33:
        return None
    return _picture("image/png", int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"))


def _gif(head: bytes) -> FileType | None:
    if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 13:
        return None
    return _picture("image/gif", int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little"))


def _jpeg(head: bytes) -> FileType | None:
    """ITU-T T.81 §B.1: segments, each with its length, up to the frame header that tells the size."""
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        # SOF0 … SOF15 are frame headers, but for DHT, JPG and DAC among them.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(head[at + 5 : at + 7], "big"), int.from_bytes(head[at + 7 : at + 9], "big")
            return _picture("image/jpeg", width, height)
        length = int.from_bytes(head[at + 2 : at + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or length < 2:
            return None  # image data, or nothing at all, before any frame header
        at += 2 + length
    # A file that ends before its frame header is none; one whose header is beyond what was looked at may be.
    return FileType("image/jpeg") if len(head) >= HEAD_BYTES else None


def _riff(head: bytes) -> FileType | None:
    kind = head[8:12]
    if kind == b"WAVE":
        return FileType("audio/wav")
    return _webp(head) if kind == b"WEBP" and len(head) >= 30 else None


def _webp(head: bytes) -> FileType | None:
    """RFC 9649 §2: the size stands elsewhere in each of the three kinds."""
    chunk = head[12:16]
    if chunk == b"VP8X":
        width, height = int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    elif chunk == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width = int.from_bytes(head[26:28], "little") & 0x3FFF
        height = int.from_bytes(head[28:30], "little") & 0x3FFF
    else:
        return None
    return _picture("image/webp", width, height)


def _matroska(head: bytes) -> FileType | None:
    """RFC 8794 §11.2.6: the DocType element (0x4282) of the EBML header says which."""
    header = head[:64]
    for name, content_type in ((b"webm", "video/webm"), (b"matroska", "video/x-matroska")):
        if b"\x42\x82" + bytes((0x80 | len(name),)) + name in header:
            return FileType(content_type)
    return None


def _iso_media(brand: bytes) -> FileType | None:
    if brand in _FILM_BRANDS:
        return FileType("video/mp4")
    content_type = _BRANDS.get(brand)
    return None if content_type is None else FileType(content_type)


def _sound_frame(head: bytes) -> FileType | None:
    """A frame of MPEG sound (ISO 11172-3 §2.4.1.3) or AAC in ADTS (ISO 13818-7 §6.2) without anything before it: eleven
    bits set is little to tell them by, so every field that has a forbidden value must not have it."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:  # layer 0
        return FileType("audio/aac") if head[2] >> 2 & 0xF < 13 else None
    version, layer, bitrate, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    is_frame = version != 1 and layer == 1 and 0 < bitrate < 15 and rate != 3
    return FileType("audio/mpeg") if is_frame else None
