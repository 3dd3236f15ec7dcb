"""The order of routes."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.policy.samples import catalogue_of, minimal_model
from waypost.policy.routing import order
from waypost.policy.snapshot import Route, build_view


def routes_of(*priority_and_weight: tuple[int, int]) -> tuple[Route, ...]:
    model = minimal_model("swift")
    base = model["deployments"][0]
    model["deployments"] = [
        base | {"upstream_model": f"m{i}", "priority": priority, "weight": weight}
        for i, (priority, weight) in enumerate(priority_and_weight)
    ]
    return build_view(catalogue_of(model), 1).models[0].routes


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 1_000_000)), min_size=1, max_size=6), st.randoms())
def test_every_route_comes_once_and_by_priority(shape: list[tuple[int, int]], dice: random.Random) -> None:
    routes = routes_of(*shape)
    ordered = order(routes, dice.random)
    assert sorted(route.deployment.id for route in ordered) == sorted(route.deployment.id for route in routes)
    priorities = [route.deployment.priority for route in ordered]
    assert priorities == sorted(priorities)


def test_equal_priorities_share_by_weight() -> None:
    routes = routes_of((1, 3), (1, 1), (2, 100))
    dice = random.Random(20_261)
    firsts = Counter(order(routes, dice.random)[0].deployment.upstream_model for _ in range(8000))
    # 6000 expected, standard deviation 39.
    assert 5800 < firsts["m0"] < 6200
    assert firsts["m2"] == 0


def test_the_second_place_is_drawn_by_weight_among_the_rest() -> None:
    routes = routes_of((1, 1), (1, 2), (1, 1))
    dice = random.Random(20_262)
    ordered = [order(routes, dice.random) for _ in range(8000)]
    after_first = Counter(each[1].deployment.upstream_model for each in ordered if each[0] is routes[0])
    # Of about 2000, two thirds expected.
    assert 0.62 < after_first["m1"] / after_first.total() < 0.71


def test_one_route_needs_no_dice() -> None:
    def no_dice() -> float:
        raise AssertionError

    routes = routes_of((1, 1))
    assert order(routes, no_dice) == routes
