"""A request held against a JSON schema: everything that is wrong with it, in ModelRoute's `details`.

    REQUIRED  INVALID_TYPE  OUT_OF_RANGE  UNKNOWN_FIELD  INVALID_VALUE  INVALID_FORMAT  URL_NOT_ALLOWED

What is told names fields and the schema's own bounds, never a value of the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import FormatError, ValidationError, best_match

from waypost.executions.input_schemas import FILE_FORMAT, Schema, body_schema, schema_of
from waypost.kit import ids
from waypost.kit.errors import Fault, InvalidFields

FAULTS_MAX = 20  # told of one request
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_RANGES = frozenset(
    (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
        *("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"),
    )
)
_BOUNDS = {
    "minimum": "is at least",
    "maximum": "is at most",
    "exclusiveMinimum": "is more than",
    "exclusiveMaximum": "is less than",
    "multipleOf": "is a multiple of",
    "minLength": "has at least so many characters:",
    "maxLength": "has at most so many characters:",
    "minItems": "has at least so many elements:",
    "maxItems": "has at most so many elements:",
}
_NOTHING: Schema = {"not": {}}
_UNKNOWN = frozenset(("additionalProperties", "unevaluatedProperties"))
_URL = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*://|data:|//)")


class _Files(FormatChecker):
    """Notes the files that a request names while it is checked."""

    def __init__(self) -> None:
        super().__init__(formats=())
        self.found: dict[bytes, None] = {}

    def conforms(self, instance: object, format: str) -> bool:  # noqa: A002  jsonschema's name
        if format != FILE_FORMAT or not isinstance(instance, str):
            return True
        try:
            self.found[ids.parse("file", instance)] = None
        except ValueError:
            return False
        return True

    def check(self, instance: object, format: str) -> None:  # noqa: A002  jsonschema's name
        if not self.conforms(instance, format):
            raise FormatError("no id of a file")


def check_body(body: object, *, modality: str, input_schema: str) -> tuple[bytes, ...]:
    """Check a decoded request to create an execution; the ids of the files that its input names. Raises InvalidFields
    with what is wrong."""
    files = _Files()
    validator = _validator(modality, input_schema).evolve(format_checker=files)
    faults: dict[tuple[str, str], Fault] = {}
    for error in validator.iter_errors(body):
        for fault in _faults_of(error):
            faults.setdefault((fault.field, fault.code), fault)
        if len(faults) >= FAULTS_MAX:
            break
    if faults:
        raise InvalidFields(list(faults.values())[:FAULTS_MAX])
    return tuple(files.found)


def place_of_file(body_input: Mapping[str, Any], file_id: bytes) -> str:
    """Where an input that was checked names a file first."""
    name = ids.text("file", file_id)
    return next((at for at, value in _texts(body_input, "input") if value == name), "input")


@lru_cache(maxsize=512)  # schemas of the models of a catalogue or two
def _validator(modality: str, input_schema: str) -> Draft202012Validator:
    return Draft202012Validator(_with_places(body_schema(schema_of(modality, input_schema))))


def _with_places(schema: Any) -> Any:
    """The same schema, in other words where the library would not say which property `false` forbids."""
    if isinstance(schema, list):
        return [_with_places(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    told = {name: _with_places(value) for name, value in schema.items()}
    properties = told.get("properties")
    if isinstance(properties, Mapping):
        told["properties"] = {name: _NOTHING if each is False else each for name, each in properties.items()}
    return told


def _faults_of(error: ValidationError) -> Iterator[Fault]:
    error = best_match([error]) or error  # of the branches that it might have been, the likeliest
    value: Any = error.validator_value
    instance: Any = error.instance
    at = _path(error)
    match error.validator:
        case "required":
            for name in value:
                if name not in instance:
                    yield Fault(_under(at, name), "REQUIRED", f"'{_under(at, name)}' is missing.")
        case "type":
            wanted = value if isinstance(value, str) else " or ".join(value)
            yield Fault(at, "INVALID_TYPE", f"'{at}' is not of type {wanted}.")
        case "enum":
            yield Fault(at, "INVALID_VALUE", f"'{at}' is one of {', '.join(str(each) for each in value[:16])}.")
        case "format" if value == FILE_FORMAT:
            yield _not_a_file(at, instance)
        case "format" | "pattern":
            yield Fault(at, "INVALID_FORMAT", f"'{at}' does not have the form that the model takes.")
        case name if name in _RANGES:
            told = f"'{at}' {_BOUNDS[name]} {value}." if name in _BOUNDS else f"'{at}' is out of range."
            yield Fault(at, "OUT_OF_RANGE", told)
        case name if name in _UNKNOWN:
            yield from _unknown(error, at)
        case "not" if value == _NOTHING["not"]:
            yield Fault(at, "UNKNOWN_FIELD", f"'{at}' means nothing here.")
        case _:
            yield Fault(at, "INVALID_VALUE", f"'{at}' is not what the model takes.")


def _unknown(error: ValidationError, at: str) -> Iterator[Fault]:
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    known: Mapping[str, Any] = schema.get("properties", {})
    patterns = list(schema.get("patternProperties", {}))
    instance: Any = error.instance
    for name in instance:
        if name not in known and not any(re.search(pattern, name) for pattern in patterns):
            shown = _under(at, name if _NAME.fullmatch(name) else "…")
            yield Fault(shown, "UNKNOWN_FIELD", f"'{shown}' means nothing to this model.")


def _not_a_file(at: str, value: object) -> Fault:
    if isinstance(value, str) and _URL.match(value):
        told = f"'{at}' is an address: upload the file and give its id, file_<uuid>."
        return Fault(at, "URL_NOT_ALLOWED", told)
    return Fault(at, "INVALID_FORMAT", f"'{at}' is the id of an uploaded file: file_<uuid>.")


def _texts(value: object, at: str) -> Iterator[tuple[str, str]]:
    """Every text with its place. How deep it nests was checked."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, f"{at}[{index}]")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(each, _under(at, name if _NAME.fullmatch(name) else "…"))


def _path(error: ValidationError) -> str:
    path = ""
    for step in error.absolute_path:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path = _under(path, step if _NAME.fullmatch(step) else "…")
    return path or "body"


def _under(path: str, name: str) -> str:
    return name if path in ("", "body") else f"{path}.{name}"
