"""Words that a simulated model says: always the same for the same seed, one token each.

The vocabulary holds what readers of streams stumble over: multi-byte characters, quotes, slashes, line ends.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from zlib import crc32

# Sixty-four entries, so that six bits of a hash choose one evenly.
_VOCABULARY = (
    " the", " a", " route", " to", " and", " of", " in", " is", " model", " answer", " café", " naïve", " and/or",
    " über", " “so”", " it", " goes", " with", " each", " small", " step", " river", " stone", " light", " over",
    " under", " 東京", " señor", " 1/2", " then", ".", ",", " \U0001f642", " open", " closed", " early", " late",
    " path",
    " https://example.org/a", " C:\\dir", " \"quoted\"", " piñata", " it's", " one", " two", " three", " many", " few",
    " water", " wind", " so", " but", " not", " only", " also", "\n", " Ωmega", " near", " far", " day", " night",
    " word"," <b>", " &",
)  # fmt: skip
_REFUSAL = ("I'm", " sorry,", " but", " I", " can't", " help", " with", " that.")
assert len(_VOCABULARY) == 64


@lru_cache(maxsize=128)
def text_words(seed: bytes, count: int) -> tuple[str, ...]:
    """`count` tokens of text."""
    chosen = [_VOCABULARY[byte & 63] for byte in hashlib.shake_256(seed).digest(count)]
    if chosen:
        chosen[0] = "The"
    return tuple(chosen)


def refusal_words() -> tuple[str, ...]:
    return _REFUSAL


def default_count(seed: bytes) -> int:
    """How long an answer is when nobody says: 20 … 60 tokens."""
    return 20 + seed[0] % 41


def logprob(token: str) -> float:
    """Between -2 and 0, a whole number of 32nds, so that every spelling of the number is exact."""
    return -(crc32(token.encode()) % 64) / 32


def alternatives(token: str, count: int) -> list[str]:
    """The `count` likeliest tokens at the place of `token`, itself first."""
    at = crc32(token.encode())
    return [token, *(_VOCABULARY[(at + step) & 63] for step in range(1, count))][:count]
