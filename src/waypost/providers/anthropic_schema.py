"""JSON schemas as Anthropic's structured outputs take them: closed objects, and no bounds on values.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations. What is taken out is
said in the description instead, where the model reads it.
"""

from __future__ import annotations

import msgspec

_BOUNDS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "pattern"),
)
_INNER = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def output_schema(schema: str) -> msgspec.Raw:
    """The schema (JSON text) for `output_config.format`."""
    return msgspec.Raw(_encode(_closed(_decode(schema.encode()))))


def input_schema(parameters: str) -> msgspec.Raw:
    """The schema (JSON text, "" for no parameters) of a tool's input, which must be an object."""
    if not parameters:
        return msgspec.Raw(b'{"type":"object","properties":{}}')
    schema = _decode(parameters.encode())
    if isinstance(schema, dict) and "type" not in schema:
        return msgspec.Raw(_encode({"type": "object", **schema}))
    return msgspec.Raw(parameters.encode())


def _closed(schema: object) -> object:
    if not isinstance(schema, dict):
        return schema
    closed = {name: value for name, value in schema.items() if name not in _BOUNDS}
    bounds = {name: value for name, value in schema.items() if name in _BOUNDS}
    if bounds:
        told = _encode(bounds).decode()
        closed["description"] = f"{closed.get('description', '')} {told}".strip()
    for name in _INNER:
        inner = closed.get(name)
        if isinstance(inner, dict):
            closed[name] = {key: _closed(value) for key, value in inner.items()}
    for name in _LISTS:
        each = closed.get(name)
        if isinstance(each, list):
            closed["anyOf" if name == "oneOf" else name] = [_closed(value) for value in each]
    closed.pop("oneOf", None)
    if "items" in closed:
        closed["items"] = _closed(closed["items"])
    if closed.get("type") == "object" or "properties" in closed:
        closed["additionalProperties"] = False
    return closed
