"""How one credential fares at one model of a provider: its circuit, and its rest after a 429."""

from __future__ import annotations

from collections.abc import Callable

from waypost.policy.catalogue import Breaker
from waypost.policy.circuit import Circuit, Phase, Verdict
from waypost.telemetry.events import CircuitClosed, CircuitOpened, emit
from waypost.telemetry.metrics import Counter

COOL_DOWN_S = 10.0  # after a 429 that names no time
COOL_DOWN_S_MIN = 1.0  # whatever it names, so that others are asked meanwhile
COOL_DOWN_S_MAX = 120.0


class Health:
    """Outlives the versions of the catalogue: what rests goes on resting. Times are seconds of the loop's clock."""

    __slots__ = ("_deployment", "_dice", "_is_told", "_opened", "_provider", "_rested", "circuit", "rests_until_s")

    def __init__(
        self,
        provider: str,
        deployment: str,
        breaker: Breaker,
        dice: Callable[[], float],
        *,
        opened: Counter,
        rested: Counter,
    ) -> None:
        self.circuit = Circuit(breaker)
        self.rests_until_s = 0.0
        self._is_told = False  # the provider itself named the time
        self._provider = provider
        self._deployment = deployment
        self._dice = dice
        self._opened = opened
        self._rested = rested

    def is_ready(self, now_s: float) -> bool:
        return self.rests_until_s <= now_s and self.circuit.blocked_until_s <= now_s

    def is_last_resort(self, now_s: float) -> bool:
        """Not ready, and yet to be called when nobody else is: some of its calls succeed, or the rest is our guess."""
        if self.rests_until_s > now_s and self._is_told:
            return False
        return self.circuit.blocked_until_s <= now_s or not self.circuit.is_total

    def wait_s(self, now_s: float) -> float:
        """Until it is ready, as far as that can be told."""
        if self.circuit.phase is Phase.HALF_OPEN:
            return max(1.0, self.rests_until_s - now_s)
        return max(self.rests_until_s, self.circuit.blocked_until_s) - now_s

    def rest(self, now_s: float, retry_after_s: float | None) -> None:
        """The provider wants no more calls from this credential for a while."""
        self._rested.add(self._provider, self._deployment)
        wanted_s = COOL_DOWN_S if retry_after_s is None else max(COOL_DOWN_S_MIN, retry_after_s)
        until_s = now_s + min(wanted_s, COOL_DOWN_S_MAX)
        if until_s > self.rests_until_s:
            self.rests_until_s = until_s
            self._is_told = retry_after_s is not None

    def begin(self, now_s: float) -> int:
        """A call begins; its permit."""
        return self.circuit.begin(now_s)

    def end(self, permit: int, verdict: Verdict, now_s: float) -> None:
        """The call has ended."""
        phase = self.circuit.end(permit, verdict, now_s, self._dice)
        if phase is None:
            return
        if phase is Phase.OPEN:
            self._opened.add(self._provider, self._deployment)
            open_s = round(self.circuit.blocked_until_s - now_s, 1)
            emit(CircuitOpened(provider=self._provider, deployment=self._deployment, open_s=open_s))
        elif phase is Phase.CLOSED:
            emit(CircuitClosed(provider=self._provider, deployment=self._deployment))
