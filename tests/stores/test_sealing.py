"""A sealed file opens to what it was, in any part, and to nothing else once a bit or a chunk of it is not as it was."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.stores.sealing import (
    CHUNK_BYTES,
    KEY_BYTES,
    SEALED_CHUNK_BYTES,
    FileKeys,
    SealingStream,
    Tampered,
    WrappedKey,
    opened,
    sealed_bytes,
    sealed_span,
)

KEY, ID = os.urandom(KEY_BYTES), b"a file's id"
CONTENT = os.urandom(3 * CHUNK_BYTES + 100)


def seal(content: bytes, *cuts: int, key: bytes = KEY, bound_to: bytes = ID) -> bytes:
    stream = SealingStream(key, bound_to)
    bounds = [0, *sorted(cuts), len(content)]
    sealed = [stream.update(content[a:b]) for a, b in itertools.pairwise(bounds)]
    sealed.append(stream.finish())
    assert (stream.size_bytes, stream.sha256) == (len(content), hashlib.sha256(content).digest())
    return b"".join(sealed)


def open_part(sealed: bytes, size_bytes: int, start: int, end: int, *, piece: int = 50_000, key: bytes = KEY) -> bytes:
    """As a reader does who fetches the span that holds the part."""
    span = sealed_span(size_bytes, start, end)
    fetched = sealed[span.start : span.end]
    return open_fetched(fetched, size_bytes, start, end, piece=piece, key=key)


def open_fetched(fetched: bytes, size_bytes: int, start: int, end: int, *, piece: int, key: bytes = KEY) -> bytes:
    async def fetch() -> AsyncIterator[bytes]:
        for at in range(0, len(fetched), piece):
            yield fetched[at : at + piece]

    async def read() -> bytes:
        parts = opened(fetch(), key, ID, size_bytes=size_bytes, start=start, end=end)
        return b"".join([part async for part in parts])

    return uvloop.run(read())


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000])
def test_a_file_of_any_size_comes_back(size: int) -> None:
    content = os.urandom(size)
    sealed = seal(content)

    assert len(sealed) == sealed_bytes(size)
    assert open_part(sealed, size, 0, size) == content


@given(cuts=st.sets(st.integers(0, len(CONTENT)), max_size=5))
@settings(deadline=None, max_examples=25)
def test_however_the_bytes_come_the_sealed_file_is_the_same(cuts: set[int]) -> None:
    assert seal(CONTENT, *cuts) == seal(CONTENT)


@given(bounds=st.tuples(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT))), piece=st.integers(1_000, 300_000))
@settings(deadline=None, max_examples=60)
def test_any_part_is_read_by_fetching_its_chunks_alone(bounds: tuple[int, int], piece: int) -> None:
    start, end = min(bounds), max(bounds)

    assert open_part(seal(CONTENT), len(CONTENT), start, end, piece=piece) == CONTENT[start:end]
    span = sealed_span(len(CONTENT), start, end)
    assert span.end - span.start <= end - start + 2 * SEALED_CHUNK_BYTES


@given(bit=st.integers(0, sealed_bytes(len(CONTENT)) * 8 - 1))
@settings(deadline=None, max_examples=150)
def test_any_flipped_bit_is_found(bit: int) -> None:
    sealed = bytearray(seal(CONTENT))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Tampered):
        open_part(bytes(sealed), len(CONTENT), 0, len(CONTENT))


def _chunks(sealed: bytes) -> list[bytes]:
    return [sealed[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(sealed), SEALED_CHUNK_BYTES)]


def _swapped(c: list[bytes]) -> list[bytes]:
    return [c[1], c[0], *c[2:]]


def _doubled(c: list[bytes]) -> list[bytes]:
    return [c[0], c[0], *c[1:]]


def _replaced_by_its_neighbour(c: list[bytes]) -> list[bytes]:
    return [c[0], c[0], *c[2:]]


def _without_the_first(c: list[bytes]) -> list[bytes]:
    return c[1:]


def _without_one_inside(c: list[bytes]) -> list[bytes]:
    return [c[0], *c[2:]]


def _without_the_last(c: list[bytes]) -> list[bytes]:
    return c[:-1]


def _with_a_short_last(c: list[bytes]) -> list[bytes]:
    return [*c[:-1], c[-1][:-1]]


def _with_more(c: list[bytes]) -> list[bytes]:
    return [*c, b"\0"]


def _empty(_: list[bytes]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    "change",
    [
        _swapped,
        _doubled,
        _replaced_by_its_neighbour,
        _without_the_first,
        _without_one_inside,
        _without_the_last,
        _with_a_short_last,
        _with_more,
        _empty,
    ],
)
def test_chunks_are_as_many_as_they_were_and_in_their_order(change: Callable[[list[bytes]], list[bytes]]) -> None:
    changed = b"".join(change(_chunks(seal(CONTENT))))

    with pytest.raises(Tampered):
        open_fetched(changed, len(CONTENT), 0, len(CONTENT), piece=50_000)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_file_cut_at_a_chunk_is_no_file_even_for_who_believes_its_length(chunks: int) -> None:
    sealed = seal(CONTENT)[: chunks * SEALED_CHUNK_BYTES]

    with pytest.raises(Tampered):
        open_fetched(sealed, chunks * CHUNK_BYTES, 0, chunks * CHUNK_BYTES, piece=50_000)


def test_nothing_opens_with_another_key_or_as_another_file() -> None:
    with pytest.raises(Tampered):
        open_part(seal(CONTENT), len(CONTENT), 0, 1, key=os.urandom(KEY_BYTES))
    with pytest.raises(Tampered):
        open_part(seal(CONTENT, bound_to=b"another id"), len(CONTENT), 0, 1)


def test_a_sealed_file_shows_nothing_of_what_is_in_it() -> None:
    canary = b"canary-of-thirty-two-characters!"
    assert canary not in seal(canary * 10_000)
    assert len(set(_chunks(seal(bytes(3 * CHUNK_BYTES))))) == 3, "equal chunks are sealed differently"


def test_a_files_key_opens_with_the_version_that_wrapped_it_and_as_that_file_alone() -> None:
    first, second = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    wrapped = FileKeys({1: first}).wrap(KEY, ID)
    both = FileKeys({1: first, 2: second})

    assert (wrapped.version, both.unwrap(wrapped, ID), KEY in wrapped.sealed) == (1, KEY, False)
    assert both.wrap(KEY, ID).version == 2
    assert FileKeys({2: second}).unwrap(both.wrap(KEY, ID), ID) == KEY
    for other in (WrappedKey(2, wrapped.sealed), WrappedKey(1, wrapped.sealed[:-1]), WrappedKey(1, b"")):
        with pytest.raises(Tampered):
            both.unwrap(other, ID)
    with pytest.raises(Tampered):
        both.unwrap(wrapped, b"another id")
    with pytest.raises(KeyError):
        FileKeys({2: second}).unwrap(wrapped, ID)
