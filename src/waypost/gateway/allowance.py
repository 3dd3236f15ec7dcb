"""What a key may take of this process: so many calls under way, and so much a minute. Each call takes its part from its
admission to its end: a place, one of the requests of a minute, and the tokens that it may come to, until it is known
how many they were.
"""

from __future__ import annotations

from waypost.gateway.limits import AnyWindow, LimitExceeded, Windows, header_lines, never_fits
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.rate_limit import Asked, LimitsUnavailable
from waypost.tenancy.api_key import ApiKey

IN_FLIGHT = 1000  # of an organisation, and of a key
_KEPT = 10_000  # keys, some 5 MB; beyond twice those that are in use, the quiet ones are forgotten


class _Organisation:
    __slots__ = ("under_way",)

    def __init__(self) -> None:
        self.under_way = 0


class Allowance:
    """Of one key as it is known now. What follows from its limits and the settings is worked out once, so that a call
    compares and adds whole numbers. It authenticates nobody: the keyring is asked first, each time."""

    __slots__ = (
        *("api_key", "is_asked_of_server", "most", "organisation", "organisation_most", "requests", "tokens"),
        "under_way",
    )

    def __init__(self, api_key: ApiKey, organisation: _Organisation) -> None:
        self.api_key = api_key
        self.organisation = organisation
        self.requests: AnyWindow | None = None
        self.tokens: AnyWindow | None = None
        self.is_asked_of_server = False  # `Allowances.take_together` is to be awaited in place of `take`
        self.under_way = 0
        self.most = 1  # calls under way of this key, and
        self.organisation_most = 1  # of its organisation, in this process; one at least

    def check_place(self) -> None:
        """Raises Refusal (429) when one more call would be too many."""
        if self.under_way >= self.most or self.organisation.under_way >= self.organisation_most:
            raise Refusal(ErrorCode.RATE_LIMITED, "Too many requests at the same time. Wait for one.", retry_after_s=1)

    def begin(self, tokens: int, *, now_s: float, now_unix_s: float) -> bytes:
        """Take a place, and where no server counts do as `take`. Raises as it does, and as `check_place`: then nothing
        is taken."""
        organisation = self.organisation
        # Here and in `take` what is nearly never so is asked without a function more, a quarter of a microsecond each.
        if self.under_way >= self.most or organisation.under_way >= self.organisation_most:
            self.check_place()
        headers = b"" if self.is_asked_of_server else self.take(now_s=now_s, now_unix_s=now_unix_s, tokens=tokens)
        self.under_way += 1
        organisation.under_way += 1
        return headers

    def leave_place(self) -> None:
        self.under_way -= 1
        self.organisation.under_way -= 1

    def take(self, *, now_s: float, now_unix_s: float, tokens: int, requests: int = 1) -> bytes:
        """Count a request, or none where it only looks, and reserve its tokens; the `x-ratelimit-*` header lines, b""
        for a key without limits. They tell of requests, or of tokens when only these are limited.

        Raises LimitExceeded with the seconds after which it fits, Refusal when it never will: then nothing is
        counted."""
        requests_window, tokens_window = self.requests, self.tokens
        if tokens_window is not None:
            if tokens > tokens_window.per_minute:
                raise never_fits(tokens, tokens_window.per_minute)
            decision = tokens_window.take(now_s, tokens)
            if not decision.is_allowed:
                untouched = decision if requests_window is None else requests_window.take(now_s, 0)
                raise LimitExceeded(decision, header_lines(untouched, now_unix_s))
            if requests_window is None:
                return header_lines(decision, now_unix_s)
        elif requests_window is None:
            return b""
        decision = requests_window.take(now_s, requests)
        if not decision.is_allowed:
            if tokens_window is not None:
                tokens_window.correct(now_s, -tokens, taken_at_s=now_s)
            raise LimitExceeded(decision, header_lines(decision, now_unix_s))
        return header_lines(decision, now_unix_s)


