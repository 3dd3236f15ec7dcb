"""Models as they can be called now: what was worked out once is let go when it is true no more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dispatch.test_fleet import Secrets
from tests.policy.samples import catalogue_of, minimal_model
from waypost.dispatch.fleet import Fleet
from waypost.gateway import offering as gateway_offering
from waypost.gateway.offering import Offering, Offerings
from waypost.policy.snapshot import View, build_view


class Place:
    """A fleet, and the view in force."""

    def __init__(self, **fields: Any) -> None:
        self.secrets = Secrets(K="k")
        self.fleet = Fleet(self.secrets, lambda: 0.0)
        self.offerings = Offerings(lambda: self.view, self.fleet, lambda: 0.0)
        self.view: View
        self.adopt(1, **fields)

    def adopt(self, version: int, **fields: Any) -> None:
        self.view = build_view(catalogue_of(minimal_model("swift-1", **fields)), version)
        self.fleet.adopt(self.view)

    def find(self, name: str) -> Offering:
        found = self.offerings.find(name)
        assert found is not None
        return found


async def test_a_model_is_prepared_once_and_anew_under_another_catalogue() -> None:
    place = Place(aliases=["fast"])
    before = place.find("swift-1")
    assert place.find("swift-1") is before
    assert (place.find("fast").model.slug, place.offerings.find("slow")) == ("swift-1", None)
    place.adopt(2, max_output=7)
    assert (place.find("swift-1").model.max_output, place.find("swift-1").version) == (7, 2)
    assert place.offerings.find("fast") is None
    await place.fleet.close()


async def test_a_credential_that_has_come_or_gone_counts_under_the_same_catalogue() -> None:
    place = Place()
    before = place.find("swift-1").first()
    assert before is not None
    place.secrets.known["K"] = "another"
    place.fleet.adopt(place.view)
    after = place.find("swift-1").first()
    assert after is not None
    assert (before.credential(0.0).target.credential, after.credential(0.0).target.credential) == ("k", "another")
    place.secrets.known.clear()
    place.fleet.adopt(place.view)
    assert place.find("swift-1").first() is None
    assert place.find("swift-1").in_order() == []
    await place.fleet.close()


async def test_names_that_callers_make_up_for_a_prefix_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_offering, "_KEPT_MAX", 10)
    place = Place(aliases=["gpt-*"])
    for number in range(100):
        assert place.find(f"gpt-{number}").model.slug == "swift-1"
    assert len(place.offerings) <= 10
    await place.fleet.close()


async def test_the_first_route_is_drawn_by_weight_among_the_best() -> None:
    deployment = {"provider": "alpha", "cost": {"input": "1", "output": "1"}}
    shape = [("a", 1, 3), ("b", 1, 1), ("c", 2, 100)]
    rows = [deployment | {"upstream_model": name, "priority": p, "weight": w} for name, p, w in shape]
    place = Place(deployments=rows)
    rolls = [number / 1000 for number in range(1000)]
    drawn = []
    for roll in rolls:
        offering = Offering(place.view.models[0], 1, place.fleet, lambda roll=roll: roll)  # type: ignore[misc]
        first = offering.first()
        assert first is not None
        drawn.append(first.deployment.upstream_model)
    assert (drawn.count("a"), drawn.count("b")) == (750, 250)
    await place.fleet.close()
