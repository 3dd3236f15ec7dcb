"""Published prices beside the catalogue's, and as its costs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from waypost.app.list_prices import compare, published, with_listed_costs
from waypost.metering.price import PriceRow, Tier, price_row
from waypost.policy.catalogue import Catalogue, Provider
from waypost.policy.document import catalogue_document, read_catalogue

NOW_MS = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000)
LISTED = price_row({"input": 3_000_000_000, "output": 15_000_000_000, "cache_read": 300_000_000})


def catalogue() -> Catalogue:
    cost = {
        "input": "2.00",
        "output": "15.00",
        "changes": [{"effective_from": "2030-01-01", "input": "1", "output": "1"}],
    }
    deployments = [
        {"provider": provider, "upstream_model": name, "cost": cost}
        for provider, name in (("a", "known"), ("a", "unknown"))
    ]
    model = {"slug": "m", "modality": "chat", "context_window": 1000, "max_output": 100}
    return read_catalogue(
        {
            "providers": [
                {"id": "a", "kind": "openai", "base_url": "https://api.example.org/v1", "api_keys": ["env:A"]}
            ],
            "models": [{**model, "price": {"input": "3", "output": "20"}, "deployments": deployments}],
        }
    )


def lookup(_: Provider, upstream_model: str) -> PriceRow | None:
    return LISTED if upstream_model == "known" else None


def test_a_difference_is_told_class_by_class() -> None:
    known, unknown = compare(catalogue(), lookup)
    assert (known.verdict, unknown.verdict) == ("differs", "not listed")
    assert "input 2.00, listed 3.00" in known.differing
    assert not any(line.startswith("output") for line in known.differing)


def test_published_prices_become_costs_where_there_are_any_and_changes_to_come_stay() -> None:
    imported = with_listed_costs(catalogue(), compare(catalogue(), lookup))
    known, unknown = imported.models[0].deployments
    assert (known.cost.input, known.cost.cache_read, len(known.cost.changes)) == (3_000_000_000, 300_000_000, 1)
    assert unknown.cost == catalogue().models[0].deployments[1].cost
    assert [each.verdict for each in compare(imported, lookup)] == ["as listed", "not listed"]
    assert read_catalogue(catalogue_document(imported)) == imported


@pytest.mark.parametrize(
    ("kind", "base_url", "name"),
    [
        ("openai", "https://api.openai.com/v1", "gpt-4o-mini"),
        ("anthropic", "https://api.anthropic.com", "claude-sonnet-4-5"),
        ("gemini", "https://generativelanguage.googleapis.com", "gemini-2.5-pro"),
    ],
)
def test_the_package_knows_the_large_providers_offline(kind: str, base_url: str, name: str) -> None:
    row = published(NOW_MS)(Provider("p", kind, base_url, ()), name)
    assert row is not None
    assert 0 < row.cache_read < row.input < row.output


def test_long_contexts_come_as_tiers() -> None:
    row = published(NOW_MS)(Provider("p", "gemini", "https://generativelanguage.googleapis.com", ()), "gemini-2.5-pro")
    assert row is not None
    (tier,) = row.tiers
    assert isinstance(tier, Tier)
    assert tier.above == 200_000
    assert tier.prices.input == 2 * row.input


def test_a_private_server_has_no_published_price() -> None:
    assert published(NOW_MS)(Provider("p", "openai", "http://127.0.0.1:9100/v1", ()), "gpt-4o-mini") is None
