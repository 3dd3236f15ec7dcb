"""The view: names to models, models to routes."""

from __future__ import annotations

from tests.policy.samples import catalogue_of, minimal_model
from waypost.policy.snapshot import View, build_view


def view_of(**aliases: list[str]) -> View:
    return build_view(catalogue_of(*(minimal_model(slug, aliases=names) for slug, names in aliases.items())), 7)


def found(view: View, name: str) -> str | None:
    model = view.find(name)
    return None if model is None else model.model.slug


def test_a_model_is_found_by_its_slug_and_its_aliases() -> None:
    view = view_of(swift=["gpt-4o-mini"], large=[])
    assert [found(view, name) for name in ("swift", "gpt-4o-mini", "large", "swif", "")] == [
        "swift",
        "swift",
        "large",
        None,
        None,
    ]


def test_the_longest_prefix_wins_and_an_exact_name_before_it() -> None:
    view = view_of(a=["gpt-*"], b=["gpt-4o-*"], c=["gpt-4o-mini"])
    names = ("gpt-3.5", "gpt-4o-2024", "gpt-4o-mini", "gpt-", "gpt")
    assert [found(view, name) for name in names] == ["a", "b", "c", "a", None]


def test_a_slug_is_found_before_the_prefix_of_another_model() -> None:
    assert found(view_of(**{"gpt-4": [], "a": ["gpt-*"]}), "gpt-4") == "gpt-4"


def test_models_keep_their_order_and_routes_come_by_priority() -> None:
    model = minimal_model("swift")
    model["deployments"] = [model["deployments"][0] | {"priority": priority} for priority in (2, 1, 2, 1)]
    view = build_view(catalogue_of(minimal_model("z"), model), 7)
    assert [each.model.slug for each in view.models] == ["z", "swift"]
    ids = [route.deployment.id for route in view.models[1].routes]
    assert ids == ["alpha/m#2", "alpha/m#4", "alpha/m", "alpha/m#3"]
    assert view.models[1].routes[0].provider.id == "alpha"
    assert view.version == 7
