"""Files by HTTP, after ModelRoute's public contract: a file is announced, its bytes are sent to a signed URL, and from
then on it is named by its id.

`POST /v1/files/upload` · `PUT /v1/files/{id}/content` · `POST /v1/files/confirm` · `GET /v1/files` ·
`GET /v1/files/{id}` · `GET /v1/files/{id}/download` · `GET /v1/files/{id}/url` · `GET /v1/files/{id}/content` ·
`GET /v1/inputs/{id}.{ext}` · `DELETE /v1/files/{id}`

Two of them carry bodies of up to 150 MiB, which are streamed all the way and never held: the body of the request of
`PUT /v1/files/{id}/content`, and those of the answers to `GET /v1/files/{id}/download`, `/v1/files/{id}/content` and
`/v1/inputs/{id}.{ext}`. Of the first, the whole body may take 30 minutes; it may be answered before it was sent.

What a caller says of a file, its name or its type, is neither kept nor believed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from waypost.control.answers import (
    answer,
    moment,
    origin_of,
    page,
    page_request,
    path_id,
    read_body,
    refuse,
    request_id_of,
    unknown,
)
from waypost.control.file_store import Files, FileTooLarge, OpenFile, TypeUnsupported
from waypost.control.file_urls import DOWNLOAD_S, UPLOAD_S, UrlUse
from waypost.control.services import Services
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.storage import files
from waypost.storage.files import Actor, FileRow, FileState, Wanted
from waypost.stores.objects import StoreUnavailable
from waypost.wire.file_type import EXTENSIONS

_RETRY_AFTER_S = 5
_IDLE_S = 60.0  # without a byte of an upload
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
# Whatever the bytes are, a browser runs nothing of them, guesses nothing about them and keeps nothing.
_SAFE = {
    "x-content-type-options": "nosniff",
    "cache-control": "private, no-store",
    "content-security-policy": "default-src 'none'; sandbox",
    "referrer-policy": "no-referrer",
}
_UNSUPPORTED = "The bytes are of no type that files have here: pictures, films, sound and PDF."


class _NewUpload(msgspec.Struct, forbid_unknown_fields=True):
    """ModelRoute's body; the last three are those of its older one, and tell us nothing that we believe."""

    purpose: Literal["INPUT", "UPLOAD"] | None = None
    region: Literal["US", "EU", "APAC"] = "US"
    ttl_days: Annotated[int, msgspec.Meta(ge=1, le=365)] | None = None
    filename: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    content_type: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    size_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Named(msgspec.Struct):
    file_id: str


_decode_new = msgspec.json.Decoder(_NewUpload)
_decode_named = msgspec.json.Decoder(_Named)


