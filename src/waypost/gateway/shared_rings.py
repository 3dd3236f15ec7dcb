"""Limits per minute that several processes of one machine count together, in a piece of memory that they share.

A window is a slot: the digest that names it, then a ring of eleven cells for each process, its column. A cell is one
number, count and bucket together, and only its own process ever writes it; so nobody needs a lock to count. Whoever
takes writes first and adds up after: of two that take the last one at the same moment both may be refused, but never
both let through. A process that dies leaves its column, which is forgotten as every bucket is: by its age.

    slot     digest (16 bytes) | column 0: 11 cells | column 1: 11 cells | …
    cell     number of the bucket, modulo 2^23 (23 bits) | count (40 bits)

The clock must be one for all processes of the machine, as CLOCK_MONOTONIC is.
"""

from __future__ import annotations

import fcntl
import mmap

from waypost.policy.rate_limit import BUCKET_S, BUCKETS, Decision

SLOTS = 8192
"""Windows in use at one time; a key has one or two. Without a free slot a process counts for itself."""
LIMIT_REGIONS = 2
OF_KEYS, OF_ADDRESSES = range(LIMIT_REGIONS)
_DIGEST_BYTES = 16
_COUNT_BITS = 40  # tokens a minute
_COUNT_MAX = (1 << _COUNT_BITS) - 1
_TAGS = 1 << 23  # of buckets: a year and a half
_AHEAD_MAX = 1000  # buckets; another process may have seen the clock a little later than we
_PROBES = 32


def rings_bytes(columns: int, *, regions: int = 1) -> int:
    """Size of the memory for that many processes, a multiple of every system's page. Windows of one region never take
    the room of another's."""
    return regions * SLOTS * _slot_bytes(columns)


def _slot_bytes(columns: int) -> int:
    return _DIGEST_BYTES + columns * BUCKETS * 8


class SharedRings:
    """One process's view of a region. `fd` is of a file of `rings_bytes`, all zeros at first, which every process of
    the machine maps."""

    def __init__(self, fd: int, *, columns: int, column: int, region: int = 0) -> None:
        assert 0 <= column < columns
        size = rings_bytes(columns)
        self._fd = fd
        self._map = mmap.mmap(fd, size, offset=region * size)
        self._columns = columns
        self._column = column

    def window(self, digest: bytes, per_minute: int, now_s: float) -> SharedWindow | None:
        """The window of that name, 16 bytes; None when there is no room for another one."""
        offset = self.find(digest, int(now_s / BUCKET_S))
        return None if offset is None else SharedWindow(self, digest, offset, per_minute)

    def find(self, digest: bytes, bucket: int) -> int | None:
        """Where its slot begins; taken if need be, under a lock of the file that the kernel frees when we die."""
        assert len(digest) == _DIGEST_BYTES
        slot_bytes = _slot_bytes(self._columns)
        first = int.from_bytes(digest[:8], "little")
        offsets = [(first + probe) % SLOTS * slot_bytes for probe in range(_PROBES)]
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            named = [self.digest_at(offset) for offset in offsets]
            if digest in named:
                return offsets[named.index(digest)]
            free = bytes(_DIGEST_BYTES)
            for offset, name in zip(offsets, named, strict=True):
                if name == free or not self._is_live(offset, bucket):
                    self._map[offset : offset + slot_bytes] = digest + bytes(slot_bytes - _DIGEST_BYTES)
                    return offset
            return None
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def digest_at(self, offset: int) -> bytes:
        return self._map[offset : offset + _DIGEST_BYTES]

    def cells(self, offset: int) -> memoryview:
        """All columns of a slot."""
        start = offset + _DIGEST_BYTES
        return memoryview(self._map)[start : start + self._columns * BUCKETS * 8].cast("q")

    @property
    def own(self) -> int:
        """Where our column begins among the cells."""
        return self._column * BUCKETS

    def _is_live(self, offset: int, bucket: int) -> bool:
        return any(_is_counted(cell, bucket) or _ahead(cell, bucket) for cell in self.cells(offset))


