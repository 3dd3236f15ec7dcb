"""The vault's protocol on its Unix socket: length-prefixed frames, answered one by one in the order of asking.

    ask     operation (1 byte), key length (2), value length (4), milliseconds to live (4), key, value
    answer  status (1 byte), value length (4), value

A key may be followed by a zero byte and its owner, which count to the key's length. Numbers are big-endian. Any number
of asks may be sent ahead of their answers. What is no frame ends the connection.
"""

from __future__ import annotations

import struct
from enum import IntEnum

ASK_HEAD = struct.Struct("!BHII")
ANSWER_HEAD = struct.Struct("!BI")


class Operation(IntEnum):
    """What is asked."""

    PUT = 1
    GET = 2
    DELETE = 3


class Status(IntEnum):
    """What became of it."""

    DONE = 1
    MISSING = 2
    FULL = 3


def ask_head(operation: Operation, key: bytes, *, value_bytes: int = 0, ttl_s: float = 0.0) -> bytes:
    """The head and the key; the value follows."""
    return ASK_HEAD.pack(operation, len(key), value_bytes, max(1, round(ttl_s * 1000)) if ttl_s else 0) + key


def answer_head(status: Status, value_bytes: int = 0) -> bytes:
    """The head; the value follows."""
    return ANSWER_HEAD.pack(status, value_bytes)
