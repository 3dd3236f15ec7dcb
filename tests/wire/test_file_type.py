"""A file is what its first bytes are, and what is not known by them is nothing."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost.wire.file_type import EXTENSIONS, HEAD_BYTES, FileType, file_type

_AFTER = b"\0" * 64


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", width, height, 8, 6, 0, 0, 0, 0)


def jpeg(width: int, height: int, *, before: bytes = b"", marker: int = 0xC0) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + bytes(9) + before + frame


def segment(marker: int, size: int) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, size + 2) + bytes(size)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)


def webp(chunk: bytes, body: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + chunk + struct.pack("<I", len(body)) + body + bytes(30)


def ftyp(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0isommp42"


def ebml(doctype: bytes) -> bytes:
    return b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82" + bytes((0x80 | len(doctype),)) + doctype


KNOWN = {
    "png": (png(640, 480), FileType("image/png", 640, 480)),
    "jpeg": (jpeg(640, 480), FileType("image/jpeg", 640, 480)),
    "progressive jpeg": (jpeg(1, 2, marker=0xC2), FileType("image/jpeg", 1, 2)),
    "jpeg with a profile": (jpeg(7, 9, before=segment(0xE2, 60_000) * 5), FileType("image/jpeg", 7, 9)),
    "jpeg with tables first": (jpeg(7, 9, before=segment(0xC4, 40) + b"\xff"), FileType("image/jpeg", 7, 9)),
    "gif": (gif(3, 700), FileType("image/gif", 3, 700)),
    "extended webp": (webp(b"VP8X", b"\0\0\0\0" + b"\x7f\x02\0" + b"\xdf\x01\0"), FileType("image/webp", 640, 480)),
    "lossless webp": (
        webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)),
        FileType("image/webp", 640, 480),
    ),
    "webp": (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480)), FileType("image/webp", 640, 480)),
    "mp4": (ftyp(b"isom"), FileType("video/mp4")),
    "mp4 of another brand": (ftyp(b"mp42"), FileType("video/mp4")),
    "quicktime": (ftyp(b"qt  "), FileType("video/quicktime")),
    "m4a": (ftyp(b"M4A "), FileType("audio/mp4")),
    "avif": (ftyp(b"avif"), FileType("image/avif")),
    "heic": (ftyp(b"heic"), FileType("image/heic")),
    "3gp": (ftyp(b"3gp4"), FileType("video/3gpp")),
    "webm": (ebml(b"webm"), FileType("video/webm")),
    "matroska": (ebml(b"matroska"), FileType("video/x-matroska")),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", FileType("audio/wav")),
    "ogg": (b"OggS\0\x02", FileType("audio/ogg")),
    "flac": (b"fLaC\0\0\0\x22", FileType("audio/flac")),
    "mp3 with tags": (b"ID3\x04\0\0\0\0\0\0\0\0", FileType("audio/mpeg")),
    "mp3": (b"\xff\xfb\x90\x64\0\0\0\0", FileType("audio/mpeg")),
    "aac": (b"\xff\xf1\x50\x80\0\0\0\0", FileType("audio/aac")),
    "pdf": (b"%PDF-1.7\n", FileType("application/pdf")),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_is_known_by_its_first_bytes(name: str) -> None:
    head, expected = KNOWN[name]

    assert file_type(head + _AFTER) == expected
    assert expected.content_type in EXTENSIONS


UNKNOWN = {
    "nothing": b"",
    "text": b"Once upon a time there was a file without any magic.",
    "JSON": b'{"a": 1}',
    "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "XML with a picture in it": b"<?xml version='1.0'?>" + png(1, 1),
    "a picture after a word": b"x" + png(1, 1),
    "ELF": b"\x7fELF\x02\x01\x01",
    "a program for Windows": b"MZ\x90\0",
    "ZIP": b"PK\x03\x04\x14\0",
    "gzip": b"\x1f\x8b\x08\0",
    "a script": b"#!/bin/sh\nrm -rf /\n",
    "UTF-16": b"\xff\xfeh\0i\0",
    "a GIF that is a script": b"GIF89a/*\0\0*/=1;alert(1)"[:6] + b"\0\0\0\0" + b";alert(1)",
    "PNG without a header": b"\x89PNG\r\n\x1a\n<script>alert(1)</script>" + _AFTER,
    "PNG of no size": png(0, 5),
    "PNG that is cut off": png(5, 5)[:20],
    "JPEG of no size": jpeg(0, 0),
    "JPEG without a frame": b"\xff\xd8\xff\xe0\x00\x10JFIF\0" + bytes(9),
    "JPEG that is a page": b"\xff\xd8\xff<html><script>alert(1)</script>" + _AFTER,
    "JPEG that begins with image data": b"\xff\xd8" + segment(0xDA, 20) + _AFTER,
    "RIFF of another kind": b"RIFF\0\0\0\0AVI LIST" + _AFTER,
    "WebP of an unknown kind": webp(b"VP9 ", bytes(10)),
    "a box that is too short": b"\0\0\0\x04ftypisom" + _AFTER,
    "MP4 of an unknown brand": ftyp(b"evil"),
    "EBML of another kind": ebml(b"evilthing"),
    "PDF of no version": b"%PDF-x",
    "PDF after a line": b"\n%PDF-1.7",
    "sound of a forbidden rate": b"\xff\xfb\xfc\x64\0\0\0\0",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_has_no_type(name: str) -> None:
    assert file_type(UNKNOWN[name]) is None


@given(st.binary(max_size=300), st.sampled_from(sorted(KNOWN)), st.integers(0, 40))
def test_whatever_the_bytes_are_they_are_read(noise: bytes, name: str, kept: int) -> None:
    for head in (noise, KNOWN[name][0][:kept] + noise):
        found = file_type(head)
        assert found is None or found.content_type in EXTENSIONS


def test_a_jpeg_that_tells_its_size_too_late_is_one_of_unknown_size() -> None:
    head = jpeg(7, 9, before=segment(0xE2, 60_000) * 9)

    assert file_type(head[:HEAD_BYTES]) == FileType("image/jpeg")


def test_real_pictures_are_read() -> None:
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    assert file_type(pixel) == FileType("image/png", 1, 1)
    dot = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
    assert file_type(dot) == FileType("image/gif", 1, 1)
