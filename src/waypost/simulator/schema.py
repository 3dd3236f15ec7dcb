"""An instance that is valid for a JSON schema, always the same for the same schema and seed.

Knows what structured outputs and tool parameters use: types, enum, const, objects, arrays, anyOf / oneOf / allOf,
$ref into the same document, bounds of numbers, strings and arrays, and common formats. Ignores `pattern`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from waypost.simulator.words import text_words

_OPTIONAL_DEPTH_MAX = 3  # optional properties are left out further down, so that recursive schemas end
_DEPTH_MAX = 40
_FORMATS = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "PT15M",
    "email": "ada@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uri": "https://example.org/a/b",
    "uuid": "0192f0c4-0000-7000-8000-000000000001",
}
_TYPE_HINTS = {
    "properties": "object",
    "items": "array",
    "minimum": "number",
    "maximum": "number",
    "minLength": "string",
    "format": "string",
}

Schema = Mapping[str, object]


def instance_of(schema: Schema, seed: bytes) -> object:
    """A JSON value. A schema that contradicts itself, or never ends, gets some value all the same."""
    return _value(schema, schema, seed, 0)


def _value(schema: object, root: Schema, seed: bytes, depth: int) -> object:
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        return None
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[seed[0] % len(choices)]
    for union in ("anyOf", "oneOf"):
        branches = schema.get(union)
        if isinstance(branches, list) and branches:
            rest = {name: value for name, value in schema.items() if name != union}
            # Deep inside, the last branch is usually the `null` that ends a recursion.
            return _value(
                _merged(rest, branches[0 if depth < _OPTIONAL_DEPTH_MAX else -1], root), root, seed, depth + 1
            )
    match _type(schema):
        case "object":
            return _object(schema, root, seed, depth)
        case "array":
            return _array(schema, root, seed, depth)
        case "string":
            return _string(schema, seed)
        case "integer":
            return int(_number(schema, seed))
        case "number":
            return _number(schema, seed)
        case "boolean":
            return seed[0] % 2 == 0
        case _:
            return None


def _type(schema: Schema) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        named = named[0] if named else None
    if isinstance(named, str):
        return named
    return next((kind for word, kind in _TYPE_HINTS.items() if word in schema), "string" if not schema else "null")


def _resolved(schema: Schema, root: Schema) -> Schema:
    for _ in range(_DEPTH_MAX):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = {**_pointed(root, reference), **rest}
        elif isinstance(parts := schema.get("allOf"), list):
            merged: Schema = {name: value for name, value in schema.items() if name != "allOf"}
            for part in parts:
                merged = _merged(merged, part, root)
            schema = merged
        else:
            return schema
    return {}


def _pointed(root: Schema, reference: str) -> Schema:
    here: object = root
    for name in reference.removeprefix("#").split("/")[1:]:
        here = here.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def _merged(left: Schema, right: object, root: Schema) -> Schema:
    if not isinstance(right, Mapping):
        return left
    right = _resolved(right, root)
    both: dict[str, object] = {**left, **right}
    left_properties, right_properties = left.get("properties"), right.get("properties")
    if isinstance(left_properties, Mapping) and isinstance(right_properties, Mapping):
        both["properties"] = {**left_properties, **right_properties}
    left_required, right_required = left.get("required"), right.get("required")
    if isinstance(left_required, list) and isinstance(right_required, list):
        both["required"] = [*left_required, *right_required]
    return both


def _object(schema: Schema, root: Schema, seed: bytes, depth: int) -> dict[str, object]:
    properties = schema.get("properties")
    required = schema.get("required")
    properties = properties if isinstance(properties, Mapping) else {}
    required = required if isinstance(required, list) else []
    names = [name for name in properties if name in required or depth < _OPTIONAL_DEPTH_MAX]
    names += [name for name in required if name not in properties]
    return {
        name: _value(properties.get(name, {"type": "string"}), root, _branch(seed, str(name)), depth + 1)
        for name in names
    }


def _array(schema: Schema, root: Schema, seed: bytes, depth: int) -> list[object]:
    items = schema.get("items", {"type": "string"})
    fewest = _whole(schema.get("minItems"), 0)
    most = _whole(schema.get("maxItems"), max(fewest, 2))
    count = max(fewest, min(most, 2 if depth < _OPTIONAL_DEPTH_MAX else 0))
    return [_value(items, root, _branch(seed, str(at)), depth + 1) for at in range(count)]


def _string(schema: Schema, seed: bytes) -> str:
    named = _FORMATS.get(str(schema.get("format")))
    if named is not None:
        return named
    text = "".join(text_words(seed, 3)).strip()
    shortest = _whole(schema.get("minLength"), 0)
    return text.ljust(shortest, "x")[: _whole(schema.get("maxLength"), max(len(text), shortest))]


def _number(schema: Schema, seed: bytes) -> int | float:
    step = _numeric(schema.get("multipleOf")) or 1
    above, below = _numeric(schema.get("exclusiveMinimum")), _numeric(schema.get("exclusiveMaximum"))
    lowest = _numeric(schema.get("minimum")) if above is None else above + step
    highest = _numeric(schema.get("maximum")) if below is None else below - step
    if lowest is None:
        lowest = 0 if highest is None else min(0, highest)
    units = -(-lowest // step)  # the first multiple that is allowed
    room = seed[0] % 100 if highest is None else min(seed[0] % 100, (highest - units * step) // step)
    value = (units + max(0, room)) * step
    if highest is not None and value > highest:  # no whole step lies between the bounds
        value = ((lowest if above is None else above) + (highest if below is None else below)) / 2
    return int(value) if value == int(value) else value


def _numeric(value: object) -> int | float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _branch(seed: bytes, name: str) -> bytes:
    return hashlib.sha256(seed + name.encode()).digest()
