"""What one caller may take of this process at a time: requests under way, and failed keys."""

from __future__ import annotations

import math

from waypost.gateway.limits import AnyWindow, Windows
from waypost.kit.crypto import hmac_sha256
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.address import site_of
from waypost.policy.rate_limit import Asked, Decision, LimitsUnavailable
from waypost.tenancy.api_key import ApiKey

IN_FLIGHT = 1000  # of an organisation, and of a key
FAILED_KEYS_PER_MINUTE = 30  # from one address
ADDRESSES_MAX = 4096  # that are remembered; the one that has been quiet longest is forgotten


class InFlight:
    """Requests under way by organisation and by key. The limits may be changed at any time."""

    __slots__ = ("_of_key", "_of_org", "per_key", "per_org", "workers")

    def __init__(self, *, per_org: int = IN_FLIGHT, per_key: int = IN_FLIGHT, workers: int = 1) -> None:
        """For all `workers` together; this process has an even share of it."""
        self.per_org = per_org
        self.per_key = per_key
        self.workers = workers
        self._of_org: dict[bytes, int] = {}
        self._of_key: dict[bytes, int] = {}

    def __len__(self) -> int:
        return sum(self._of_org.values())

    def check(self, api_key: ApiKey) -> None:
        """Raises Refusal (429) when one more would be too many: by the key's and its organisation's own bounds, else
        by those of all."""
        of_key, of_org = self._of_key.get(api_key.id, 0), self._of_org.get(api_key.org_id, 0)
        if of_key and of_key >= self._share(api_key.in_flight_max or self.per_key):
            raise Refusal(ErrorCode.RATE_LIMITED, "Too many requests at the same time. Wait for one.", retry_after_s=1)
        if of_org and of_org >= self._share(api_key.org_in_flight_max or self.per_org):
            raise Refusal(ErrorCode.RATE_LIMITED, "Too many requests at the same time. Wait for one.", retry_after_s=1)

    def _share(self, limit: int) -> int:
        return max(1, limit // self.workers)

    def begin(self, org_id: bytes, api_key_id: bytes) -> None:
        self._of_org[org_id] = self._of_org.get(org_id, 0) + 1
        self._of_key[api_key_id] = self._of_key.get(api_key_id, 0) + 1

    def end(self, org_id: bytes, api_key_id: bytes) -> None:
        for counts, each in ((self._of_org, org_id), (self._of_key, api_key_id)):
            left = counts.get(each, 0) - 1
            if left > 0:
                counts[each] = left
            else:
                counts.pop(each, None)


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
