"""Rate limits of keys: requests and tokens per minute, and the headers that tell of them.

Who counts, from one process to many machines:

    a process alone                its own windows
    several workers of a machine   windows in memory that they share (`shared_rings`)
    several machines               a server that all ask (`ports.LimitServer`); while it is away each has its part
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Protocol

import msgspec

from waypost.gateway.ports import LimitServer
from waypost.gateway.shared_rings import SharedRings
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.policy.rate_limit import Asked, Decision, LimitsUnavailable, Window
from waypost.tenancy.api_key import ApiKey


class LimitExceeded(Refusal):
    """RATE_LIMITED (429), with the `x-ratelimit-*` header lines that belong to it."""

    def __init__(self, decision: Decision, headers: bytes) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, retry_after_s=max(1, math.ceil(decision.reset_s)))
        self.headers = headers


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """Tokens counted before a call, of whose true number nobody knows yet."""

    key_id: bytes
    tokens: int
    taken_at_s: float
    server_bucket: int = -1  # in which the server counted them; -1: it did not


class AnyWindow(Protocol):
    """Of one process, or of several."""

    per_minute: int

    def take(self, now_s: float, amount: int = 1) -> Decision:
        """As `Window.take`."""

    def correct(self, now_s: float, delta: int, *, taken_at_s: float) -> None:
        """As `Window.correct`."""


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


class KeyLimits:
    """Windows of the keys that have limits, made when first used."""

    def __init__(self, windows: Windows | None = None) -> None:
        self.windows = windows or Windows()
        self._of_keys: dict[bytes, tuple[AnyWindow | None, AnyWindow | None]] = {}

    @property
    def is_counted_together(self) -> bool:
        """By a server, for several machines."""
        return self.windows.server is not None

    def is_asked_of_server(self, api_key: ApiKey) -> bool:
        """Whether `take_together` is to be awaited in place of `take`."""
        return self.windows.server is not None and _is_limited(api_key)

    def take(self, api_key: ApiKey, *, now_s: float, now_unix_s: float, tokens: int, requests: int = 1) -> bytes:
        """Count a request, or none where it only looks, and reserve its tokens; the `x-ratelimit-*` header lines, b""
        for a key without limits. They tell of requests, or of tokens when only these are limited.

        Raises LimitExceeded with the seconds after which it fits, Refusal when it never will: then nothing is
        counted."""
        if not _is_limited(api_key):
            return b""
        requests_window, tokens_window = self._of(api_key, now_s)
        if tokens_window is not None:
            _check_fits(tokens, tokens_window.per_minute)
            decision = tokens_window.take(now_s, tokens)
            if not decision.is_allowed:
                untouched = decision if requests_window is None else requests_window.take(now_s, 0)
                raise LimitExceeded(decision, _headers(untouched, now_unix_s))
            if requests_window is None:
                return _headers(decision, now_unix_s)
        assert requests_window is not None
        decision = requests_window.take(now_s, requests)
        if not decision.is_allowed:
            if tokens_window is not None:
                tokens_window.correct(now_s, -tokens, taken_at_s=now_s)
            raise LimitExceeded(decision, _headers(decision, now_unix_s))
        return _headers(decision, now_unix_s)

    async def take_together(
        self, api_key: ApiKey, *, now_s: float, now_unix_s: float, tokens: int
    ) -> tuple[bytes, int]:
        """As `take`, by the server's count, with the bucket that it counted in; by our part of the limit, and -1, when
        it does not answer within its bound. What the server lets through is counted here too: our part is not free
        anew when it goes away."""
        server = self.windows.server
        assert server is not None
        limits = ((b"t", api_key.tokens_per_minute, tokens), (b"r", api_key.requests_per_minute, 1))
        asked = [Asked(kind + api_key.id, limit, amount) for kind, limit, amount in limits if limit is not None]
        if api_key.tokens_per_minute is not None:
            _check_fits(tokens, api_key.tokens_per_minute)
        try:
            decisions, bucket = await server.take(asked)
        except LimitsUnavailable:
            return self.take(api_key, now_s=now_s, now_unix_s=now_unix_s, tokens=tokens), -1
        told = _headers(decisions[-1], now_unix_s)
        for decision in decisions:
            if not decision.is_allowed:
                raise LimitExceeded(decision, told)
        requests, tokens_window = self._of(api_key, now_s)
        for window, amount in ((requests, 1), (tokens_window, tokens)):
            if window is not None:
                window.correct(now_s, amount, taken_at_s=now_s)
        return told, bucket

    def correct(self, reserved: Reservation, used_tokens: int, now_s: float) -> None:
        """Replace what was reserved by what was used."""
        delta = used_tokens - reserved.tokens
        _, window = self._of_keys.get(reserved.key_id, (None, None))
        if window is not None:
            window.correct(now_s, delta, taken_at_s=reserved.taken_at_s)
        if self.windows.server is not None and reserved.server_bucket >= 0:
            self.windows.server.correct(b"t" + reserved.key_id, delta, reserved.server_bucket)

    def _of(self, api_key: ApiKey, now_s: float) -> tuple[AnyWindow | None, AnyWindow | None]:
        """The key's two windows, with the limits that it has now: what they have counted stays."""
        requests, tokens = self._of_keys.get(api_key.id, (None, None))
        requests = self._with_limit(requests, b"r" + api_key.id, api_key.requests_per_minute, now_s)
        tokens = self._with_limit(tokens, b"t" + api_key.id, api_key.tokens_per_minute, now_s)
        self._of_keys[api_key.id] = requests, tokens
        return requests, tokens

    def _with_limit(
        self, window: AnyWindow | None, name: bytes, per_minute: int | None, now_s: float
    ) -> AnyWindow | None:
        if per_minute is None:
            return None
        part = self.windows.part(per_minute)
        if window is None:
            return self.windows.make(name, part, now_s)
        window.per_minute = part
        return window


def _is_limited(api_key: ApiKey) -> bool:
    return api_key.requests_per_minute is not None or api_key.tokens_per_minute is not None


def _check_fits(tokens: int, limit: int) -> None:
    if tokens > limit:
        raise invalid("max_tokens", f"This may take {tokens} tokens, and the key has {limit} a minute.")


def _headers(decision: Decision, now_unix_s: float) -> bytes:
    return b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n" % (
        decision.limit,
        decision.remaining,
        math.ceil(now_unix_s + decision.reset_s),
    )
