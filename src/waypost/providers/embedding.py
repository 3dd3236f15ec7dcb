"""What the kinds' embedding endpoints have in common: vectors as providers send them, numbers or base64."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Sequence

from waypost.providers.kind import BadAnswer
from waypost.wire.canonical import Completion

assert sys.byteorder == "little", "vectors are kept as the machine has them, which is how OpenAI writes them"


def vector_of(sent: str | list[float] | None) -> bytes:
    """Little-endian 32-bit floats. Raises BadAnswer for what is no vector."""
    numbers = array("f")
    try:
        if isinstance(sent, str):
            numbers.frombytes(base64.b64decode(sent, validate=True))
        else:
            numbers.extend(sent or ())
    except (ValueError, OverflowError):  # no base64, no whole numbers of bytes, or out of range
        raise BadAnswer from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise BadAnswer
    return numbers.tobytes()


def completion_of(vectors: Sequence[bytes], n: int) -> Completion:
    """Raises BadAnswer for fewer or more vectors than were asked for, or of different lengths."""
    if len(vectors) != n or len({len(vector) for vector in vectors}) != 1:
        raise BadAnswer
    return Completion([], vectors=vectors)
