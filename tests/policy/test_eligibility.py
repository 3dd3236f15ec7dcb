from __future__ import annotations

from typing import Any

import pytest

from tests.policy.samples import catalogue_of, minimal_model
from waypost.kit.money import NANOS_PER_USD
from waypost.policy.catalogue import Provider
from waypost.policy.eligibility import excluded_by, place_in_order
from waypost.wire.preferences import Preferences

MODEL = catalogue_of(minimal_model("swift-1", price={"input": "2", "output": "8"})).models[0]


def provider(**facts: Any) -> Provider:
    return Provider(id="alpha", kind="openai", base_url="http://127.0.0.1:1/v1", api_keys=(), **facts)


@pytest.mark.parametrize(
    ("preferences", "facts", "excluded"),
    [
        (Preferences(), {}, None),
        (Preferences(regions=("eu",)), {"region": "EU"}, None),
        (Preferences(regions=("EU", "US")), {"region": "US"}, None),
        (Preferences(regions=("EU",)), {"region": "US"}, "region"),
        (Preferences(regions=("EU",)), {}, "region"),
        (Preferences(is_zdr=True), {"retention_days": 0}, None),
        (Preferences(is_zdr=True), {"retention_days": 30}, "zdr"),
        (Preferences(is_zdr=True), {}, "zdr"),
        (Preferences(forbids_training=True), {"training": False}, None),
        (Preferences(forbids_training=True), {"training": True}, "data_collection"),
        (Preferences(forbids_training=True), {}, "data_collection"),
        (Preferences(price_max=(("input", 2 * NANOS_PER_USD),)), {}, None),
        (Preferences(price_max=(("output", 8 * NANOS_PER_USD - 1),)), {}, "max_price"),
        (Preferences(only=("region:EU", "zdr")), {"retention_days": 0}, None),
        (Preferences(only=("region:EU", "zdr")), {}, "only"),
        (Preferences(ignore=("region:CN",)), {}, None),
        (Preferences(ignore=("region:CN",)), {"region": "CN"}, "ignore"),
        (Preferences(order=("region:EU",)), {}, None),
        (Preferences(order=("region:EU",), allows_fallbacks=False), {}, "order"),
        (Preferences(order=("no_training",), allows_fallbacks=False), {"training": False}, None),
    ],
)
def test_what_is_unknown_satisfies_no_constraint(
    preferences: Preferences, facts: dict[str, Any], excluded: str | None
) -> None:
    assert excluded_by(preferences, MODEL, provider(**facts)) == excluded


def test_routes_stand_where_their_first_class_stands() -> None:
    preferences = Preferences(order=("region:EU", "zdr"))
    facts: list[dict[str, Any]] = [{"region": "EU"}, {"retention_days": 0}, {"region": "US"}]

    assert [place_in_order(preferences, provider(**each)) for each in facts] == [0, 1, 2]
