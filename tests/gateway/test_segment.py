"""Reading a segment without the zeros that nobody wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.disk import closed, opened
from waypost.gateway.segment import read_written
from waypost.ledger.journal_format import MAGIC, encode_close, encode_open, read_segment

BLOCK_BYTES = 64 << 10
RECORD = encode_open(1, opened()) + encode_close(2, closed(opened()))


@pytest.mark.parametrize("rest_bytes", [0, 1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, 5 * BLOCK_BYTES + 7])
@pytest.mark.parametrize("hole_bytes", [0, 300, BLOCK_BYTES, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("cut_bytes", [0, 1, 8, 60])
def test_what_is_read_means_the_same_as_the_whole_file(
    tmp_path: Path, rest_bytes: int, hole_bytes: int, cut_bytes: int
) -> None:
    """Records, perhaps a hole that a power loss left, one more record whose end may lie beyond a block, and zeros."""
    filler = RECORD * ((BLOCK_BYTES - len(MAGIC)) // len(RECORD))
    written = MAGIC + filler + bytes(hole_bytes) + RECORD[: len(RECORD) - cut_bytes]
    path = tmp_path / "segment"
    path.write_bytes(written + bytes(rest_bytes))
    seen, damaged_at, whole_damaged_at = read_written(path), list[int](), list[int]()

    records = list(read_segment(seen, damaged_at))

    assert records == list(read_segment(path.read_bytes(), whole_damaged_at))
    assert damaged_at == whole_damaged_at


def test_a_segment_that_was_never_written_is_hardly_read_at_all(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(MAGIC + bytes(8 << 20))

    assert len(read_written(path)) <= 2 * BLOCK_BYTES
    assert list(read_segment(read_written(path), [])) == []
