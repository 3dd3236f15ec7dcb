"""What msgspec does not check about a JSON document: its depth, and a key that stands twice in the outermost object.

Two readers of a document with a repeated key may see different values; a caller must not be billed for one `model`
while the provider runs another. Both checks are a few byte scans in the usual case.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Possessive: a matcher that could go back would remember every escape, 60 bytes of memory for two of a document.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BLOCK_BYTES = 1 << 18
_KEY_BYTES_MAX = 256  # no name that is looked for is longer, quoted and with every character escaped


def is_deeper_than(document: bytes, depth_max: int) -> bool:
    """Whether arrays and objects of a document nest more than `depth_max` levels. Strings do not count."""
    if document.count(b"[") + document.count(b"{") <= depth_max:
        return False
    rest = _STRING.sub(b"", document).translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(depth_max):
        if not rest:
            return False
        # Removing every empty pair lowers the tree by exactly one level.
        rest = rest.replace(b"[]", b"")
    return bool(rest)


def has_more_values_than(document: bytes, values_max: int, *, others_max: int) -> bool:
    """Whether a document has more objects, arrays and strings than `values_max`, or more elements in all than
    `others_max`. Some byte scans, whatever it is, in blocks: no reader needs to be trusted with it before."""
    count = document.count
    if count(b'"') + count(b"[") + count(b"{") <= values_max and count(b",") <= others_max:
        return False
    begin = quotes = brackets = commas = 0
    while begin < len(document):
        block = document[begin : begin + _BLOCK_BYTES]
        if block.endswith(b"\\") and (len(block) - len(block.rstrip(b"\\"))) % 2 and len(block) > 1:
            block = block[:-1]  # what it escapes is in the next one
        begin += len(block)
        if b"\\" in block:
            block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = block.split(b'"')
        bare = b"".join(parts[quotes % 2 :: 2])  # what stands outside of strings
        quotes += len(parts) - 1
        brackets += bare.count(b"[") + bare.count(b"{")
        commas += bare.count(b",")
        if quotes // 2 + brackets > values_max or commas > others_max:
            return True
    return False


def repeated_key(document: bytes, names: tuple[str, ...]) -> str | None:
    """The first of `names` that stands twice as a key of the outermost object of a valid JSON document.

    A spelling with escapes (`"mod\\u0065l"`) counts as the same key.
    """
    # An ASCII name can only be escaped as \u00xx.
    if document.find(b"\\u00") < 0:
        for quoted in _quoted(names):
            if document.count(quoted) > 1:
                break
        else:
            return None
    outermost: list[str] = []
    if len(document) > _BLOCK_BYTES:
        document = _STRING.sub(_without_length, document)

    def remember(pairs: list[tuple[str, object]]) -> None:
        # Called for the innermost objects first, so the last call is the outermost object's.
        outermost[:] = [key for key, _ in pairs]

    # A number of any length is no error here. Read as Latin-1, one character of any alphabet does not make the others
    # take four bytes each; in ASCII it is the same.
    json.loads(document.decode("latin-1"), object_pairs_hook=remember, parse_int=str)
    return next((name for name in names if outermost.count(name) > 1), None)


def _without_length(string: re.Match[bytes]) -> bytes:
    return string[0] if string.end() - string.start() <= _KEY_BYTES_MAX else b'""'


@lru_cache(maxsize=64)
def _quoted(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in names)
