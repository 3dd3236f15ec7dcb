"""JSON schemas as Gemini takes them: which keywords it enforces, and others said in those.

Source: the Gemini API on `responseJsonSchema`. A schema there is a promise about the answer; what it would not keep of
a strict one is named, so that the request can go to somebody who does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_ENFORCED = frozenset(
    (
        *("$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems"),
        *("minItems", "maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties", "required"),
        "propertyOrdering",
    )
)
_SAID_OTHERWISE = frozenset(("const", "oneOf", "definitions"))
_REMARKS = frozenset(("$schema", "$comment", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"))
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_ONE = ("items", "additionalProperties")


def not_enforced(schema: object) -> tuple[str, ...]:
    """The keywords in the schema that Gemini would take no notice of."""
    known = _ENFORCED | _SAID_OTHERWISE | _REMARKS
    return tuple(dict.fromkeys(name for each in _all_of(schema) for name in each if name not in known))


def as_gemini(schema: object) -> object:
    """The same schema without remarks, `const` and `oneOf` said as `enum` and `anyOf`."""
    if not isinstance(schema, Mapping):
        return schema
    said: dict[str, object] = {}
    for name, value in schema.items():
        if name in _REMARKS:
            continue
        if name == "const":
            said["enum"] = [value]
        elif name in _MAPS and isinstance(value, Mapping):
            own = "$defs" if name == "definitions" else name
            said[own] = {key: as_gemini(each) for key, each in value.items()}
        elif name in _LISTS and isinstance(value, list):
            said["anyOf" if name == "oneOf" else name] = [as_gemini(each) for each in value]
        elif name == "$ref" and isinstance(value, str):
            said[name] = value.replace("#/definitions/", "#/$defs/")
        else:
            said[name] = as_gemini(value) if name in _ONE else value
    return said


def _all_of(schema: object) -> Iterator[Mapping[str, object]]:
    """A schema and every schema within it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for name in _MAPS:
        inner = schema.get(name)
        for each in inner.values() if isinstance(inner, Mapping) else ():
            yield from _all_of(each)
    for name in _LISTS:
        inner = schema.get(name)
        for each in inner if isinstance(inner, list) else ():
            yield from _all_of(each)
    for name in _ONE:
        yield from _all_of(schema.get(name))
