"""What an execution is held for: ModelRoute's rule, 1.2 times the estimate and at least a cent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from waypost.executions.input_schemas import Schema
from waypost.kit.money import NANOS_PER_USD, Nanos
from waypost.metering.ceiling import Ceiling

HOLD_NANOS_MIN = NANOS_PER_USD // 100
DURATION_S_DEFAULT = 10  # of a film that nobody said the length of, and no schema either
_DURATIONS = ("duration", "seconds", "duration_seconds", "durationSeconds")
_COUNTS = ("n", "num_outputs", "num_images")


def hold_for(estimate_nanos: Nanos) -> Nanos:
    """Rounded up."""
    return max(-(-estimate_nanos * 6 // 5), HOLD_NANOS_MIN)


def job_ceiling(modality: str, body_input: Mapping[str, Any], schema: Schema) -> Ceiling:
    """What a provider's job may come to, by what its input says or its schema has for a default: pieces of output, and
    their length."""
    pieces = _number(body_input, schema, _COUNTS, 1)
    if modality == "image":
        return Ceiling(0, 0, images_max=pieces)
    return Ceiling(0, 0, duration_ms_max=pieces * _number(body_input, schema, _DURATIONS, DURATION_S_DEFAULT) * 1_000)


def _number(body_input: Mapping[str, Any], schema: Schema, names: tuple[str, ...], default: int) -> int:
    """Rounded up; what is no positive number says nothing. What was asked for, by any name, goes before a default, and
    a schema's most bounds what is guessed."""
    declared = schema.get("properties", {})
    defaults = (bounds.get("default") if isinstance(bounds := declared.get(name), Mapping) else None for name in names)
    for value in (*(body_input.get(name) for name in names), *defaults):
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if _is_positive(number):
            return -int(-number // 1)
    bounds_of = [bounds.get("maximum") for name in names if isinstance(bounds := declared.get(name), Mapping)]
    return min([default, *(-int(-most // 1) for most in bounds_of if _is_positive(most))])


def _is_positive(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 86_400
