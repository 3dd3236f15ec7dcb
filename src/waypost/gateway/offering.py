"""Models as they can be called now. What is the same for every call of a model is looked up once, and again when the
catalogue, a credential or the way to a provider has changed; a call then finds it by the name it asks for.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from waypost.dispatch.fleet import Fleet, LiveRoute
from waypost.dispatch.ports import Candidate, Offer
from waypost.kit.errors import Refusal, invalid
from waypost.policy.routing import order
from waypost.policy.snapshot import ModelView, View, repriced
from waypost.wire.formats import conversation_of
from waypost.wire.request import ChatRequest

NAMES_MAX = 16  # told of the fields that could not be carried
_KEPT_MAX = 4_096  # by name: an alias `prefix-*` has as many as callers make up
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\[\] '-]{1,64}")


class Offering:
    """A model of the catalogue in force, with its routes. Nothing in it belongs to a caller."""

    __slots__ = ("_best", "_dice", "_fleet", "found", "model", "version")

    def __init__(self, found: ModelView, version: int, fleet: Fleet, dice: Callable[[], float]) -> None:
        self.found = found
        self.model = found.model
        self.version = version  # of the catalogue
        self._fleet = fleet
        self._dice = dice
        best = found.routes[: len(found.weights)]
        self._best = [fleet.live(found.model.slug, route) for route in best]

    def first(self) -> LiveRoute | None:
        """One of the best priority, drawn by weight; None when that one cannot be called."""
        best = self._best
        if len(best) == 1:
            return best[0]
        weights = self.found.weights
        return best[bisect_right(weights, int(self._dice() * weights[-1]))]

    def in_order(self) -> list[LiveRoute]:
        """Every route that can be called now, by priority and weight."""
        slug = self.model.slug
        ordered = (self._fleet.live(slug, route) for route in order(self.found.routes, self._dice))
        return [live for live in ordered if live is not None]

    def able(self, request: ChatRequest) -> list[LiveRoute]:
        """Those that carry all of the request. Raises Refusal 400 when none does, naming what the last would lose."""
        routes = self.in_order()
        able = [live for live in routes if _carries(request, live)]
        if routes and not able:
            raise cannot_carry(losses(request, routes[-1]))
        return able

    def ranked(self, request: ChatRequest, offers: tuple[Offer, ...]) -> list[Candidate]:
        """Every candidate of a request whose only offer this model is."""
        return [Candidate(live, offers[0]) for live in self.in_order() if _carries(request, live)]


class Offerings:
    """Of the catalogue in force. `view` tells which that is."""

    def __init__(self, view: Callable[[], View], fleet: Fleet, dice: Callable[[], float]) -> None:
        self._current_view = view
        self._fleet = fleet
        self._dice = dice
        self._by_name: dict[str, Offering] = {}
        self._view: View | None = None
        self._generation = 0  # of the fleet

    def __len__(self) -> int:
        """Names at hand."""
        return len(self._by_name)

    def find(self, name: str) -> Offering | None:
        """The model of that slug or alias."""
        view, fleet = self._current_view(), self._fleet
        if view is not self._view or fleet.generation != self._generation:
            self._view, self._generation = view, fleet.generation
            self._by_name.clear()
        offering = self._by_name.get(name)
        if offering is None:
            found = view.find(name)
            if found is None:
                return None
            if len(self._by_name) >= _KEPT_MAX:
                self._by_name.clear()
            offering = self._by_name[name] = Offering(found, view.version, fleet, self._dice)
        return offering

    def find_at(self, earlier: View, name: str) -> Offering | None:
        """The same at the prices of an earlier version; None too for a model that was not there then."""
        found = self._current_view().find(name)
        then = None if found is None else repriced(found, earlier, name)
        return None if then is None else Offering(then, earlier.version, self._fleet, self._dice)


def losses(request: ChatRequest, live: LiveRoute) -> tuple[str, ...]:
    """What of the request this route cannot carry; nothing where the provider speaks the caller's format. Raises
    Refusal 400 when it can be said in no other format at all."""
    return () if live.kind.format == request.format else live.kind.losses(conversation_of(request))


def _carries(request: ChatRequest, live: LiveRoute) -> bool:
    try:
        return not losses(request, live)
    except Refusal:
        return False


def cannot_carry(lost: Sequence[str]) -> Refusal:
    """400 naming what no route of the model can be given."""
    names = shown_names(lost)
    return invalid(names[0], f"This model cannot be given: {', '.join(names)}. Leave it out, or let it be dropped.")


def shown_names(names: Sequence[str]) -> list[str]:
    """Names of fields as they may stand in an answer or a header: callers invent them."""
    return [name if _FIELD_NAME.fullmatch(name) else "a field" for name in names[:NAMES_MAX]]
