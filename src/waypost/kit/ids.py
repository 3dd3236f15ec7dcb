"""Identifiers: a kind and a UUIDv7 (RFC 9562 §5.7), so that every id tells what it names and sorts by time.

In memory, in the journal and in the database an id is its 16 raw bytes; people and clients see
`exec_0192f0c4-…`. The kind is part of the text only: the place that holds the bytes knows what it holds.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable

_BLOCK = struct.Struct(">512Q")  # one getrandom(2) serves 512 ids
_HALVES = struct.Struct(">QQ")  # packed as two words: an int of 128 bits takes twice as long
_pack = _HALVES.pack
_BYTES = tuple(bytes((each,)) for each in range(256))
_UUID7_VERSION = 0x7000
_UUID_VARIANT = 0x2 << 62


class Ids:
    """A source of ids, strictly increasing within this object even when the clock stands still or steps back.

    `now_ns` and `entropy` are arguments so that a simulation can replay a run. Not for use across threads or `fork`.
    """

    __slots__ = ("_entropy", "_last", "_now_ns", "_tails")

    def __init__(self, now_ns: Callable[[], int] = time.time_ns, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._now_ns = now_ns
        self._entropy = entropy
        self._tails: list[int] = []
        self._last = 0  # milliseconds << 12 | sequence

    def new(self) -> bytes:
        """Sixteen bytes: 48 bits of Unix milliseconds, a 12-bit sequence within the millisecond, 62 random bits."""
        stamp = self._now_ns() // 1_000_000 << 12
        if stamp <= self._last:
            stamp = self._last + 1
        self._last = stamp
        if not self._tails:
            entropy = _BLOCK.unpack(self._entropy(_BLOCK.size))
            self._tails.extend([_UUID_VARIANT | word >> 2 for word in entropy])
        return _pack(stamp >> 12 << 16 | _UUID7_VERSION | stamp & 0xFFF, self._tails.pop())


def sibling(raw: bytes, number: int) -> bytes:
    """The ids of what belongs to another id: the attempts (`number` 1 … 255) of an execution."""
    last = raw[15] & 0xFC | number & 3
    return raw[:15] + _BYTES[last] if number < 4 else raw[:14] + bytes((raw[14] ^ number >> 2, last))


def derived(raw: bytes, name: str) -> bytes:
    """The id of what belongs to another id and is known by a name that others gave it: always the same one."""
    return raw[:9] + hashlib.blake2b(name.encode(), key=raw, digest_size=7).digest()


def text(kind: str, raw: bytes) -> str:
    """`text("exec", raw)` is `exec_<uuid>`: how clients and people see an id."""
    h = raw.hex()
    return f"{kind}_{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse(kind: str, value: str) -> bytes:
    """The 16 bytes of `<kind>_<uuid>`. Raises ValueError when it is anything else."""
    prefix, _, uuid = value.partition("_")
    if prefix != kind or len(uuid) != 36 or uuid[8] + uuid[13] + uuid[18] + uuid[23] != "----":
        raise ValueError(f"not an id of the form {kind}_<uuid>")
    return bytes.fromhex(uuid.replace("-", ""))


def unix_ms(raw: bytes) -> int:
    """The Unix time in milliseconds at which the id was made."""
    return int.from_bytes(raw[:6], "big")


def lowest_at(ms: int) -> bytes:
    """The smallest id of that millisecond: the bound of a time range, as partitions use it."""
    return (ms << 80).to_bytes(16, "big")
