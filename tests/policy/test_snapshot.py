"""The view: names to models, models to routes."""

from __future__ import annotations

from typing import Any

from tests.policy.samples import catalogue_of, minimal_model
from waypost.policy.snapshot import View, build_view, repriced


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


def priced(slug: str, output: str, *aliases: str) -> dict[str, Any]:
    return minimal_model(slug, aliases=list(aliases), price={"input": "1", "output": output})


def then(name: str, *, now: View, earlier: View) -> tuple[str, int] | None:
    """Which model answers to that name, and its price of output at the earlier version."""
    current = now.find(name)
    assert current is not None
    found = repriced(current, earlier, name)
    return None if found is None else (found.model.slug, found.model.price.output)


def test_a_model_of_now_has_the_price_of_the_model_that_its_name_meant_earlier() -> None:
    earlier = build_view(catalogue_of(priced("clever-1", "2", "old-*"), priced("swift", "4")), 1)
    now = build_view(
        catalogue_of(priced("clever-2", "3", "clever-1", "old-*"), priced("swift", "5"), priced("new", "6")), 2
    )
    assert then("swift", now=now, earlier=earlier) == ("swift", 4_000_000_000)
    assert then("clever-1", now=now, earlier=earlier) == ("clever-2", 2_000_000_000)
    assert then("old-name", now=now, earlier=earlier) == ("clever-2", 2_000_000_000)
    assert then("new", now=now, earlier=earlier) is None


def test_a_name_that_was_an_alias_has_the_price_of_the_model_that_it_stood_for() -> None:
    earlier = build_view(catalogue_of(priced("a", "2", "b")), 1)
    now = build_view(catalogue_of(priced("a", "3"), priced("b", "5")), 2)
    assert then("b", now=now, earlier=earlier) == ("b", 2_000_000_000)
