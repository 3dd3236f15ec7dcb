"""What `catalog diff` tells."""

from __future__ import annotations

import copy
from typing import Any

from waypost.policy.catalogue_diff import Change, changes_between
from waypost.policy.document import read_catalogue

DOCUMENT: dict[str, Any] = {
    "providers": [{"id": "a", "kind": "openai", "base_url": "https://a.example/v1", "api_keys": ["env:A"]}],
    "models": [
        {
            "slug": slug,
            "modality": "chat",
            "context_window": 1000,
            "max_output": 100,
            "price": {"input": "1", "output": "2"},
            "deployments": [{"provider": "a", "upstream_model": f"up-{slug}", "cost": {"input": "1", "output": "1"}}],
        }
        for slug in ("one", "two")
    ],
}


def test_each_change_is_told_at_its_place_and_nothing_else() -> None:
    changed = copy.deepcopy(DOCUMENT)
    changed["models"].reverse()  # an order of models means nothing
    changed["models"][0]["context_window"] = 2000
    changed["models"][1]["deployments"][0]["weight"] = 2
    changed["providers"][0]["api_keys"].append("env:B")

    found = changes_between(read_catalogue(copy.deepcopy(DOCUMENT)), read_catalogue(changed))

    assert found == [
        Change("models[one].deployments[a/up-one].weight", "1", "2"),
        Change("models[two].context_window", "1000", "2000"),
        Change("providers[a].api_keys", '["env:A"]', '["env:A","env:B"]'),
    ]


def test_what_comes_and_goes_is_told_with_all_it_has() -> None:
    fewer = {**DOCUMENT, "models": DOCUMENT["models"][:1]}
    gone = changes_between(read_catalogue(copy.deepcopy(DOCUMENT)), read_catalogue(copy.deepcopy(fewer)))
    come = changes_between(read_catalogue(copy.deepcopy(fewer)), read_catalogue(copy.deepcopy(DOCUMENT)))

    assert {change.place.partition(".")[0] for change in gone} == {"models[two]"}
    assert all(change.after is None for change in gone)
    assert [(change.place, change.after, change.before) for change in come] == [
        (change.place, change.before, change.after) for change in gone
    ]


def test_the_same_catalogue_has_no_changes() -> None:
    catalogue = read_catalogue(copy.deepcopy(DOCUMENT))
    assert changes_between(catalogue, catalogue) == []
