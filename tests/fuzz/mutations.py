"""Seeded mutations of samples: the small brother of coverage-guided fuzzing, the same every time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b": ",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"0\r\n\r\n",
    b"data: ",
    b"\xff",
    b"9" * 20,
)


def mutations(samples: Sequence[bytes], count: int, seed: int = 20_261_126) -> Iterator[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(dice.choice(samples) if dice.random() < 0.9 else dice.randbytes(40))
        for _ in range(dice.randint(1, 5)):
            at = dice.randrange(len(data) + 1)
            end = at + dice.choice((0, 0, 1, 4, 30))
            if data and dice.random() < 0.4:
                data[at : at + 1] = bytes((dice.randrange(256),))
            else:
                data[at:end] = dice.choice((dice.choice(_TOKENS), dice.randbytes(2), bytes(data[end : end + 12])))
        yield bytes(data)