def routes(services: Services) -> list[Route]:
    actions = _Actions(services, services.files)
    return [
        Route("/v1/files/upload", actions.announce, methods=["POST"]),
        Route("/v1/files/confirm", actions.confirm, methods=["POST"]),
        Route("/v1/files", actions.show_all, methods=["GET"]),
        Route("/v1/files/{id}", actions.show, methods=["GET"]),
        Route("/v1/files/{id}", actions.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/download", actions.download, methods=["GET"]),
        Route("/v1/files/{id}/url", actions.sign, methods=["GET"]),
        Route("/v1/files/{id}/content", actions.receive, methods=["PUT"]),
        Route("/v1/files/{id}/content", actions.send, methods=["GET"]),
        Route("/v1/inputs/{name}", actions.send_input, methods=["GET"]),
    ]


class _Actions:
    def __init__(self, services: Services, store: Files) -> None:
        self._services = services
        self._store = store

    async def announce(self, request: Request) -> Response:
        """200 with the URL to send the bytes to."""
        api_key = self._services.principal(request)
        wanted = await read_body(request, _decode_new)
        bounds = self._store.bounds
        if all(each is None for each in (wanted.purpose, wanted.filename, wanted.content_type, wanted.size_bytes)):
            raise invalid("purpose", "'purpose' is missing: INPUT or UPLOAD.", "REQUIRED")
        if wanted.size_bytes is not None and wanted.size_bytes > bounds.bytes_max:
            raise _too_large(bounds.bytes_max)
        file_id = self._services.ids.new()
        try:
            expires_at = await files.begin_upload(
                self._store.pool,
                file_id=file_id,
                org_id=api_key.org_id,
                api_key_id=api_key.id,
                purpose=wanted.purpose or "UPLOAD",
                region=wanted.region,
                ttl_days=wanted.ttl_days,
                ttl_days_default=bounds.ttl_days,
                bytes_max=bounds.organisation_bytes,
                now=self._store.now(),
            )
        except files.StorageFull:
            raise _full() from None
        except files.TooManyUploads:
            message = f"{files.PENDING_MAX} uploads are begun and not finished: finish some, or wait an hour."
            raise Refusal(ErrorCode.RATE_LIMITED, message, retry_after_s=60) from None
        url = self._url(request, UrlUse.UPLOAD, file_id, self._now_s() + UPLOAD_S)
        return answer({"file_id": ids.text("file", file_id), "upload_url": url, "expires_at": moment(expires_at)})

    async def receive(self, request: Request) -> Response:
        """200 with the file. The URL is the permission, once: after a refusal the bytes may be sent again."""
        file_id = self._signed(request, UrlUse.UPLOAD, request.path_params["id"])
        bytes_max = self._store.bounds.bytes_max
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the bytes as they are, without a content encoding.")
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:19]) > bytes_max:
            raise _too_large(bytes_max)
        row = await files.find_file(self._store.pool, None, file_id, self._store.now())
        if row is None:
            raise Refusal(ErrorCode.NOT_FOUND)
        if row.state is not FileState.PENDING:
            raise _ended()
        try:
            filled = await self._store.receive(row, _body(request), source_ip=_source_ip(request))
        except FileTooLarge:
            raise _too_large(bytes_max) from None
        except TypeUnsupported:
            raise Refusal(ErrorCode.FILE_FORMAT_UNSUPPORTED, _UNSUPPORTED) from None
        except files.UploadEnded:
            raise _ended() from None
        except files.StorageFull:
            raise _full() from None
        except (TimeoutError, ClientDisconnect):
            raise Refusal(ErrorCode.REQUEST_TIMEOUT) from None
        except StoreUnavailable:
            raise _unavailable() from None
        return answer(_shown(filled))

    async def confirm(self, request: Request) -> Response:
        """200 with the file, once its bytes are there; needed by nobody."""
        org_id = self._services.principal(request).org_id
        named = await read_body(request, _decode_named)
        try:
            file_id = ids.parse("file", named.file_id)
        except ValueError:
            raise Refusal(ErrorCode.FILE_NOT_FOUND) from None
        return answer(_shown(await self._store.input_row(org_id, file_id)))

    async def show_all(self, request: Request) -> Response:
        """The newest first, in pages; `?status=`, `?purpose=`, `?region=`, `?execution_id=`."""
        org_id = self._services.principal(request).org_id
        asked = page_request(request, "file", "status", "purpose", "region", "execution_id")
        wanted = Wanted(
            state=_state(request),
            purpose=_one_of(request, "purpose", ("INPUT", "UPLOAD", "OUTPUT")),
            region=_one_of(request, "region", ("US", "EU", "APAC")),
            execution_id=_execution_id(request),
        )
        rows = await files.list_files(
            self._store.pool, org_id, wanted, limit=asked.limit + 1, before=asked.before, now=self._store.now()
        )
        shown = rows[: asked.limit]
        next_cursor = ids.text("file", shown[-1].id) if len(rows) > asked.limit else None
        return answer(page([_shown(row) for row in shown], next_cursor))

    async def show(self, request: Request) -> Response:
        return answer(_shown(await self._row(request)))

    async def delete(self, request: Request) -> Response:
        """204, for everybody at once."""
        api_key = self._services.principal(request)
        actor = Actor(api_key.id, _source_ip(request))
        if not await self._store.delete(api_key.org_id, path_id(request, "file"), actor):
            raise unknown("file")
        return answer(None, status=204)

    async def download(self, request: Request) -> Response:
        """The bytes; or, to who asks for JSON, a URL that gives them."""
        row = await self._ready(request)
        if request.query_params.get("presigned") == "true" or request.headers.get("accept") == "application/json":
            return self._presigned(request, row)
        return await self._content(request, row)

    async def sign(self, request: Request) -> Response:
        return self._presigned(request, await self._ready(request))

    async def send(self, request: Request) -> Response:
        """The bytes, for whoever has the URL."""
        file_id = self._signed(request, UrlUse.DOWNLOAD, request.path_params["id"])
        return await self._content(request, await self._ready_by_url(file_id))

    async def send_input(self, request: Request) -> Response:
        """The same for a provider."""
        name, _, extension = request.path_params["name"].partition(".")
        file_id = self._signed(request, UrlUse.INPUT, name)
        row = await self._ready_by_url(file_id)
        if extension != EXTENSIONS.get(row.content_type or "", "bin"):
            raise Refusal(ErrorCode.NOT_FOUND)
        return await self._content(request, row)

    async def _row(self, request: Request) -> FileRow:
        """Of the organisation's own. Raises Refusal 404."""
        org_id = self._services.principal(request).org_id
        row = await files.find_file(self._store.pool, org_id, path_id(request, "file"), self._store.now())
        if row is None:
            raise unknown("file")
        return row

    async def _ready(self, request: Request) -> FileRow:
        row = await self._row(request)
        if row.state is not FileState.READY:
            raise unknown("file")
        return row

    async def _ready_by_url(self, file_id: bytes) -> FileRow:
        row = await files.find_file(self._store.pool, None, file_id, self._store.now())
        if row is None or row.state is not FileState.READY:
            raise Refusal(ErrorCode.NOT_FOUND)
        return row

    def _signed(self, request: Request, use: UrlUse, text: str) -> bytes:
        """The file of a signed URL. Raises Refusal 403, which says nothing of whether there is such a file."""
        try:
            file_id = ids.parse("file", text)
        except ValueError:
            file_id = b""
        if not self._store.urls.is_valid(use, file_id, request.query_params, self._now_s()):
            raise Refusal(ErrorCode.PERMISSION_DENIED, "This URL is not one that we signed, or its time is over.")
        return file_id

    def _presigned(self, request: Request, row: FileRow) -> Response:
        expires_at = self._store.now().replace(microsecond=0) + timedelta(seconds=DOWNLOAD_S)
        url = self._url(request, UrlUse.DOWNLOAD, row.id, int(expires_at.timestamp()))
        shown = {"url": url, "expires_at": moment(expires_at)}
        return answer(shown | {"content_type": row.content_type, "size_bytes": row.size_bytes})

    def _url(self, request: Request, use: UrlUse, file_id: bytes, expires_s: int) -> str:
        return self._store.urls.url(use, file_id, expires_s=expires_s, origin=origin_of(request))

    async def _content(self, request: Request, row: FileRow) -> Response:
        """200, or 206 for one range of it."""
        assert row.size_bytes is not None
        assert row.sha256 is not None
        etag = f'"{row.sha256.hex()}"'
        headers = {
            **_SAFE,
            "content-type": row.content_type or "application/octet-stream",
            "content-disposition": f'attachment; filename="{ids.text("file", row.id)}.{_extension(row)}"',
            "accept-ranges": "bytes",
            "etag": etag,
        }
        start, end, status = 0, row.size_bytes, 200
        try:
            found = _range(request, row.size_bytes) if request.headers.get("if-range", etag) == etag else None
        except Refusal as refusal:
            refused = refuse(refusal, request_id_of(request, self._services.ids))
            refused.headers["content-range"] = f"bytes */{row.size_bytes}"
            return refused
        if found is not None:
            start, end = found
            status = 206
            headers["content-range"] = f"bytes {start}-{end - 1}/{row.size_bytes}"
        headers["content-length"] = str(end - start)
        if request.method == "HEAD":
            return Response(None, status, headers)
        try:
            opened = await self._store.open_file(row, start, end)
        except StoreUnavailable:
            raise _unavailable() from None
        return StreamingResponse(_parts(opened), status, headers)

    def _now_s(self) -> int:
        return self._services.clock.unix_ns() // 1_000_000_000


