"""Which routes to try, and in which order: lower priority numbers first, equal ones shared by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from waypost.policy.snapshot import Route


def order(routes: Sequence[Route], dice: Callable[[], float]) -> tuple[Route, ...]:
    """Every route once. `routes` come by priority, as in a ModelView; `dice` rolls in [0, 1).

    Within a priority, each place is drawn with a chance in proportion to weight among those still left: sorting by
    u ** (1 / weight) does that in one pass (Efraimidis and Spirakis, 2006).
    """
    if len(routes) == 1:
        return tuple(routes)
    drawn: list[Route] = []
    for _, group in groupby(routes, key=_priority):
        drawn += sorted(group, key=lambda route: dice() ** (1.0 / route.deployment.weight), reverse=True)
    return tuple(drawn)


def _priority(route: Route) -> int:
    return route.deployment.priority
