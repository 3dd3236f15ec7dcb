"""How the providers fare in this process at the moment: what `doctor` shows and the metrics count."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waypost.dispatch.fleet import Fleet
from waypost.policy.circuit import Phase


class ProviderStatus(msgspec.Struct, frozen=True):
    """Its places."""

    provider: str
    in_flight: int
    in_flight_max: int
    waiting: int


class CredentialStatus(msgspec.Struct, frozen=True):
    """One credential of a deployment; `position` is that in `api_keys`, from 1."""

    provider: str
    deployment: str
    position: int
    circuit: str
    blocked_s: float  # until calls go through again, as far as that is known
    rests_s: float

    @property
    def is_ready(self) -> bool:
        return self.circuit == Phase.CLOSED.value and not self.rests_s


class FleetStatus(msgspec.Struct, frozen=True):
    providers: tuple[ProviderStatus, ...]
    credentials: tuple[CredentialStatus, ...]

    def open_circuits(self) -> dict[tuple[str, ...], float]:
        """By provider and deployment, how many credentials have a circuit that is not closed."""
        return self._count(lambda each: each.circuit != Phase.CLOSED.value)

    def resting(self) -> dict[tuple[str, ...], float]:
        """By provider and deployment, how many credentials rest."""
        return self._count(lambda each: each.rests_s > 0)

    def _count(self, counts: Callable[[CredentialStatus], bool]) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for each in self.credentials:
            named = (each.provider, each.deployment)
            found[named] = found.get(named, 0) + counts(each)
        return found


def status_of(fleet: Fleet, now_s: float) -> FleetStatus:
    """Every provider that calls were made to, and every deployment of the catalogue, once."""
    providers = tuple(
        ProviderStatus(name, gate.places.in_flight, gate.places.settings.in_flight, gate.places.waiting)
        for name, gate in sorted(fleet.gates().items())
    )
    credentials: dict[tuple[str, int], CredentialStatus] = {}
    for live in fleet.deployments():
        for position, credential in enumerate(live.credentials, 1):
            health = credential.health
            blocked_s = health.wait_s(now_s) if health.circuit.phase is not Phase.CLOSED else 0.0
            credentials[live.deployment.id, position] = CredentialStatus(
                provider=live.provider.id,
                deployment=live.deployment.id,
                position=position,
                circuit=health.circuit.phase.value,
                blocked_s=round(max(0.0, blocked_s), 1),
                rests_s=round(max(0.0, health.rests_until_s - now_s), 1),
            )
    return FleetStatus(providers, tuple(credentials[named] for named in sorted(credentials)))