class SharedWindow:
    """As `policy.rate_limit.Window`, of all processes together. Times are seconds of the machine's monotonic clock."""

    __slots__ = ("_cells", "_digest", "_offset", "_own", "_rings", "per_minute")

    def __init__(self, rings: SharedRings, digest: bytes, offset: int, per_minute: int) -> None:
        self.per_minute = per_minute
        self._rings = rings
        self._digest = digest
        self._own = rings.own
        self._move(offset)

    def take(self, now_s: float, amount: int = 1) -> Decision:
        """Count `amount` if it fits, else nothing. An amount above the limit never fits."""
        self._find_again(now_s)
        seen = self._cells.tolist()
        total, bucket = _count(seen, int(now_s / BUCKET_S))
        limit = self.per_minute
        if total + amount > limit:
            return Decision(False, limit, max(0, limit - total), self._wait_s(now_s, bucket, total + amount - limit))
        if amount:
            at = self._own + bucket % BUCKETS
            seen[at] = self._add(bucket, amount)
            now = self._cells.tolist()
            total = total + amount if now == seen else _count(now, bucket)[0]
            if total > limit:  # somebody else took at the same moment
                self._add(bucket, -amount)
                left = max(0, limit - total + amount)
                return Decision(False, limit, left, self._wait_s(now_s, bucket, total - limit))
        return Decision(True, limit, limit - total, (bucket + BUCKETS) * BUCKET_S - now_s)

    def correct(self, now_s: float, delta: int, *, taken_at_s: float) -> None:
        """Adjust what was taken at `taken_at_s`, by this process, once the true amount is known."""
        self._find_again(now_s)
        _, bucket = _count(self._cells.tolist(), int(now_s / BUCKET_S))
        if delta >= 0:
            self._add(bucket, delta)
            return
        taken_in = int(taken_at_s / BUCKET_S)
        if taken_in > bucket - BUCKETS:
            self._add(taken_in, -min(-delta, self._own_count(taken_in)))

    def is_quiet(self, now_s: float) -> bool:  # noqa: ARG002  what it counts stands elsewhere, and is found again
        """Whether it may be forgotten here."""
        return True

    def _find_again(self, now_s: float) -> None:
        """Our slot may have been given away while nothing was counted in it."""
        if self._rings.digest_at(self._offset) != self._digest:
            offset = self._rings.find(self._digest, int(now_s / BUCKET_S))
            if offset is not None:  # else it is counted in a slot that is another's now, which forgets it in a minute
                self._move(offset)

    def _move(self, offset: int) -> None:
        self._offset = offset
        self._cells = self._rings.cells(offset)

    def _own_count(self, bucket: int) -> int:
        cell: int = self._cells[self._own + bucket % BUCKETS]
        return cell & _COUNT_MAX if cell >> _COUNT_BITS == bucket % _TAGS else 0

    def _add(self, bucket: int, amount: int) -> int:
        """The cell as it is now."""
        count = max(0, min(_COUNT_MAX, self._own_count(bucket) + amount))
        cell = self._cells[self._own + bucket % BUCKETS] = bucket % _TAGS << _COUNT_BITS | count
        return cell

    def _wait_s(self, now_s: float, bucket: int, excess: int) -> float:
        """Until enough of the oldest buckets have been forgotten."""
        cells = [cell for cell in self._cells.tolist() if _is_counted(cell, bucket)]
        for each in range(bucket - BUCKETS + 1, bucket + 1):
            excess -= sum(cell & _COUNT_MAX for cell in cells if cell >> _COUNT_BITS == each % _TAGS)
            if excess <= 0:
                return (each + BUCKETS) * BUCKET_S - now_s
        return BUCKETS * BUCKET_S


def _count(cells: list[int], bucket: int) -> tuple[int, int]:
    """What counts in this bucket, and the current one: that, or a newer one in which another process has counted."""
    total = 0
    for cell in cells:
        if not cell:
            continue
        age = (bucket - (cell >> _COUNT_BITS)) % _TAGS
        if age < BUCKETS:
            total += cell & _COUNT_MAX
        elif age >= _TAGS - _AHEAD_MAX:
            return _count(cells, bucket + _TAGS - age)
    return total, bucket


def _ahead(cell: int, bucket: int) -> int:
    """By how many buckets the cell's is later than this one."""
    ahead = ((cell >> _COUNT_BITS) - bucket) % _TAGS
    return ahead if cell and ahead <= _AHEAD_MAX else 0


def _is_counted(cell: int, bucket: int) -> bool:
    return bool(cell) and (bucket - (cell >> _COUNT_BITS)) % _TAGS < BUCKETS
