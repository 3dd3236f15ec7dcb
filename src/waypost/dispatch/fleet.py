"""The live side of the catalogue: a connection pool per origin, a gate per provider, and how each credential fares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol
from urllib.parse import urlsplit

from waypost.dispatch.egress import Egress, origin_of
from waypost.dispatch.gate import Gate
from waypost.dispatch.health import Health
from waypost.dispatch.pace import Pace
from waypost.policy.catalogue import CancelBilling, Provider
from waypost.policy.snapshot import Route, View
from waypost.providers import MODALITIES
from waypost.providers.kind import ProviderKind, Target
from waypost.telemetry.events import CredentialUnusable, emit, report_bug
from waypost.telemetry.metrics import Counter
from waypost.transport.http1_client import Pool
from waypost.transport.limits import CallTimeouts
from waypost.transport.origin import Origin

_EARLIER_MAX = 64  # deployments of earlier versions, kept at hand


class SecretReader(Protocol):
    """Where the secrets behind references are."""

    def __call__(self, reference: str) -> str:
        """`env:NAME` or `file:PATH` → the secret. Raises LookupError when it is not there."""

    def has_changed(self) -> bool:
        """Whether a secret read before may be another one now."""


class Credential:
    """One key of a provider's pool, as calls of one deployment carry it."""

    __slots__ = ("health", "target")

    def __init__(self, target: Target, health: Health) -> None:
        self.target = target
        self.health = health


class LiveDeployment:
    """One deployment as it can be reached: where, by which credentials, through which gate."""

    __slots__ = ("_next", "credentials", "deployment", "gate", "pool", "provider")

    def __init__(self, route: Route, pool: Pool, gate: Gate, credentials: tuple[Credential, ...]) -> None:
        self.provider = route.provider
        self.deployment = route.deployment
        self.pool = pool
        self.gate = gate
        self.credentials = credentials
        self._next = 0

    def is_ready(self, now_s: float) -> bool:
        """Whether any credential may be used: none of its circuit and its rest stands against it."""
        for credential in self.credentials:  # noqa: SIM110  `any` costs a microsecond more
            if credential.health.is_ready(now_s):
                return True
        return False

    def is_last_resort(self, now_s: float) -> bool:
        """Whether it is to be called all the same when no other route is ready."""
        return any(credential.health.is_last_resort(now_s) for credential in self.credentials)

    def is_passable(self, now_s: float) -> bool:
        """Whether a circuit lets through a request that was here before; a rest is the failure's own to tell."""
        return any(
            credential.health.circuit.blocked_until_s <= now_s or not credential.health.circuit.is_total
            for credential in self.credentials
        )

    def wait_s(self, now_s: float) -> float:
        """Until a credential may be used again, as far as that can be told."""
        return min(credential.health.wait_s(now_s) for credential in self.credentials)

    def credential(self, now_s: float) -> Credential:
        """The next credential in turn that is ready; else one of last resort; else the one that will be ready first."""
        count = len(self.credentials)
        if count == 1:
            return self.credentials[0]
        for step in range(count):
            index = (self._next + step) % count
            if self.credentials[index].health.is_ready(now_s):
                self._next = index + 1
                return self.credentials[index]
        return min(
            self.credentials,
            key=lambda credential: (not credential.health.is_last_resort(now_s), credential.health.wait_s(now_s)),
        )


class LiveRoute(LiveDeployment):
    """One deployment of a provider whose kind answers calls."""

    __slots__ = ("call_timeouts", "costs", "kind", "pace", "route", "stops_billing_on_cancel", "stream_timeouts")

    def __init__(
        self, route: Route, kind: ProviderKind, pool: Pool, gate: Gate, credentials: tuple[Credential, ...]
    ) -> None:
        super().__init__(route, pool, gate, credentials)
        self.route = route
        self.costs = route.deployment.cost
        self.stops_billing_on_cancel = route.provider.cancel_stops_billing is CancelBilling.YES
        self.kind = kind
        self.pace = Pace()
        limits = route.provider.timeouts
        self.call_timeouts = CallTimeouts(
            connect_s=limits.connect_s, first_byte_s=None, idle_s=limits.total_s, total_s=limits.total_s
        )
        self.stream_timeouts = CallTimeouts(
            connect_s=limits.connect_s,
            first_byte_s=limits.thinking_first_byte_s if route.is_thinking else limits.first_byte_s,
            idle_s=limits.idle_s,
            total_s=limits.stream_total_s,
        )


