"""Which routes a caller's preferences leave, and in which order. What is not known about a provider satisfies nothing:
a region that nobody stated is not the caller's region.
"""

from __future__ import annotations

from collections.abc import Sequence

from waypost.policy.catalogue import Model, Provider
from waypost.wire.preferences import Preferences


def excluded_by(preferences: Preferences, model: Model, provider: Provider) -> str | None:
    """The first constraint that the route does not satisfy, by the caller's name for it."""
    if preferences.regions and not any(_is_region(provider, region) for region in preferences.regions):
        return "region"
    if preferences.is_zdr and provider.retention_days != 0:
        return "zdr"
    if preferences.forbids_training and provider.training is not False:
        return "data_collection"
    for name, nanos in preferences.price_max:
        if getattr(model.price, name) > nanos:
            return "max_price"
    if preferences.only and not _is_of_any(provider, preferences.only):
        return "only"
    if _is_of_any(provider, preferences.ignore):
        return "ignore"
    if preferences.order and not preferences.allows_fallbacks and not _is_of_any(provider, preferences.order):
        return "order"
    return None


def place_in_order(preferences: Preferences, provider: Provider) -> int:
    """How far behind in `order` the route stands; those of no class in it come last."""
    for place, word in enumerate(preferences.order):
        if is_of(provider, word):
            return place
    return len(preferences.order)


def is_of(provider: Provider, word: str) -> bool:
    """Whether the provider is known to be of that class."""
    if word == "zdr":
        return provider.retention_days == 0
    if word == "no_training":
        return provider.training is False
    return _is_region(provider, word.removeprefix("region:"))


def _is_of_any(provider: Provider, words: Sequence[str]) -> bool:
    return any(is_of(provider, word) for word in words)


def _is_region(provider: Provider, region: str) -> bool:
    return provider.region is not None and provider.region.lower() == region.lower()
