"""The live side of the catalogue."""

from __future__ import annotations

from typing import Any

from waypost.dispatch.fleet import Fleet, LiveRoute
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import View, build_view

PRICE = {"input": "1", "output": "1"}


class Secrets:
    """Knows what is in the environment it was given."""

    def __init__(self, **known: str) -> None:
        self.known = known

    def __call__(self, reference: str) -> str:
        return self.known[reference.removeprefix("env:")]  # KeyError is a LookupError

    def has_changed(self) -> bool:
        return False


def view_of(*base_urls: str, api_keys: tuple[str, ...] = ("env:KEY",), version: int = 1) -> View:
    providers: list[dict[str, Any]] = [
        {"id": f"p{at}", "kind": "openai", "base_url": url, "api_keys": list(api_keys)}
        for at, url in enumerate(base_urls)
    ]
    deployments = [{"provider": each["id"], "upstream_model": "m", "cost": PRICE} for each in providers]
    model = {
        "slug": "swift-1",
        "modality": "chat",
        "context_window": 1000,
        "max_output": 100,
        "price": PRICE,
        "deployments": deployments,
    }
    return build_view(read_catalogue({"providers": providers, "models": [model]}), version)


async def test_deployments_of_one_origin_share_their_connections_over_every_version() -> None:
    fleet = Fleet(Secrets(KEY="k"), lambda: 0.5)
    pools = set()
    for version in (1, 2, 3):
        view = view_of("https://ai.example.org/v1", "https://ai.example.org/other/v1", version=version)
        fleet.adopt(view)
        routes = [fleet.live("swift-1", route) for route in view.models[0].routes]
        pools |= {live.pool for live in routes if live is not None}
    assert len(pools) == 1
    await fleet.close()


async def test_a_credential_that_cannot_be_read_takes_out_its_deployment_alone() -> None:
    fleet = Fleet(Secrets(KEY="k"), lambda: 0.5)
    whole = view_of("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")
    fleet.adopt(whole)
    assert None not in [fleet.live("swift-1", route) for route in whole.models[0].routes]

    partly = view_of("http://127.0.0.1:1/v1", api_keys=("env:KEY", "env:ELSEWHERE"))
    fleet.adopt(partly)
    assert fleet.live("swift-1", partly.models[0].routes[0]) is not None

    unreadable = view_of("http://127.0.0.1:1/v1", api_keys=("env:ELSEWHERE",))
    fleet.adopt(unreadable)
    assert fleet.live("swift-1", unreadable.models[0].routes[0]) is None
    await fleet.close()


async def test_what_rests_goes_on_resting_under_a_new_version_and_a_changed_place_begins_anew() -> None:
    fleet = Fleet(Secrets(KEY="k"), lambda: 0.5)

    def live_in(view: View) -> LiveRoute:
        fleet.adopt(view)
        live = fleet.live("swift-1", view.models[0].routes[0])
        assert live is not None
        return live

    before = live_in(view_of("http://127.0.0.1:1/v1"))
    before.gate.places.take()
    before.credential(0.0).health.rest(0.0, 60.0)
    after = live_in(view_of("http://127.0.0.1:1/v1", version=2))
    assert after is not before
    assert [after.is_ready(now_s) for now_s in (59.0, 60.0)] == [False, True]
    assert after.gate.places.in_flight == 1
    moved = live_in(view_of("http://127.0.0.1:2/v1", version=3))
    assert moved.is_ready(0.0)
    await fleet.close()


async def test_credentials_are_taken_in_turn_and_a_rest_is_never_shortened() -> None:
    fleet = Fleet(Secrets(ONE="1", TWO="2"), lambda: 0.5)
    view = view_of("http://127.0.0.1:1/v1", api_keys=("env:ONE", "env:TWO"))
    fleet.adopt(view)
    live = fleet.live("swift-1", view.models[0].routes[0])
    assert live is not None
    one, two = live.credentials
    assert [live.credential(0.0) for _ in range(4)] == [one, two, one, two]
    one.health.rest(0.0, 60.0)
    one.health.rest(1.0, 5.0)
    assert [live.credential(59.0) for _ in range(2)] == [two, two]
    two.health.rest(59.0, None)
    assert live.credential(59.0) is two, "its rest is our guess, the other one's was told"
    assert live.is_last_resort(59.0)
    two.health.rest(59.0, 600.0)
    assert not live.is_last_resort(59.0)
    assert live.wait_s(59.0) == 1.0
    assert two.health.wait_s(59.0) == 120.0, "at most two minutes"
    await fleet.close()


async def test_a_provider_of_jobs_is_reached_by_errands_and_answers_no_calls() -> None:
    provider = {"id": "jobs", "kind": "replicate", "base_url": "https://api.replicate.com", "api_keys": ["env:KEY"]}
    model = {
        "slug": "picture-1",
        "modality": "image",
        "context_window": 1000,
        "max_output": 100,
        "price": {"image": "40000"},
        "deployments": [{"provider": "jobs", "upstream_model": "acme/picture", "cost": {"image": "20000"}}],
    }
    view = build_view(read_catalogue({"providers": [provider], "models": [model]}), 1)
    fleet = Fleet(Secrets(KEY="k"), lambda: 0.5)
    fleet.adopt(view)
    (route,) = view.models[0].routes
    assert fleet.live("picture-1", route) is None
    reached = fleet.deployment(route.deployment.id)
    assert reached is not None
    assert not isinstance(reached, LiveRoute)
    assert [credential.target.credential for credential in reached.credentials] == ["k"]
    await fleet.close()
