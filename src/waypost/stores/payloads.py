"""Payloads in this process's memory: bounded in bytes, each with a time to live, overwritten when it is over.

reserve ─→ keep ─→ found, any number of times ─→ forgotten (deleted, replaced, expired) ─→ wiped
   └─────→ give_back ────────────────────────────────────────────────────────────────────────↑
One that is being sent to somebody when it is forgotten is wiped when that has ended.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap

from waypost.stores.vault import VaultFull

OVERHEAD_BYTES = 512  # of an entry, beside its key and value; so empty values are bounded in number too
_PAGES_FROM_BYTES = 64 * 1024  # from this size on pages of their own, which go back to the system at once
_STALE_MIN = 1024  # marks of forgotten entries that may stay in the heap


class Entry:
    """One value. `buffer` is filled by whoever reserved it, up to `value_bytes`."""

    __slots__ = ("buffer", "cost_bytes", "expires_at_s", "is_forgotten", "key", "owner", "readers", "value_bytes")

    def __init__(self, key: bytes, value_bytes: int, owner: bytes) -> None:
        self.key = key
        self.owner = owner
        self.value_bytes = value_bytes
        self.cost_bytes = len(key) + value_bytes + OVERHEAD_BYTES
        self.buffer: bytearray | mmap.mmap = (
            bytearray(value_bytes) if value_bytes < _PAGES_FROM_BYTES else mmap.mmap(-1, value_bytes)
        )
        self.expires_at_s = 0.0
        self.readers = 0
        self.is_forgotten = False

    def wipe(self) -> None:
        """Pages go back to the system, which clears them before anybody else has them."""
        if isinstance(self.buffer, mmap.mmap):
            with contextlib.suppress(BufferError):  # somebody still has a view of it
                self.buffer.close()
                return
        self.buffer[:] = bytes(self.value_bytes)


class Payloads:
    """At most `bytes_max` of entries, those that are being received included, and of one owner's at most
    `share_bytes_max` (None: all). `now_s` is a monotonic clock's."""

    def __init__(self, bytes_max: int, share_bytes_max: int | None = None) -> None:
        self.bytes_max = bytes_max
        self._share_bytes_max = bytes_max if share_bytes_max is None else share_bytes_max
        self._bytes_of: dict[bytes, int] = {}
        self.bytes = 0
        self.refused = 0
        self.expired = 0
        self._entries: dict[bytes, Entry] = {}
        self._by_expiry: list[tuple[float, int, Entry]] = []
        self._kept = 0  # tells entries of one moment apart in the heap

    def __len__(self) -> int:
        return len(self._entries)

    def reserve(self, key: bytes, value_bytes: int, owner: bytes = b"") -> Entry:
        """Room for a value that is about to come: end it by `keep` or `give_back`. What has no owner counts to no
        share. Raises VaultFull."""
        cost_bytes = len(key) + value_bytes + OVERHEAD_BYTES
        owned = self._bytes_of.get(owner, 0)
        if self.bytes + cost_bytes > self.bytes_max or (owner and owned + cost_bytes > self._share_bytes_max):
            self.refused += 1
            raise VaultFull
        entry = Entry(key, value_bytes, owner)
        self.bytes += cost_bytes
        if owner:
            self._bytes_of[owner] = owned + cost_bytes
        return entry

    def give_back(self, entry: Entry) -> None:
        """Its value never came."""
        self._end(entry)

    def keep(self, entry: Entry, *, now_s: float, ttl_s: float) -> None:
        """From now on it is found, in place of what its key named before."""
        self.forget(entry.key)
        entry.expires_at_s = now_s + ttl_s
        self._entries[entry.key] = entry
        self._kept += 1
        heapq.heappush(self._by_expiry, (entry.expires_at_s, self._kept, entry))
        self._drop_stale_marks()

    def find(self, key: bytes, now_s: float) -> Entry | None:
        """The entry, to be given to `end_reading`; None for one whose time is over, even by a moment."""
        entry = self._entries.get(key)
        if entry is None or entry.expires_at_s <= now_s:
            return None
        entry.readers += 1
        return entry

    def end_reading(self, entry: Entry) -> None:
        """It has been sent, or need not be any more."""
        entry.readers -= 1
        if entry.is_forgotten and not entry.readers:
            self._end(entry)

    def forget(self, key: bytes) -> bool:
        """Whether there was one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        entry.is_forgotten = True
        if not entry.readers:
            self._end(entry)
        return True

    def forget_all(self) -> None:
        """The process ends."""
        for key in tuple(self._entries):
            self.forget(key)
        self._by_expiry.clear()

    def expire(self, now_s: float) -> float | None:
        """Forget whatever is over; when the next one is, None when nothing is left."""
        heap = self._by_expiry
        while heap and (heap[0][2].is_forgotten or heap[0][0] <= now_s):
            entry = heapq.heappop(heap)[2]
            if not entry.is_forgotten:
                self.expired += 1
                self.forget(entry.key)
        return heap[0][0] if heap else None

    def _end(self, entry: Entry) -> None:
        self.bytes -= entry.cost_bytes
        if entry.owner:
            self._bytes_of[entry.owner] -= entry.cost_bytes
            if not self._bytes_of[entry.owner]:
                del self._bytes_of[entry.owner]
        entry.wipe()

    def _drop_stale_marks(self) -> None:
        """Marks of what was deleted long before its time would pile up: results live for a day, and most inputs for
        seconds."""
        if len(self._by_expiry) > 2 * len(self._entries) + _STALE_MIN:
            self._by_expiry = [mark for mark in self._by_expiry if not mark[2].is_forgotten]
            heapq.heapify(self._by_expiry)
