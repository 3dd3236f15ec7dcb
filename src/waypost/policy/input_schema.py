"""`input_schema` of a model: what the `input` of its executions may be, as a JSON schema of draft 2020-12."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from waypost.policy.json_value import is_json
from waypost.policy.table import Table

NAME = "input_schema"
BYTES_MAX = 65_536  # as JSON; it is shown to callers and checked against in every request


def read_input_schema(model: Table) -> str:
    """The schema as JSON text, "" when there is none. It stands there as a table, or as JSON in a string."""
    value = model.raw(NAME)
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except ValueError:
            model.note(NAME, "is not valid JSON")
            return ""
    mistake = _mistake(value)
    if mistake is not None:
        model.note(NAME, mistake)
        return ""
    return msgspec.json.encode(value).decode()


def _mistake(schema: object) -> str | None:
    if not isinstance(schema, dict) or not is_json(schema):
        return "expected a JSON schema: a table without dates, or its JSON in a string"
    text = msgspec.json.encode(schema)
    if len(text) > BYTES_MAX or b"\\u0000" in text:
        return f"is longer than {BYTES_MAX} bytes, or holds a NUL"
    if schema.get("type", "object") != "object":
        return "an input is an object: its 'type' is 'object' or left out"
    if any(not reference.startswith("#") for reference in _references(schema)):
        return "a '$ref' leads to another document; define under '$defs' what it names"
    # Seldom needed, and a sixth of all that a gateway would import at its start.
    from jsonschema import Draft202012Validator  # noqa: PLC0415
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON schema of draft 2020-12: '{error.validator}' is not met at {error.json_path}"
    return None


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)
