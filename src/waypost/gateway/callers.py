"""How many failed keys one address may try."""

from __future__ import annotations

import math

from waypost.gateway.limits import AnyWindow, Windows
from waypost.kit.crypto import hmac_sha256
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.address import site_of
from waypost.policy.rate_limit import Asked, Decision, LimitsUnavailable

FAILED_KEYS_PER_MINUTE = 30  # from one address
ADDRESSES_MAX = 4096  # that are remembered; the one that has been quiet longest is forgotten


class FailedKeys:
    """Slows down whoever guesses keys. A valid key is never asked about here, wherever it comes from."""

    def __init__(self, windows: Windows | None = None, secret: bytes = b"") -> None:
        """`secret` names an address to others: what counts for several processes never holds one in the clear."""
        self._shared = windows or Windows()
        self._secret = secret
        self._windows: dict[str, AnyWindow] = {}  # the one used last stands last

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, host: str, now_s: float) -> None:
        """A key from this address was refused. Raises Refusal: 429 instead of 401 once there were too many."""
        site = site_of(host)
        window = self._windows.pop(site, None)
        if window is None:
            window = self._shared.make(self._name(site), FAILED_KEYS_PER_MINUTE, now_s)
            if len(self._windows) >= ADDRESSES_MAX:
                del self._windows[next(iter(self._windows))]
        window.per_minute = self._shared.part(FAILED_KEYS_PER_MINUTE)
        self._windows[site] = window
        _check(window.take(now_s))

    async def count_together(self, host: str, now_s: float) -> None:
        """The same by the server that counts for all machines, as long as it answers."""
        server = self._shared.server
        assert server is not None
        try:
            decisions, _ = await server.take([Asked(self._name(site_of(host)), FAILED_KEYS_PER_MINUTE, 1)])
        except LimitsUnavailable:
            self.count(host, now_s)
        else:
            _check(decisions[0])

    def _name(self, site: str) -> bytes:
        return b"a" + hmac_sha256(self._secret, b"site|" + site.encode())[:16]


def _check(decision: Decision) -> None:
    if not decision.is_allowed:
        raise Refusal(
            ErrorCode.RATE_LIMITED,
            "Too many requests without a valid API key. Wait and try again.",
            retry_after_s=max(1, math.ceil(decision.reset_s)),
        )