class Fleet:
    """Every deployment of the newest catalogue. Executions under way hold on to the live routes they began with. The
    pool of an origin stays when the catalogue no longer names it; its idle connections close by themselves."""

    def __init__(
        self,
        read_secret: SecretReader,
        dice: Callable[[], float],
        *,
        circuits_opened: Counter | None = None,
        credentials_rested: Counter | None = None,
        bulkheads_refused: Counter | None = None,
        repetitions_refused: Counter | None = None,
    ) -> None:
        self._read_secret = read_secret
        self._dice = dice
        self._circuits_opened = circuits_opened or Counter("circuits_opened", "", ("provider", "deployment"))
        self.credentials_rested = credentials_rested or Counter("credentials_rested", "", ("provider", "deployment"))
        self._bulkheads_refused = bulkheads_refused or Counter("bulkheads_refused", "", ("provider",))
        self._repetitions_refused = repetitions_refused or Counter("repetitions_refused", "", ("provider",))
        self._egress = Egress()
        self._view: View | None = None
        self._pools: dict[Origin, Pool] = {}
        self._gates: dict[str, Gate] = {}
        self._healths: dict[tuple[str, str, str, str], Health] = {}
        self._routes: dict[tuple[str, str], LiveRoute] = {}
        self._deployments: dict[str, LiveDeployment] = {}
        self.generation = 0
        """Another number whenever live routes have been made anew."""
        self._earlier: dict[tuple[int, str], LiveDeployment] = {}

    def use(self, egress: Egress) -> None:
        """Calls from now on go this way; those under way go on."""
        self._egress = egress
        if self._view is not None:
            self.adopt(self._view)

    def adopt(self, view: View) -> None:
        """Make live what the view names. A credential that cannot be read is left out, and told; a deployment without
        any is not routable until it can. Circuits, rests and calls under way go on under the new settings."""
        routes: dict[tuple[str, str], LiveRoute] = {}
        deployments: dict[str, LiveDeployment] = {}
        healths: dict[tuple[str, str, str, str], Health] = {}
        unusable: set[str] = set()
        for model_view in view.models:
            for route in model_view.routes:
                live = self._make(model_view.model.modality, route, healths, unusable)
                if live is not None:
                    deployments.setdefault(live.deployment.id, live)
                if isinstance(live, LiveRoute):
                    routes[model_view.model.slug, route.deployment.id] = live
        self._routes = routes
        self.generation += 1
        self._deployments = deployments
        self._healths = healths
        self._earlier.clear()
        self._view = view
        for provider in sorted(unusable):
            emit(CredentialUnusable(provider=provider))

    def has_changed_credentials(self) -> bool:
        """Whether to adopt the same view again."""
        return self._read_secret.has_changed()

    def live(self, model: str, route: Route) -> LiveRoute | None:
        """The route as it can be called, None when it cannot."""
        return self._routes.get((model, route.deployment.id))

    def deployment(self, deployment_id: str) -> LiveDeployment | None:
        """The deployment as it can be reached, None when it cannot."""
        return self._deployments.get(deployment_id)

    def earlier(self, view: View, deployment_id: str) -> LiveDeployment | None:
        """A deployment of an earlier version, for what is still at its provider; None when it cannot be reached. What
        the newest version says of a provider and its credentials holds for it too."""
        named = view.version, deployment_id
        live = self._earlier.get(named)
        if live is None:
            found = ((each.model.modality, route) for each in view.models for route in each.routes)
            for modality, route in found:
                if route.deployment.id == deployment_id:
                    live = self._make(modality, route, dict(self._healths), set(), is_newest=False)
                    break
            if live is not None:
                while len(self._earlier) >= _EARLIER_MAX:
                    del self._earlier[next(iter(self._earlier))]
                self._earlier[named] = live
        return live

    def deployments(self) -> Iterator[LiveDeployment]:
        """Every deployment that can be reached."""
        return iter(self._deployments.values())

    def gates(self) -> dict[str, Gate]:
        """By provider, those of earlier catalogues too."""
        return self._gates

    def _make(
        self,
        modality: str,
        route: Route,
        healths: dict[tuple[str, str, str, str], Health],
        unusable: set[str],
        *,
        is_newest: bool = True,
    ) -> LiveDeployment | None:
        kind = MODALITIES.get(modality, {}).get(route.provider.kind)
        secrets = []
        for reference in route.provider.api_keys:
            try:
                secrets.append(self._read_secret(reference))
            except LookupError:
                unusable.add(route.provider.id)
        if not secrets:
            return None
        origin = origin_of(route.provider.base_url, self._egress)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(origin, on_bug=report_bug)
        parts = urlsplit(route.provider.base_url)
        targets = [
            Target(
                host_header=parts.netloc.encode(),
                path_prefix=parts.path.rstrip("/"),
                credential=secret,
                upstream_model=route.deployment.upstream_model,
                headers=tuple(route.provider.headers.items()),
                changes=route.deployment.request,
                expose=route.deployment.expose,
                error_rules=route.provider.error_map,
                provider=route.provider.id,
                credential_header=route.provider.credential_header,
                api_version=route.provider.api_version,
            )
            for secret in secrets
        ]
        healths_of = [self._health(route, secret, healths, is_newest=is_newest) for secret in secrets]
        gate = self._gate(route.provider, is_newest=is_newest)
        if kind is None:  # it answers no calls; what it does is asked by errands
            return LiveDeployment(route, pool, gate, tuple(map(Credential, targets, healths_of)))
        credentials = tuple(map(Credential, map(kind.prepare, targets), healths_of))
        return LiveRoute(route, kind, pool, gate, credentials)

    def _health(
        self, route: Route, secret: str, healths: dict[tuple[str, str, str, str], Health], *, is_newest: bool
    ) -> Health:
        """That of the same credential for the same model at the same address, from whichever version."""
        provider, deployment = route.provider, route.deployment
        named = (provider.id, provider.base_url, deployment.upstream_model, secret)
        health = healths.get(named) or self._healths.get(named)
        if health is None:
            health = Health(
                provider.id,
                deployment.id,
                provider.breaker,
                self._dice,
                opened=self._circuits_opened,
                rested=self.credentials_rested,
            )
        if is_newest:
            health.circuit.adopt(provider.breaker)
        healths[named] = health
        return health

    def _gate(self, provider: Provider, *, is_newest: bool) -> Gate:
        gate = self._gates.get(provider.id)
        if gate is None:
            gate = self._gates[provider.id] = Gate(
                provider.id,
                provider.bulkhead,
                refused=self._bulkheads_refused,
                unrepeated=self._repetitions_refused,
            )
        if is_newest:
            gate.adopt(provider.bulkhead)
        return gate

    def connections(self) -> tuple[int, int]:
        """Idle and open upstream connections."""
        return sum(pool.idle for pool in self._pools.values()), sum(pool.open for pool in self._pools.values())

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
