"""The live side of the catalogue: a connection pool per origin, and the credentials of each provider."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

from waypost.policy.catalogue import CancelBilling
from waypost.policy.snapshot import Route, View
from waypost.providers import KINDS
from waypost.providers.kind import ProviderKind, Target
from waypost.telemetry.events import CredentialUnusable, emit, report_bug
from waypost.transport.http1_client import Origin, Pool
from waypost.transport.limits import CallTimeouts
from waypost.transport.tls import client_context

COOL_DOWN_S = 10.0  # after a 429 that names no time
COOL_DOWN_MAX_S = 120.0


class SecretReader(Protocol):
    """Where the secrets behind references are."""

    def __call__(self, reference: str) -> str:
        """`env:NAME` or `file:PATH` → the secret. Raises LookupError when it is not there."""

    def has_changed(self) -> bool:
        """Whether a secret read before may be another one now."""


class Credential:
    """One key of a provider's pool; after a 429 it rests."""

    __slots__ = ("rests_until_s", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.rests_until_s = 0.0

    def rest(self, now_s: float, retry_after_s: float | None) -> None:
        wanted = COOL_DOWN_S if retry_after_s is None else retry_after_s
        self.rests_until_s = max(self.rests_until_s, now_s + min(wanted, COOL_DOWN_MAX_S))


class LiveRoute:
    """One deployment, ready to be called."""

    __slots__ = (
        "_credentials",
        "_next",
        "call_timeouts",
        "costs",
        "deployment",
        "kind",
        "pool",
        "provider",
        "route",
        "stops_billing_on_cancel",
        "stream_timeouts",
    )

    def __init__(self, route: Route, kind: ProviderKind, pool: Pool, credentials: tuple[Credential, ...]) -> None:
        self.route = route
        self.provider = route.provider
        self.deployment = route.deployment
        self.costs = route.deployment.cost
        self.stops_billing_on_cancel = route.provider.cancel_stops_billing is CancelBilling.YES
        self.kind = kind
        self.pool = pool
        self._credentials = credentials
        self._next = 0
        limits = route.provider.timeouts
        self.call_timeouts = CallTimeouts(
            connect_s=limits.connect_s, first_byte_s=None, idle_s=limits.total_s, total_s=limits.total_s
        )
        self.stream_timeouts = CallTimeouts(
            connect_s=limits.connect_s,
            first_byte_s=limits.first_byte_s,
            idle_s=limits.idle_s,
            total_s=limits.stream_total_s,
        )

    def is_rested(self, now_s: float) -> bool:
        for credential in self._credentials:  # noqa: SIM110  `any` costs a microsecond more
            if credential.rests_until_s <= now_s:
                return True
        return False

    def credential(self, now_s: float) -> Credential:
        """The next rested credential in turn, or the one that will be rested first."""
        count = len(self._credentials)
        for step in range(count):
            index = (self._next + step) % count
            if self._credentials[index].rests_until_s <= now_s:
                self._next = index + 1
                return self._credentials[index]
        return min(self._credentials, key=lambda credential: credential.rests_until_s)


class Fleet:
    """Every deployment of the newest catalogue. Executions under way hold on to the live routes they began with. The
    pool of an origin stays when the catalogue no longer names it; its idle connections close by themselves."""

    def __init__(self, read_secret: SecretReader) -> None:
        self._read_secret = read_secret
        self._pools: dict[Origin, Pool] = {}
        self._routes: dict[tuple[str, str], LiveRoute] = {}

    def adopt(self, view: View) -> None:
        """Make live what the view names. A credential that cannot be read is left out, and told; a deployment without
        any is not routable until it can."""
        routes: dict[tuple[str, str], LiveRoute] = {}
        unusable: set[str] = set()
        for model_view in view.models:
            for route in model_view.routes:
                live = self._make(route, unusable)
                if live is not None:
                    routes[model_view.model.slug, route.deployment.id] = live
        self._routes = routes
        for provider in sorted(unusable):
            emit(CredentialUnusable(provider=provider))

    def has_changed_credentials(self) -> bool:
        """Whether to adopt the same view again."""
        return self._read_secret.has_changed()

    def live(self, model: str, route: Route) -> LiveRoute | None:
        """The route as it can be called, None when it cannot."""
        return self._routes.get((model, route.deployment.id))

    def _make(self, route: Route, unusable: set[str]) -> LiveRoute | None:
        secrets = []
        for reference in route.provider.api_keys:
            try:
                secrets.append(self._read_secret(reference))
            except LookupError:
                unusable.add(route.provider.id)
        if not secrets:
            return None
        origin = _origin(route.provider.base_url)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin, on_bug=report_bug)
        kind = KINDS[route.provider.kind]
        parts = urlsplit(route.provider.base_url)
        credentials = tuple(
            Credential(
                kind.prepare(
                    Target(
                        host_header=parts.netloc.encode(),
                        path_prefix=parts.path.rstrip("/"),
                        credential=secret,
                        upstream_model=route.deployment.upstream_model,
                        headers=tuple(route.provider.headers.items()),
                        changes=route.deployment.request,
                        expose=route.deployment.expose,
                        error_rules=route.provider.error_map,
                    )
                )
            )
            for secret in secrets
        )
        return LiveRoute(route, kind, pool, credentials)

    def connections(self) -> tuple[int, int]:
        """Idle and open upstream connections."""
        return sum(pool.idle for pool in self._pools.values()), sum(pool.open for pool in self._pools.values())

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()


def _origin(base_url: str) -> Origin:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return Origin(host=host, port=parts.port or 443, ssl_context=client_context(), server_hostname=host)
    return Origin(host=host, port=parts.port or 80)
