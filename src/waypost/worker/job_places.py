"""Where jobs are at providers, also when the catalogue has forgotten it: whoever was given a job is asked about it, and
its bill booked, by the last version that knew the deployment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from waypost.policy.snapshot import Route, View
from waypost.providers import JOB_KINDS
from waypost.storage.asynchronous_executions import AsynchronousExecution

# Of versions after that of its acceptance: most jobs are submitted under that one, or those that came while it waited.
LATER_VERSIONS_MAX = 7

EarlierView = Callable[[int], Awaitable[View | None]]
"""A version of the catalogue that is no longer in force; None when there is none."""


class Place(msgspec.Struct, frozen=True):
    route: Route
    version: int  # of the catalogue that has it


class JobPlaces:
    """One process's. `view` is the newest."""

    def __init__(self, view: Callable[[], View], earlier_view: EarlierView) -> None:
        self.view = view
        self.earlier_view = earlier_view

    async def of(self, execution: AsynchronousExecution) -> Place | None:
        """Where its job is; None when no version in question has that."""
        newest = self.view()
        found = _route(newest, execution)
        if found is not None:
            return Place(found, newest.version)
        last = min(newest.version, execution.price_version + 1 + LATER_VERSIONS_MAX)
        for version in range(execution.price_version, last):
            earlier = await self.earlier_view(version)
            found = None if earlier is None else _route(earlier, execution)
            if found is not None:
                return Place(found, version)
        return None

    async def at_provider(self, execution: AsynchronousExecution, provider: str) -> list[Route]:
        """Where an attempt of it may have been at that provider: now, or when it was accepted."""
        views = [self.view()]
        if views[0].version != execution.price_version:
            accepted = await self.earlier_view(execution.price_version)
            views += [] if accepted is None else [accepted]
        found: dict[str, Route] = {}
        for view in views:
            for route in _routes(view, execution):
                if route.provider.id == provider:
                    found.setdefault(route.deployment.id, route)
        return list(found.values())


def _route(view: View, execution: AsynchronousExecution) -> Route | None:
    return next((each for each in _routes(view, execution) if each.deployment.id == execution.deployment), None)


def _routes(view: View, execution: AsynchronousExecution) -> list[Route]:
    found = view.find(execution.model)
    return [] if found is None else [each for each in found.routes if each.provider.kind in JOB_KINDS]
