"""A request that the gateway has begun to see to."""

from __future__ import annotations

import msgspec

from waypost.gateway.allowance import Allowance
from waypost.gateway.limits import AnyWindow
from waypost.transport.exchange import Exchange
from waypost.wire.formats import ChatFormat


class Arrival(msgspec.Struct, gc=False):
    """An authenticated request on its way, until its execution ends; its id becomes the execution's."""

    exchange: Exchange
    format: ChatFormat
    id: bytes
    at_ms: int
    body_bytes: int
    allowance: Allowance  # of its key; it has a place there
    limit_headers: bytes = b""  # which tell of the key's limits
    window: AnyWindow | None = None  # in which tokens are reserved, if the key had a limit of them then
    tokens: int = 0  # so many
    taken_at_s: float = 0.0  # by the loop's clock
    ends_at_s: float = 0.0  # by the loop's clock, when its caller gave it so long; else 0
    server_bucket: int = -1  # in which a server counted them; -1: none did

    def reserve(self, tokens: int, now_s: float) -> None:
        """So many tokens have been counted for it."""
        self.window, self.tokens, self.taken_at_s = self.allowance.tokens, tokens, now_s

    def end(self, used_tokens: int, now_s: float) -> None:
        """Its execution is over and has used so many tokens: give back the place, and put right the others."""
        self.allowance.leave_place()
        if self.window is not None:
            self.window.correct(now_s, used_tokens - self.tokens, taken_at_s=self.taken_at_s)
