from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.samples import read
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.money import NANOS_PER_USD
from waypost.wire.preference_fields import take_preferences
from waypost.wire.preferences import Preferences
from waypost.wire.request import ChatRequest


def request(**fields: Any) -> ChatRequest:
    return read(json.dumps({"model": "swift-1", "messages": [{"role": "user", "content": "hi"}]} | fields).encode())


def preferences(**provider: Any) -> Preferences:
    taken = take_preferences(request(provider=provider))
    assert taken is not None
    return taken


def test_a_request_without_preferences_has_none() -> None:
    assert take_preferences(request()) is None


def test_preferences_are_for_us_and_leave_the_request() -> None:
    asked = request(provider={"zdr": True}, models=["swift-1", "swift-2", "swift-2"], route="fallback")

    assert take_preferences(asked) == Preferences(models=("swift-2",), is_zdr=True)
    assert asked.fields.keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ({}, Preferences()),
        ({"order": ["region:EU", "zdr"]}, Preferences(order=("region:EU", "zdr"))),
        ({"only": ["no_training"], "ignore": ["region:CN"]}, Preferences(only=("no_training",), ignore=("region:CN",))),
        ({"allow_fallbacks": False}, Preferences(allows_fallbacks=False)),
        ({"sort": "latency"}, Preferences(sort="latency")),
        ({"sort": {"by": "price", "partition": "none"}}, Preferences(sort="price", sorts_across_models=True)),
        (
            {"max_price": {"prompt": 1, "completion": "2.5"}},
            Preferences(price_max=(("input", NANOS_PER_USD), ("output", 5 * NANOS_PER_USD // 2))),
        ),
        ({"require_parameters": False}, Preferences(drops_parameters=True)),
        ({"require_parameters": True}, Preferences()),
        ({"data_collection": "deny"}, Preferences(forbids_training=True)),
        ({"data_collection": "allow"}, Preferences()),
        ({"region": "EU"}, Preferences(regions=("EU",))),
        ({"region": ["EU", "US"]}, Preferences(regions=("EU", "US"))),
    ],
)
def test_each_preference_is_read(provider: dict[str, Any], expected: Preferences) -> None:
    assert preferences(**provider) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": {"order": ["alpha"]}}, "provider.order"),
        ({"provider": {"only": ["region:" + "x" * 33]}}, "provider.only"),
        ({"provider": {"ignore": ["zdr"] * 17}}, "provider.ignore"),
        ({"provider": {"sort": "beauty"}}, "provider.sort"),
        ({"provider": {"sort": {"by": "price", "partition": "half"}}}, "provider.sort.partition"),
        ({"provider": {"max_price": {"audio": 1}}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"prompt": "cheap"}}}, "provider.max_price.prompt"),
        ({"provider": {"data_collection": "maybe"}}, "provider.data_collection"),
        ({"provider": {"region": []}}, "provider.region"),
        ({"provider": {"quantizations": ["fp8"]}}, "provider"),
        ({"provider": "alpha"}, "provider"),
        ({"provider": {"zdr": "yes"}}, "provider"),
        ({"models": ["m"] * 9}, "models"),
        ({"models": [1]}, "models"),
        ({"models": ["../other"]}, "model"),
    ],
)
def test_a_preference_that_means_nothing_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        take_preferences(request(**fields))

    assert refused.value.code is ErrorCode.INPUT_VALIDATION_ERROR
    assert refused.value.param == param
