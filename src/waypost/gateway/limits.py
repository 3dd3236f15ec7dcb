"""Rate limits of keys in this process: requests and tokens per minute, and the headers that tell of them."""

from __future__ import annotations

import math

import msgspec

from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.policy.rate_limit import Decision, Window
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


class KeyLimits:
    """Windows of the keys that have limits, made when first used. Of several processes each allows its part, rounded
    down, so that together they allow the limit at most. But each allows one, or no call would ever be let through: of
    a limit smaller than the number of processes they allow that number."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._windows: dict[bytes, tuple[Window | None, Window | None]] = {}

    def take(self, api_key: ApiKey, *, now_s: float, now_unix_s: float, tokens: int) -> bytes:
        """Count a request and reserve its tokens; the `x-ratelimit-*` header lines, b"" for a key without limits. They
        tell of requests, or of tokens when only these are limited.

        Raises LimitExceeded with the seconds after which it fits, Refusal when it never will: then nothing is
        counted."""
        if api_key.requests_per_minute is None and api_key.tokens_per_minute is None:
            return b""
        requests, tokens_window = self._of(api_key)
        if tokens_window is not None:
            if tokens > tokens_window.per_minute:
                limit = tokens_window.per_minute
                raise invalid("max_tokens", f"This may take {tokens} tokens, and the key has {limit} a minute.")
            decision = tokens_window.take(now_s, tokens)
            if not decision.is_allowed:
                untouched = decision if requests is None else requests.take(now_s, 0)
                raise LimitExceeded(decision, _headers(untouched, now_unix_s))
            if requests is None:
                return _headers(decision, now_unix_s)
        assert requests is not None
        decision = requests.take(now_s, 1)
        if not decision.is_allowed:
            if tokens_window is not None:
                tokens_window.correct(now_s, -tokens, taken_at_s=now_s)
            raise LimitExceeded(decision, _headers(decision, now_unix_s))
        return _headers(decision, now_unix_s)

    def correct(self, reserved: Reservation, used_tokens: int, now_s: float) -> None:
        """Replace what was reserved by what was used."""
        _, window = self._windows.get(reserved.key_id, (None, None))
        if window is not None:
            window.correct(now_s, used_tokens - reserved.tokens, taken_at_s=reserved.taken_at_s)

    def _of(self, api_key: ApiKey) -> tuple[Window | None, Window | None]:
        windows = self._windows.get(api_key.id)
        parts = self._part(api_key.requests_per_minute), self._part(api_key.tokens_per_minute)
        if windows is None or _limit_of(windows) != parts:
            requests, tokens = parts
            windows = self._windows[api_key.id] = (
                None if requests is None else Window(requests),
                None if tokens is None else Window(tokens),
            )
        return windows

    def _part(self, per_minute: int | None) -> int | None:
        return None if per_minute is None else max(1, per_minute // self._processes)


def _limit_of(windows: tuple[Window | None, Window | None]) -> tuple[int | None, int | None]:
    requests, tokens = windows
    return None if requests is None else requests.per_minute, None if tokens is None else tokens.per_minute


def _headers(decision: Decision, now_unix_s: float) -> bytes:
    return b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n" % (
        decision.limit,
        decision.remaining,
        math.ceil(now_unix_s + decision.reset_s),
    )
