"""What changed between two versions of the catalogue, field by field, in the words of the configuration file."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from waypost.policy.catalogue import Catalogue
from waypost.policy.document import catalogue_document


class Change(msgspec.Struct, frozen=True):
    """`before` None: it was not there; `after` None: it is not there any more. Both are JSON."""

    place: str  # such as models[swift-1].price.input
    before: str | None
    after: str | None


def changes_between(before: Catalogue, after: Catalogue) -> list[Change]:
    """Every change, by place. Providers are told apart by id, models by slug, deployments by what they reach."""
    old, new = dict(_leaves(catalogue_document(before), "")), dict(_leaves(catalogue_document(after), ""))
    return [
        Change(place, old.get(place), new.get(place))
        for place in sorted(old.keys() | new.keys())
        if old.get(place) != new.get(place)
    ]


def _leaves(value: object, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}[{_name_of(item, number)}]")
    else:
        yield place, msgspec.json.encode(value).decode()


def _name_of(item: dict[str, object], number: int) -> str:
    if "upstream_model" in item:
        return f"{item['provider']}/{item['upstream_model']}"
    name = item.get("slug", item.get("id"))
    return str(number if name is None else name)
