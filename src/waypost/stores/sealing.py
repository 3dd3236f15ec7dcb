"""How a file is encrypted: in chunks, each authenticated with its place, so that any part can be read alone and no
chunk can be changed, moved, repeated, left out or cut off.

This is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", CRYPTO 2015, §7) over AES-256-GCM: a chunk's nonce is its number and whether it is the last. Each
file has a random key of its own, so no nonce is ever used twice under one key. The file's id is authenticated with
every chunk.

    sealed file = chunk* last-chunk        chunk = ciphertext of CHUNK_BYTES, tag of 16 bytes
    nonce       = 7 zero bytes, number of the chunk (4 bytes, big-endian), 1 for the last chunk and else 0
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
CHUNK_BYTES = 64 * 1024
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
_CHUNKS_MAX = 1 << 32
_WRAPPING = b"waypost file key"


class Tampered(Exception):
    """These are not the bytes that were sealed under this key and id, or not all of them."""


class SealingStream:
    """Seals one file, as its bytes come. `size_bytes` and `sha256` are of what was given so far."""

    def __init__(self, key: bytes, bound_to: bytes) -> None:
        self._cipher = AESGCM(key)
        self._bound_to = bound_to
        self._pending = bytearray()
        self._number = 0
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def update(self, data: bytes) -> bytes:
        """What is sealed by now: whole chunks, and never the last one, which only the end makes."""
        self._hash.update(data)
        self.size_bytes += len(data)
        self._pending += data
        sealed = []
        while len(self._pending) > CHUNK_BYTES:
            sealed.append(self._seal(bytes(self._pending[:CHUNK_BYTES]), is_last=False))
            del self._pending[:CHUNK_BYTES]
        return b"".join(sealed)

    def finish(self) -> bytes:
        """The last chunk; an empty file has one too."""
        return self._seal(bytes(self._pending), is_last=True)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def _seal(self, chunk: bytes, *, is_last: bool) -> bytes:
        sealed = self._cipher.encrypt(_nonce(self._number, is_last=is_last), chunk, self._bound_to)
        self._number += 1
        return sealed


class SealedSpan(msgspec.Struct, frozen=True):
    """Where in a sealed file the chunks stand that hold a range of its plain bytes."""

    first_chunk: int
    start: int  # of the sealed bytes
    end: int


def sealed_bytes(size_bytes: int) -> int:
    """How long a file of `size_bytes` is once it is sealed."""
    return size_bytes + TAG_BYTES * _chunks(size_bytes)


def sealed_span(size_bytes: int, start: int, end: int) -> SealedSpan:
    """Of the plain bytes from `start` up to `end` in a file of `size_bytes`."""
    assert 0 <= start <= end <= size_bytes
    first = min(start // CHUNK_BYTES, _chunks(size_bytes) - 1)
    last = max(first, (end - 1) // CHUNK_BYTES)
    return SealedSpan(first, first * SEALED_CHUNK_BYTES, min((last + 1) * SEALED_CHUNK_BYTES, sealed_bytes(size_bytes)))


async def opened(
    sealed: AsyncIterable[bytes], key: bytes, bound_to: bytes, *, size_bytes: int, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    """The plain bytes from `start` up to `end`, of the sealed bytes that `sealed_span` told, in pieces of at most a
    chunk. Raises Tampered, before any byte of a chunk that is not as it was sealed."""
    cipher, span, chunks = AESGCM(key), sealed_span(size_bytes, start, end), _chunks(size_bytes)
    number, left = span.first_chunk, span.end - span.start
    async with aclosing(_rechunked(sealed, left)) as pieces:
        async for piece in pieces:
            try:
                plain = cipher.decrypt(_nonce(number, is_last=number == chunks - 1), piece, bound_to)
            except InvalidTag:
                raise Tampered from None
            at = number * CHUNK_BYTES
            wanted = plain[max(0, start - at) : max(0, end - at)]
            if wanted:
                yield wanted
            number, left = number + 1, left - len(piece)
    if left:
        raise Tampered


async def _rechunked(sealed: AsyncIterable[bytes], most: int) -> AsyncGenerator[bytes, None]:
    """The same bytes in sealed chunks; the rest is one too. Raises Tampered for more than there may be."""
    pending, seen = bytearray(), 0
    async for data in sealed:
        seen += len(data)
        if seen > most:
            raise Tampered
        pending += data
        while len(pending) >= SEALED_CHUNK_BYTES:
            yield bytes(pending[:SEALED_CHUNK_BYTES])
            del pending[:SEALED_CHUNK_BYTES]
    if pending:
        yield bytes(pending)


class WrappedKey(msgspec.Struct, frozen=True):
    """A file's key as the database has it: of no use without the file key of that version."""

    version: int
    sealed: bytes


class FileKeys:
    """The deployment's file keys, by version; the newest wraps. They stand outside the database, so a copy of database
    and objects together opens nothing; and who erases a wrapped key has erased every copy of the file."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        assert keys, "there is always one"
        assert all(len(key) == KEY_BYTES for key in keys.values())
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self.newest = max(keys)

    def wrap(self, key: bytes, bound_to: bytes) -> WrappedKey:
        nonce = os.urandom(12)  # NIST SP 800-38D §8.3: good for 2^32 files under one version
        sealed = nonce + self._ciphers[self.newest].encrypt(nonce, key, _WRAPPING + bound_to)
        return WrappedKey(self.newest, sealed)

    def unwrap(self, wrapped: WrappedKey, bound_to: bytes) -> bytes:
        """Raises Tampered; KeyError when that version is not here."""
        cipher = self._ciphers[wrapped.version]
        try:
            return cipher.decrypt(wrapped.sealed[:12], wrapped.sealed[12:], _WRAPPING + bound_to)
        except (InvalidTag, ValueError):  # ValueError: too short to be one
            raise Tampered from None


def _chunks(size_bytes: int) -> int:
    return max(1, -(-size_bytes // CHUNK_BYTES))


def _nonce(number: int, *, is_last: bool) -> bytes:
    assert number < _CHUNKS_MAX
    return bytes(7) + number.to_bytes(4, "big") + bytes((is_last,))
