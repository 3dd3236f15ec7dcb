"""Gemini's own schemas (a subset of OpenAPI 3.0, types in capitals) read as JSON schemas, which every format has.

Source: the `Schema` message of the Gemini API. Its whole numbers may stand there as text, as JSON writes an int64.
"""

from __future__ import annotations

from collections.abc import Mapping

_TYPES = {
    "STRING": "string",
    "NUMBER": "number",
    "INTEGER": "integer",
    "BOOLEAN": "boolean",
    "ARRAY": "array",
    "OBJECT": "object",
    "NULL": "null",
}
_LISTS = {"anyOf": "anyOf", "any_of": "anyOf", "prefixItems": "prefixItems", "prefix_items": "prefixItems"}
_MAPS = {"properties": "properties", "defs": "$defs"}
_ONE = {
    "items": "items",
    "additionalProperties": "additionalProperties",
    "additional_properties": "additionalProperties",
}
_COUNTS = {
    "maxItems": "maxItems",
    "max_items": "maxItems",
    "minItems": "minItems",
    "min_items": "minItems",
    "maxLength": "maxLength",
    "max_length": "maxLength",
    "minLength": "minLength",
    "min_length": "minLength",
    "maxProperties": "maxProperties",
    "max_properties": "maxProperties",
    "minProperties": "minProperties",
    "min_properties": "minProperties",
}
_ORDER = frozenset(("propertyOrdering", "property_ordering"))  # of what a model writes: no meaning elsewhere


def json_schema_of(sent: object) -> object:
    """The JSON schema that says the same. What is no schema comes back as it is."""
    if not isinstance(sent, Mapping):
        return sent
    schema: dict[str, object] = {}
    for name, value in sent.items():
        if name in _LISTS and isinstance(value, list):
            schema[_LISTS[name]] = [json_schema_of(each) for each in value]
        elif name in _MAPS and isinstance(value, Mapping):
            schema[_MAPS[name]] = {key: json_schema_of(each) for key, each in value.items()}
        elif name in _ONE:
            schema[_ONE[name]] = json_schema_of(value)
        elif name in _COUNTS:
            schema[_COUNTS[name]] = int(value) if isinstance(value, str) and value.isdecimal() else value
        elif name == "type":
            schema["type"] = _TYPES.get(value.upper(), value) if isinstance(value, str) else value
        elif name == "ref":
            schema["$ref"] = value
        elif name == "example":
            schema["examples"] = [value]
        elif name not in _ORDER and name != "nullable":
            schema[name] = value
    return _with_null(schema) if sent.get("nullable") is True else schema


def _with_null(schema: dict[str, object]) -> dict[str, object]:
    own = schema.get("type")
    if not isinstance(own, str):
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    schema["type"] = [own, "null"]
    enum = schema.get("enum")
    if isinstance(enum, list) and None not in enum:
        schema["enum"] = [*enum, None]
    return schema
