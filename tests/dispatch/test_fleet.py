"""The live side of the catalogue."""

from __future__ import annotations

from typing import Any

from waypost.dispatch.fleet import Fleet
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
    fleet = Fleet(Secrets(KEY="k"))
    pools = set()
    for version in (1, 2, 3):
        view = view_of("https://ai.example.org/v1", "https://ai.example.org/other/v1", version=version)
        fleet.adopt(view)
        routes = [fleet.live("swift-1", route) for route in view.models[0].routes]
        pools |= {live.pool for live in routes if live is not None}
    assert len(pools) == 1
    await fleet.close()


async def test_a_credential_that_cannot_be_read_takes_out_its_deployment_alone() -> None:
    fleet = Fleet(Secrets(KEY="k"))
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