async def _body(request: Request) -> AsyncIterator[bytes]:
    """Raises TimeoutError when nothing comes for a while, ClientDisconnect when nothing will."""
    stream = request.stream()
    while True:
        async with asyncio.timeout(_IDLE_S):
            part = await anext(stream, None)
        if part is None:
            return
        if part:
            yield part


async def _parts(opened: OpenFile) -> AsyncIterator[bytes]:
    async with aclosing(opened.parts) as parts:
        async for part in parts:
            yield part


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """The one range that is asked for, as start and end; None for all of it: several at once are not served (RFC 9110
    §14.2 lets us). Raises Refusal 416."""
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked[0] == "bytes=-":
        return None
    if not asked[1]:
        start, end = max(0, size - int(asked[2])), size
    else:
        start, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return None  # not a range at all
    if start >= size or start >= end:
        raise Refusal(ErrorCode.RANGE_NOT_SATISFIABLE, f"The file has {size} bytes.")
    return start, end


def _shown(row: FileRow) -> dict[str, object]:
    file_id = ids.text("file", row.id)
    return {
        "id": file_id,
        "file_id": file_id,
        "purpose": row.purpose,
        "status": row.state.value,
        "region": row.region,
        "content_type": row.content_type,
        "size_bytes": row.size_bytes,
        "sha256": None if row.sha256 is None else row.sha256.hex(),
        "width": row.width,
        "height": row.height,
        "duration_ms": row.duration_ms,
        "execution_id": None if row.execution_id is None else ids.text("exec", row.execution_id),
        "created_at": moment(row.created_at),
        "expires_at": moment(row.expires_at),
    }


