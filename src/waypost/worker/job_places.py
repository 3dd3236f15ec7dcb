"""Where jobs are at providers, also when the catalogue has forgotten it: whoever was given a job is asked about it, and
its bill booked, by the catalogue under which it was submitted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from waypost.policy.snapshot import Route, View
from waypost.providers import JOB_KINDS
from waypost.storage.asynchronous_rows import AsynchronousExecution

# Versions, where that of the submission is not known: of before it was written down, and of an earlier attempt, which
# came under the last one's or shortly before. Each is loaded, so it is less than what is kept at hand.
LOOKED_BACK_MAX = 16

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
        """Where its job is: by the newest version if that has it, else by the last that had; None when no version in
        question has."""
        newest = self.view()
        found = _route(newest, execution)
        if found is not None:
            return Place(found, newest.version)
        for version in _earlier(newest, execution):
            earlier = await self.earlier_view(version)
            found = None if earlier is None else _route(earlier, execution)
            if found is not None:
                return Place(found, version)
        return None

    async def at_provider(self, execution: AsynchronousExecution, provider: str) -> list[Place]:
        """Where an attempt of it may have been at that provider: each deployment by the last version that had it."""
        newest = self.view()
        found: dict[str, Place] = {}
        for version in (newest.version, *_earlier(newest, execution)):
            view = newest if version == newest.version else await self.earlier_view(version)
            for route in () if view is None else _routes(view, execution):
                if route.provider.id == provider:
                    found.setdefault(route.deployment.id, Place(route, version))
        return list(found.values())


def _earlier(newest: View, execution: AsynchronousExecution) -> Sequence[int]:
    """The versions in question, from that of its last submission back to that of its acceptance. Whoever submits may be
    behind whoever accepts."""
    last = execution.catalogue_version or newest.version - 1
    first = min(last, max(execution.price_version, last - LOOKED_BACK_MAX + 1))
    versions = dict.fromkeys((*range(last, first - 1, -1), execution.price_version))
    return [each for each in versions if each not in (0, newest.version)]


def _route(view: View, execution: AsynchronousExecution) -> Route | None:
    return next((each for each in _routes(view, execution) if each.deployment.id == execution.deployment), None)


def _routes(view: View, execution: AsynchronousExecution) -> list[Route]:
    found = view.find(execution.model)
    return [] if found is None else [each for each in found.routes if each.provider.kind in JOB_KINDS]
