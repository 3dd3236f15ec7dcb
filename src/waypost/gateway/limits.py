"""Limits per minute: who counts, and the headers that tell of them.

From one process to many machines:

    a process alone                its own windows
    several workers of a machine   windows in memory that they share (`shared_rings`)
    several machines               a server that all ask (`ports.LimitServer`); while it is away each has its part
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Protocol

from waypost.gateway.ports import LimitServer
from waypost.gateway.shared_rings import SharedRings
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.policy.rate_limit import Decision, Window


class LimitExceeded(Refusal):
    """RATE_LIMITED (429), with the `x-ratelimit-*` header lines that belong to it."""

    def __init__(self, decision: Decision, headers: bytes) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, retry_after_s=max(1, math.ceil(decision.reset_s)))
        self.headers = headers


class AnyWindow(Protocol):
    """Of one process, or of several."""

    per_minute: int

    def take(self, now_s: float, amount: int = 1) -> Decision:
        """As `Window.take`."""

    def correct(self, now_s: float, delta: int, *, taken_at_s: float) -> None:
        """As `Window.correct`."""

    def is_quiet(self, now_s: float) -> bool:
        """As `Window.is_quiet`."""


class Windows:
    """Makes windows, and says which part of a limit they are to allow. `machines` share a limit while no server
    counts."""

    def __init__(
        self,
        rings: SharedRings | None = None,
        server: LimitServer | None = None,
        machines: Callable[[], int] = lambda: 1,
    ) -> None:
        self.server = server
        self._rings = rings
        self._machines = machines

    def part(self, per_minute: int) -> int:
        """Of the limit; 1 at least, or nobody would ever be let through."""
        return per_minute if self.server is None else max(1, per_minute // self._machines())

    def make(self, name: bytes, per_minute: int, now_s: float) -> AnyWindow:
        window = None
        if self._rings is not None:
            window = self._rings.window(hashlib.sha256(name).digest()[:16], per_minute, now_s)
        return window or Window(per_minute)


def never_fits(tokens: int, limit: int) -> Refusal:
    """400 for tokens that no minute has."""
    return invalid("max_tokens", f"This may take {tokens} tokens, and the key has {limit} a minute.")


def header_lines(decision: Decision, now_unix_s: float) -> bytes:
    """`x-ratelimit-*`, by which callers pace themselves."""
    return b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n" % (
        decision.limit,
        decision.remaining,
        math.ceil(now_unix_s + decision.reset_s),
    )
