"""Which routes an execution may still take, once the first one did not do."""

from __future__ import annotations

from collections.abc import Sequence

from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.ports import Admission, Candidate
from waypost.policy.failover import AttemptResult
from waypost.policy.snapshot import Route


class Choice:
    """Every candidate, in the order of preference, less those that had no place for it."""

    __slots__ = ("_candidates", "_full")

    def __init__(self, admission: Admission) -> None:
        first = admission.first
        others = (each for each in admission.ranked(admission.request, admission.offers) if each.live is not first.live)
        self._candidates = (first, *others)
        self._full: list[LiveRoute] = []

    def live(self, route: Route) -> LiveRoute:
        return next(each.live for each in self._candidates if each.live.route is route)

    def candidate(self, live: LiveRoute) -> Candidate:
        return next(each for each in self._candidates if each.live is live)

    def exclude(self, live: LiveRoute) -> None:
        """Its bulkhead had no place in time."""
        self._full.append(live)

    def usable(self, results: Sequence[AttemptResult], now_s: float) -> tuple[LiveRoute, ...]:
        """Those untried and ready (if there are none, those of last resort), then those tried whose circuit would let
        the request through again. A provider that had the request already must have a repetition to spare."""
        tried = {result.route.deployment.id for result in results}
        providers = {result.route.provider.id for result in results}
        spent = set()
        fresh, again = [], []
        for live in (each.live for each in self._candidates):
            provider = live.provider.id
            if live in self._full or provider in spent:
                continue
            if provider in providers and not live.gate.may_repeat(now_s):
                spent.add(provider)
            elif live.deployment.id not in tried:
                fresh.append(live)
            elif live.is_passable(now_s):
                again.append(live)
        ready = [live for live in fresh if live.is_ready(now_s)]
        return (*(ready or (live for live in fresh if live.is_last_resort(now_s))), *again)
