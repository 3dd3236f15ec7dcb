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
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


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
    `others_max`. Some byte scans, whatever it is: no reader needs to be trusted with it before."""
    if document.count(b'"') + document.count(b"[") + document.count(b"{") <= values_max:
        return document.count(b",") > others_max and _bare(document).count(b",") > others_max
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = document.count(b'"') // 2
    if strings > values_max:
        return True
    bare = _bare(document)
    return strings + bare.count(b"[") + bare.count(b"{") > values_max or bare.count(b",") > others_max


def _bare(document: bytes) -> bytes:
    """What stands outside of strings, of a document of few strings."""
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(document.split(b'"')[::2])


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

    def remember(pairs: list[tuple[str, object]]) -> None:
        # Called for the innermost objects first, so the last call is the outermost object's.
        outermost[:] = [key for key, _ in pairs]

    json.loads(document, object_pairs_hook=remember, parse_int=str)  # a number of any length is no error here
    return next((name for name in names if outermost.count(name) > 1), None)


@lru_cache(maxsize=64)
def _quoted(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in names)