def _extension(row: FileRow) -> str:
    return EXTENSIONS.get(row.content_type or "", "bin")


def _source_ip(request: Request) -> str | None:
    """As the gateway says it is."""
    try:
        return str(ip_address(request.headers.get("x-forwarded-for", "")))
    except ValueError:
        return None


def _one_of(request: Request, name: str, allowed: tuple[str, ...]) -> str | None:
    value = request.query_params.get(name)
    if value is not None and value not in allowed:
        raise invalid(name, f"'{name}' is one of {', '.join(allowed)}.")
    return value


def _state(request: Request) -> FileState | None:
    value = _one_of(request, "status", (FileState.PENDING.value, FileState.READY.value))
    return None if value is None else FileState(value)


def _execution_id(request: Request) -> bytes | None:
    value = request.query_params.get("execution_id")
    try:
        return None if value is None else ids.parse("exec", value)
    except ValueError:
        told = "'execution_id' is the id of an execution: exec_<uuid>."
        raise invalid("execution_id", told, "INVALID_FORMAT") from None


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, f"A file has at most {bytes_max:,} bytes.")


def _full() -> Refusal:
    return Refusal(
        ErrorCode.CONFLICT,
        "The organisation's files take all the room that they may. Delete some, or ask the operator.",
    )


def _ended() -> Refusal:
    return Refusal(ErrorCode.CONFLICT, "This upload is over: announce another one.")


def _unavailable() -> Refusal:
    return Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=_RETRY_AFTER_S)
