"""What providers publish as their prices (from the package `genai-prices`, offline), beside what the catalogue says.

A published price is a suggestion: it fills in or corrects costs only when an operator asks for it, as a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

import msgspec

from waypost.kit.money import NANOS_PER_USD, format_usd
from waypost.kit.values import replace
from waypost.metering.price import PARENTS, PriceRow, Tier, price_row
from waypost.policy.catalogue import Catalogue, Deployment, Model, Provider

# Our class → theirs; theirs are USD per million tokens, and per thousand requests.
_CLASSES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
    "image_input": "input_image_mtok",
}
_REQUESTS = "requests_kcount"
_PROVIDER_OF_KIND = {"anthropic": "anthropic", "gemini": "google"}

Lookup = Callable[[Provider, str], "PriceRow | None"]


class Comparison(msgspec.Struct, frozen=True):
    """One deployment. `listed` None: nobody publishes a price for it that we know."""

    model: str
    deployment: str
    cost: PriceRow
    listed: PriceRow | None

    @property
    def differing(self) -> list[str]:
        """Lines such as `output 8.00, listed 10.00`."""
        if self.listed is None:
            return []
        lines = [
            f"{name} {format_usd(getattr(self.cost, name))}, listed {format_usd(getattr(self.listed, name))}"
            for name in PARENTS
            if getattr(self.cost, name) != getattr(self.listed, name)
        ]
        return [*lines, "tiers"] if self.cost.tiers != self.listed.tiers else lines

    @property
    def verdict(self) -> str:
        if self.listed is None:
            return "not listed"
        return "differs" if self.differing else "as listed"


def compare(catalogue: Catalogue, lookup: Lookup) -> list[Comparison]:
    """Every deployment's cost beside its published price."""
    providers = {provider.id: provider for provider in catalogue.providers}
    return [
        Comparison(model.slug, each.id, each.cost, lookup(providers[each.provider], each.upstream_model))
        for model in catalogue.models
        for each in model.deployments
    ]


def with_listed_costs(catalogue: Catalogue, comparisons: Iterable[Comparison]) -> Catalogue:
    """The catalogue with published prices as the costs of those deployments; changes to come stay as they are."""
    listed = {(each.model, each.deployment): each.listed for each in comparisons if each.listed is not None}

    def costed(model: Model, deployment: Deployment) -> Deployment:
        row = listed.get((model.slug, deployment.id))
        if row is None:
            return deployment
        cost = replace(row, changes=deployment.cost.changes)
        return replace(deployment, cost=cost)

    models = tuple(
        replace(model, deployments=tuple(costed(model, each) for each in model.deployments))
        for model in catalogue.models
    )
    return replace(catalogue, models=models)


def published(now_ms: int) -> Lookup:
    """Looks up what is published, as of a moment. The package holds all of it; no network is used."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  1.6 MB of prices, for this command alone

    snapshot, moment = get_snapshot(), datetime.fromtimestamp(now_ms // 1000, UTC)

    def lookup(provider: Provider, upstream_model: str) -> PriceRow | None:
        tries = ({"provider_api_url": provider.base_url}, {"provider_id": _PROVIDER_OF_KIND.get(provider.kind)})
        for known in tries:
            place: dict[str, str | None] = {"provider_id": None, "provider_api_url": None, **known}
            if not any(place.values()):
                continue
            try:
                _, found = snapshot.find_provider_model(upstream_model, None, **place)
            except LookupError:
                continue
            return _row_of(vars(found.get_prices(moment)))
        return None

    return lookup


def _row_of(prices: dict[str, object]) -> PriceRow | None:
    """None where input or output has no published price."""
    flat = {ours: prices.get(theirs) for ours, theirs in _CLASSES.items()}
    if flat["input"] is None or flat["output"] is None:
        return None
    starts = sorted({step.start for price in flat.values() for step in getattr(price, "tiers", ())})
    requests = prices.get(_REQUESTS)
    fixed = {} if requests is None else {"request": _nanos(_at(requests, 0)) * 1_000}

    def at(tokens: int) -> dict[str, int]:
        return {name: _nanos(_at(price, tokens)) for name, price in flat.items() if price is not None} | fixed

    return price_row(at(0), tuple(Tier(start, price_row(at(start + 1))) for start in starts))


def _at(price: object, tokens: int) -> Decimal:
    """The price for a request with so much input."""
    if isinstance(price, Decimal):
        return price
    found = price.base  # type: ignore[attr-defined]  # a TieredPrices, of a package without stable names
    for step in sorted(price.tiers, key=lambda step: step.start):  # type: ignore[attr-defined]  # as above
        if tokens > step.start:
            found = step.price
    assert isinstance(found, Decimal)
    return found


def _nanos(usd: Decimal) -> int:
    """Whole nano-USD; what is finer is rounded up."""
    return int((usd * NANOS_PER_USD).to_integral_value(rounding=ROUND_CEILING))
