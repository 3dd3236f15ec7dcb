"""How the control plane reads requests and answers them: JSON by types, refusals in the canonical envelope, pages by
cursor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.ids import Ids
from waypost.wire.dialects import error_headers, render_error
from waypost.wire.request import refusal_of_value

BODY_BYTES_MAX = 1_048_576  # of JSON; files have their own bound
PAGE_MAX = 100
PAGE_DEFAULT = 20
_JSON = "application/json"
_HOST = re.compile(r"[A-Za-z0-9.-]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_Body = TypeVar("_Body")
encode = msgspec.json.Encoder().encode


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON. Nothing of ours is to be kept by whoever stands between."""
    body = b"" if status == 204 else encode(value)
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, media_type=_JSON)


def refuse(refusal: Refusal, request_id: str, *, dialect: str = "canonical") -> Response:
    lines = error_headers(refusal).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = render_error(dialect, refusal, request_id)
    return Response(body, refusal.code.status, {"cache-control": "no-store", **headers}, media_type=_JSON)


async def read_body(request: Request, decode: msgspec.json.Decoder[_Body]) -> _Body:
    """The JSON body, of a decoder's type. Raises Refusal: 413, 415, or 400 naming the field at fault."""
    content_type = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if content_type != _JSON:
        raise Refusal(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send JSON with the header 'Content-Type: application/json'.")
    body = await read_bytes(request, BODY_BYTES_MAX)
    try:
        return decode.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise refusal_of_value(error, lambda field: _values_of(decode.type, field)) from None
    except (ValueError, RecursionError):
        raise invalid(None, "The body is not valid JSON.") from None


async def read_bytes(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises Refusal 413."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, f"This request's body may have {bytes_max:,} bytes at most.")
        parts.append(part)
    return b"".join(parts)


def path_id(request: Request, kind: str, name: str = "id") -> bytes:
    """The id in a path. One that is not of the kind is as unknown as any other: raises Refusal 404."""
    try:
        return ids.parse(kind, request.path_params[name])
    except ValueError:
        raise unknown(kind) from None


_NOUNS = {
    "exec": "execution",
    "file": "file",
    "key": "API key",
    "wh": "webhook endpoint",
    "whd": "webhook delivery",
}


def unknown(kind: str) -> Refusal:
    """404 for an id of that kind which is nobody's, another organisation's, or none at all: told alike."""
    return Refusal(ErrorCode.NOT_FOUND, f"There is no {_NOUNS[kind]} with this id.")


def check_query(request: Request, *names: str) -> None:
    """What is misspelt would else choose nothing: raises Refusal, 400 naming a parameter that is not one of these, or
    stands twice."""
    seen = set()
    for name, _ in request.query_params.multi_items():
        shown = name if _NAME.fullmatch(name) else "…"
        if name not in names:
            known = f"Known are {', '.join(names)}." if names else "This takes none."
            raise invalid(shown, f"There is no parameter '{shown}' here. {known}", "UNKNOWN_FIELD")
        if name in seen:
            raise invalid(shown, f"'{shown}' stands twice in the query.")
        seen.add(name)


class PageRequest(msgspec.Struct, frozen=True):
    """`?limit=…&cursor=…`: at most `limit` rows, older than the row that the cursor names."""

    limit: int
    before: bytes | None


def page_request(request: Request, kind: str, *filters: str) -> PageRequest:
    """`filters` are the parameters that choose what is listed. Raises Refusal: 400 naming the parameter at fault."""
    check_query(request, "limit", "cursor", *filters)
    limit_text, cursor = request.query_params.get("limit", str(PAGE_DEFAULT)), request.query_params.get("cursor")
    if not (limit_text.isascii() and limit_text.isdigit() and 1 <= int(limit_text[:6]) <= PAGE_MAX):
        raise invalid("limit", f"'limit' is a number from 1 to {PAGE_MAX}.", "OUT_OF_RANGE")
    try:
        return PageRequest(int(limit_text), None if not cursor else ids.parse(kind, cursor))
    except ValueError:
        raise invalid("cursor", "'cursor' is not one that an earlier page gave.", "INVALID_FORMAT") from None


def page(rows: Sequence[object], next_cursor: str | None) -> dict[str, object]:
    """`next_cursor` is null on the last page."""
    return {"data": rows, "next_cursor": next_cursor}


def moment(value: datetime | None) -> str | None:
    """ISO 8601 in UTC, with milliseconds and `Z`."""
    return None if value is None else value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def origin_of(request: Request) -> str:
    """The scheme and host that the caller came to; "" when they could not stand in a URL."""
    host = request.headers.get("host", "")
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{host}" if _HOST.fullmatch(host) else ""


def request_id_of(request: Request, source: Ids) -> str:
    """As the gateway gave it; one of our own for a request that did not come through it."""
    return request.headers.get("x-request-id") or ids.text("req", source.new())


def _values_of(body: Any, field: str) -> tuple[str, ...]:
    """What a field at the top of a body may be, where that is a choice of words."""
    found = next((each for each in msgspec.structs.fields(body) if each.encode_name == field), None)
    if found is None:
        return ()
    kinds = msgspec.inspect.type_info(found.type)
    values: list[object] = []
    for kind in kinds.types if isinstance(kinds, msgspec.inspect.UnionType) else (kinds,):
        if isinstance(kind, msgspec.inspect.LiteralType):
            values += kind.values
        elif isinstance(kind, msgspec.inspect.EnumType):
            values += [each.value for each in kind.cls]
    return tuple(map(str, values))
