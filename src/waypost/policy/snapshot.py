"""The view that a gateway works from: one catalogue version, indexed by the names that callers use."""

from __future__ import annotations

from itertools import accumulate

import msgspec

from waypost.kit.values import replace
from waypost.policy.catalogue import THINKING, Catalogue, Deployment, Model, Provider


class Route(msgspec.Struct, frozen=True):
    """A deployment together with its provider: one way to answer a request."""

    deployment: Deployment
    provider: Provider
    is_thinking: bool = False  # its model: silent for long before it says anything


class ModelView(msgspec.Struct, frozen=True):
    """A model and its routes, by priority and then in the order of the catalogue.

    The first `len(weights)` routes share the best priority; `weights` are their sums so far, for a draw."""

    model: Model
    routes: tuple[Route, ...]
    weights: tuple[int, ...]


class View(msgspec.Struct, frozen=True):
    """Models in the order of the catalogue. `exact` holds slugs and aliases, `prefixes` the aliases `prefix-*` by
    the length of their prefix, longest first."""

    version: int
    models: tuple[ModelView, ...]
    exact: dict[str, ModelView]
    prefixes: tuple[tuple[int, dict[str, ModelView]], ...]

    def find(self, name: str) -> ModelView | None:
        """The model of that slug or alias; among `prefix-*` aliases the longest prefix wins."""
        found = self.exact.get(name)
        if found is not None:
            return found
        for length, models in self.prefixes:
            found = models.get(name[:length])
            if found is not None:
                return found
        return None


def repriced(found: ModelView, earlier: View, name: str) -> ModelView | None:
    """A model and its routes of now at the prices of an earlier version: what can answer is asked, and costs its
    customer what it cost then. `name` is how it was asked for, which counts where the model has been renamed since.
    None for a model that was not there then: it has no price."""
    before = earlier.exact.get(found.model.slug)
    if before is None or before.model.slug != found.model.slug:
        before = earlier.find(name)
    if before is None:
        return None
    return replace(found, model=replace(found.model, price=before.model.price))


def build_view(catalogue: Catalogue, version: int) -> View:
    """Index a catalogue that `read_catalogue` accepted."""
    providers = {provider.id: provider for provider in catalogue.providers}
    models = []
    exact: dict[str, ModelView] = {}
    by_length: dict[int, dict[str, ModelView]] = {}
    for model in catalogue.models:
        by_priority = sorted(model.deployments, key=lambda deployment: deployment.priority)
        best = [each.weight for each in by_priority if each.priority == by_priority[0].priority]
        routes = tuple(Route(each, providers[each.provider], THINKING in model.features) for each in by_priority)
        view = ModelView(model, routes, tuple(accumulate(best)))
        models.append(view)
        exact[model.slug] = view
        for alias in model.aliases:
            if alias.endswith("*"):
                by_length.setdefault(len(alias) - 1, {})[alias[:-1]] = view
            else:
                exact[alias] = view
    return View(version, tuple(models), exact, tuple(sorted(by_length.items(), reverse=True)))
