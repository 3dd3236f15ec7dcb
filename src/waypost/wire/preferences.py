"""What a caller prefers about who answers: read by `wire.preference_fields`, applied by `policy.eligibility`."""

from __future__ import annotations

import msgspec

from waypost.kit.money import Nanos


class Preferences(msgspec.Struct, frozen=True, gc=False):
    """Constraints exclude routes, the rest orders them. What is unknown about a route does not satisfy a constraint."""

    models: tuple[str, ...] = ()  # to fall back to, in order
    order: tuple[str, ...] = ()  # classes, the most wanted first
    only: tuple[str, ...] = ()  # classes, one of which a route must be of
    ignore: tuple[str, ...] = ()
    allows_fallbacks: bool = True
    sort: str = ""  # "price" | "latency" | "throughput"
    sorts_across_models: bool = False
    price_max: tuple[tuple[str, Nanos], ...] = ()  # (price class, nano-USD per million units)
    drops_parameters: bool = False  # `require_parameters: false`, said in so many words
    forbids_training: bool = False
    is_zdr: bool = False  # zero data retention
    regions: tuple[str, ...] = ()
