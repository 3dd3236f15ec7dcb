"""Values that are like others, and what is in them: of a `msgspec.Struct`, and of what `./run compile` makes of one."""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar


class Value(Protocol):
    def __replace__(self, /, **changes: Any) -> Self: ...


_Value = TypeVar("_Value", bound=Value)


def replace(value: _Value, /, **changes: Any) -> _Value:
    """The same value but for these fields: `copy.replace` of Python 3.13. Raises TypeError for one that it has not."""
    return value.__replace__(**changes)


def fields_of(kind: type[Value]) -> tuple[str, ...]:
    """Names of the fields of such values, in their order, in which they can be given by their places."""
    names: tuple[str, ...] = kind.__match_args__  # type: ignore[attr-defined]  # what `match` goes by
    return names


def as_dict(value: Value) -> dict[str, Any]:
    """Its fields by their names."""
    return {name: getattr(value, name) for name in fields_of(type(value))}
