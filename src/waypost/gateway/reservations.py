"""What a request takes of its key's limits from its admission to its end: a place among those under way, one of the
requests of a minute, and the tokens that it may come to, until it is known how many they were."""

from __future__ import annotations

import asyncio

from waypost.gateway.callers import InFlight
from waypost.gateway.limits import KeyLimits, Reservation
from waypost.tenancy.api_key import ApiKey


class Reservations:
    """Of the requests of this process."""

    def __init__(self, limits: KeyLimits, in_flight: InFlight, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.in_flight = in_flight
        self._loop = loop
        self._reserved: dict[bytes, Reservation] = {}  # by execution

    def begin(self, api_key: ApiKey, execution_id: bytes, *, tokens: int, now_unix_s: float) -> bytes:
        """The `x-ratelimit-*` header lines. Raises Refusal, and then nothing is taken. Of a key whose limits are
        counted for all machines only a place is taken: `begin_together` does the rest."""
        self.in_flight.check(api_key)
        headers = b""
        if not self.limits.is_asked_of_server(api_key):
            now_s = self._loop.time()
            headers = self.limits.take(api_key, now_s=now_s, now_unix_s=now_unix_s, tokens=tokens)
            if api_key.tokens_per_minute is not None:
                self._reserved[execution_id] = Reservation(api_key.id, tokens, now_s)
        self.in_flight.begin(api_key.org_id, api_key.id)
        return headers

    async def begin_together(self, api_key: ApiKey, execution_id: bytes, *, tokens: int, now_unix_s: float) -> bytes:
        """The same by the count of all machines, after 20 ms at most. Raises Refusal: the place is still taken."""
        now_s = self._loop.time()
        headers, bucket = await self.limits.take_together(api_key, now_s=now_s, now_unix_s=now_unix_s, tokens=tokens)
        if api_key.tokens_per_minute is not None:
            self._reserved[execution_id] = Reservation(api_key.id, tokens, now_s, bucket)
        return headers

    def end(self, execution_id: bytes, org_id: bytes, api_key_id: bytes, used_tokens: int) -> None:
        """It has used so many tokens."""
        self.in_flight.end(org_id, api_key_id)
        reserved = self._reserved.pop(execution_id, None)
        if reserved is not None:
            self.limits.correct(reserved, used_tokens, self._loop.time())