class Allowances:
    """Of every key that has called lately. The bounds of calls under way may be changed at any time by `bound`."""

    def __init__(
        self,
        windows: Windows | None = None,
        *,
        per_organisation: int = IN_FLIGHT,
        per_key: int = IN_FLIGHT,
        workers: int = 1,
    ) -> None:
        """The bounds are for all `workers` together; this process has an even share of them."""
        self.windows = windows or Windows()
        self.per_organisation = per_organisation
        self.per_key = per_key
        self._workers = workers
        self._of_keys: dict[bytes, Allowance] = {}
        self._organisations: dict[bytes, _Organisation] = {}
        self._kept_max = 2 * _KEPT

    def __len__(self) -> int:
        """Keys at hand."""
        return len(self._of_keys)

    @property
    def under_way(self) -> int:
        """Calls of this process."""
        return sum(each.under_way for each in self._organisations.values())

    @property
    def is_counted_together(self) -> bool:
        """By a server, for several machines."""
        return self.windows.server is not None

    def bound(self, *, per_organisation: int | None = None, per_key: int | None = None) -> None:
        """Of all keys that have no bounds of their own. In force at once."""
        self.per_organisation = per_organisation or self.per_organisation
        self.per_key = per_key or self.per_key
        for allowance in self._of_keys.values():
            self._bound(allowance)

    def of(self, api_key: ApiKey, now_s: float) -> Allowance:
        """The key's, with the limits that it has now: what has been counted stays."""
        allowance = self._of_keys.get(api_key.id)
        # The keyring has another object for a key that has changed. Machines come and go without one.
        if allowance is None or allowance.api_key is not api_key or self.windows.server is not None:
            allowance = self._renewed(allowance, api_key, now_s)
        return allowance

    async def take_together(
        self, allowance: Allowance, *, now_s: float, now_unix_s: float, tokens: int
    ) -> tuple[bytes, int]:
        """As `Allowance.take`, by the server's count, with the bucket that it counted in; by our part of the limit, and
        -1, when it does not answer within its bound. What the server lets through is counted here too: our part is not
        free anew when it goes away."""
        server, api_key = self.windows.server, allowance.api_key
        assert server is not None
        limits = ((b"t", api_key.tokens_per_minute, tokens), (b"r", api_key.requests_per_minute, 1))
        asked = [Asked(kind + api_key.id, limit, amount) for kind, limit, amount in limits if limit is not None]
        if api_key.tokens_per_minute is not None and tokens > api_key.tokens_per_minute:
            raise never_fits(tokens, api_key.tokens_per_minute)
        try:
            decisions, bucket = await server.take(asked)
        except LimitsUnavailable:
            return allowance.take(now_s=now_s, now_unix_s=now_unix_s, tokens=tokens), -1
        told = header_lines(decisions[-1], now_unix_s)
        for decision in decisions:
            if not decision.is_allowed:
                raise LimitExceeded(decision, told)
        for window, amount in ((allowance.requests, 1), (allowance.tokens, tokens)):
            if window is not None:
                window.correct(now_s, amount, taken_at_s=now_s)
        return told, bucket

    def correct_together(self, allowance: Allowance, delta: int, server_bucket: int) -> None:
        """Tell the server that a call has used so many tokens more than it counted then."""
        if self.windows.server is not None:
            self.windows.server.correct(b"t" + allowance.api_key.id, delta, server_bucket)

    def _renewed(self, allowance: Allowance | None, api_key: ApiKey, now_s: float) -> Allowance:
        if allowance is None:
            if len(self._of_keys) >= self._kept_max:
                self._forget_the_quiet(now_s)
            organisation = self._organisations.setdefault(api_key.org_id, _Organisation())
            allowance = self._of_keys[api_key.id] = Allowance(api_key, organisation)
        allowance.api_key = api_key
        allowance.requests = self._window(allowance.requests, b"r", api_key.requests_per_minute, api_key.id, now_s)
        allowance.tokens = self._window(allowance.tokens, b"t", api_key.tokens_per_minute, api_key.id, now_s)
        is_limited = allowance.requests is not None or allowance.tokens is not None
        allowance.is_asked_of_server = is_limited and self.windows.server is not None
        self._bound(allowance)
        return allowance

    def _window(
        self, window: AnyWindow | None, kind: bytes, per_minute: int | None, key_id: bytes, now_s: float
    ) -> AnyWindow | None:
        if per_minute is None:
            return None
        part = self.windows.part(per_minute)
        if window is None:
            return self.windows.make(kind + key_id, part, now_s)
        window.per_minute = part
        return window

    def _bound(self, allowance: Allowance) -> None:
        api_key = allowance.api_key
        allowance.most = max(1, (api_key.in_flight_max or self.per_key) // self._workers)
        allowance.organisation_most = max(1, (api_key.org_in_flight_max or self.per_organisation) // self._workers)

    def _forget_the_quiet(self, now_s: float) -> None:
        """Keys that nothing is under way of and nothing counted, and organisations that are left without any."""
        self._of_keys = {key_id: each for key_id, each in self._of_keys.items() if not _is_quiet(each, now_s)}
        named = {each.api_key.org_id for each in self._of_keys.values()}
        self._organisations = {org_id: each for org_id, each in self._organisations.items() if org_id in named}
        self._kept_max = 2 * max(_KEPT, len(self._of_keys))


def _is_quiet(allowance: Allowance, now_s: float) -> bool:
    windows = (allowance.requests, allowance.tokens)
    return not allowance.under_way and all(window is None or window.is_quiet(now_s) for window in windows)
