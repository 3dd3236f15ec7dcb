"""MixRoute's video tasks, on executions: `POST /v1/video/generations`, `GET …/{task_id}`, `GET …/download?id=`.

A task's id is its execution's, so everything that executions can (webhooks, cancelling, idempotency keys) works for it.
Errors are in OpenAI's envelope, as MixRoute's are.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from waypost.control.answers import answer, origin_of, refuse, request_id_of
from waypost.control.execution_acceptance import Acceptance
from waypost.control.execution_answers import error_of
from waypost.control.file_urls import DOWNLOAD_S, UrlUse
from waypost.control.services import Services
from waypost.executions.input_schemas import schema_of
from waypost.executions.video_tasks import in_words_of_task, input_of_task, task_statuses
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, InvalidFields, Refusal, invalid
from waypost.kit.money import format_usd
from waypost.storage.asynchronous_rows import OutputFile
from waypost.storage.executions import ExecutionRow, find_execution
from waypost.tenancy.api_key import Scope

MODALITY = "video"
_UNKNOWN = "There is no task with this id."  # or none of this organisation: told alike
DOWNLOAD_BYTES_MAX = 32 * 1024 * 1024  # of a film inside of JSON; larger ones have their address

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_Action = Callable[[Request], Awaitable[Response]]


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/video/generations", actions.told(actions.create), methods=["POST"]),
        Route("/v1/video/generations/download", actions.told(actions.download), methods=["GET"]),
        Route("/v1/video/generations/{id}", actions.told(actions.show), methods=["GET"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._acceptance = Acceptance(services)

    def told(self, action: _Action) -> _Action:
        """The action, with refusals in OpenAI's envelope."""

        async def act(request: Request) -> Response:
            try:
                return await action(request)
            except Refusal as refusal:
                return refuse(refusal, request_id_of(request, self._services.ids), dialect="openai")

        return act

    async def create(self, request: Request) -> Response:
        """202 would be ours; MixRoute answers 200."""
        api_key = self._services.principal(request)
        body, claims = await self._acceptance.read(request)
        made, is_new = await self._acceptance.replayed(claims, api_key), False
        if made is None:
            try:
                made, is_new = await self._acceptance.accept_body(self._as_execution(body), claims, api_key)
            except InvalidFields as wrong:
                raise in_words_of_task(wrong, _decode(body)) from None
        task_id = ids.text("exec", made.id)
        headers = {"x-execution-id": task_id} | ({} if is_new else {"idempotent-replayed": "true"})
        created_at = int(made.accepted_at.timestamp())
        told = {"task_id": task_id, "id": task_id, "object": "video", "status": "pending", "created_at": created_at}
        return answer(told | {"model": made.model}, headers=headers)

    async def show(self, request: Request) -> Response:
        """The task, by the fields of both generations."""
        row = await self._found(request, request.path_params["id"])
        status, state, progress = task_statuses(row.status)
        film = _film(row)
        url = None if film is None else await self._url(request, film)
        error = error_of(row)
        if error is None and status == "failed":
            error = {"code": "CANCELLED", "message": "The task was cancelled."}
        told: dict[str, object] = {"task_id": ids.text("exec", row.id), "status": status, "format": _format(film)}
        told["url"] = url
        if error is not None:
            told["error"] = {"code": error["code"], "message": error["message"]}
        usage = None
        if row.ended is not None:
            seconds = (row.ended.duration_ms or 0) / 1000
            usage = {"duration": seconds, "cost": format_usd(row.ended.charge_nanos - row.refunded_nanos)}
        told["code"] = "success"
        told["data"] = {
            "task_id": told["task_id"],
            "status": state,
            "progress": progress,
            "result_url": url,
            "fail_reason": None if error is None else error["message"],
            "data": {"usage": usage},
        }
        return answer(told)

    async def download(self, request: Request) -> Response:
        """The film inside of JSON. Raises Refusal: 404, 409 while there is none, 413 for a large one."""
        task_name = request.query_params.get("id")
        if task_name is None:
            raise invalid("id", "'id' is missing: that of the task.", "REQUIRED")
        row = await self._found(request, task_name)
        film = _film(row)
        if film is None:
            raise _without_film(row)
        if film.bytes > DOWNLOAD_BYTES_MAX:
            told = f"The film is larger than {DOWNLOAD_BYTES_MAX:,} bytes: load it from its 'url'."
            raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told)
        # It says the film twice, and is some three times as large: so it is read twice, and never held.
        files, org_id = self._services.files, self._org_id(request)
        opened = await files.open_input(org_id, film.id)
        task_id = ids.text("exec", row.id)
        task = {"success": True, "generation_id": task_id, "task_id": task_id, "format": _format(film)}
        begin = _encode(task | {"size": film.bytes})[:-1] + b',"base64":"'
        between = f'","data_url":"data:{film.content_type};base64,'.encode()

        async def parts() -> AsyncIterator[bytes]:
            yield begin
            async for part in _as_base64(opened.parts):
                yield part
            yield between
            async for part in _as_base64((await files.open_input(org_id, film.id)).parts):
                yield part
            yield b'"}'

        return StreamingResponse(parts(), headers={"cache-control": "no-store"}, media_type="application/json")

    def _as_execution(self, body: bytes) -> bytes:
        """The body of `POST /v1/executions`. Raises Refusal 400."""
        try:
            task: Any = _decode(body)
        except (ValueError, RecursionError):
            raise invalid(None, "The body is not valid JSON.") from None
        if not isinstance(task, dict):
            raise invalid(None, "The body is a JSON object.")
        name = task.get("model")
        found = self._services.view().find(name) if isinstance(name, str) else None
        if found is not None and found.model.modality != MODALITY:
            told = f"This model makes no videos: it is one of modality '{found.model.modality}'."
            raise invalid("model", told)
        schema = schema_of(MODALITY, "" if found is None else found.model.input_schema)
        known = frozenset(schema.get("properties", {}))
        fields = {"model": name, "input": input_of_task(task, known)}
        if task.get("webhook_url") is not None:
            fields["webhook_url"] = task["webhook_url"]
        return _encode(fields)

    async def _found(self, request: Request, task_id: str) -> ExecutionRow:
        api_key = self._services.principal(request)
        try:
            execution_id = ids.parse("exec", task_id)
        except ValueError:
            raise Refusal(ErrorCode.NOT_FOUND, _UNKNOWN) from None
        seen_by = None if api_key.scope is Scope.FULL else api_key.id
        row = await find_execution(self._services.pool, api_key.org_id, execution_id, api_key_id=seen_by)
        if row is None or row.asynchronous is None or row.asynchronous.modality != MODALITY:
            raise Refusal(ErrorCode.NOT_FOUND, _UNKNOWN)
        return row

    def _org_id(self, request: Request) -> bytes:
        return self._services.principal(request).org_id

    async def _url(self, request: Request, film: OutputFile) -> str | None:
        """Where it can be loaded for an hour, without a key; None when the file is gone."""
        try:
            await self._services.files.input_row(self._org_id(request), film.id)
        except Refusal:
            return None
        expires_s = self._services.clock.unix_ns() // 1_000_000_000 + DOWNLOAD_S
        return self._services.files.urls.url(UrlUse.DOWNLOAD, film.id, expires_s=expires_s, origin=origin_of(request))


async def _as_base64(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Parts of any lengths, encoded as one value."""
    left = b""
    async for part in parts:
        whole = left + part
        cut = len(whole) - len(whole) % 3
        left = whole[cut:]
        yield base64.b64encode(whole[:cut])
    yield base64.b64encode(left)


def _without_film(row: ExecutionRow) -> Refusal:
    """Waiting helps who asks too early, and nobody else."""
    if row.ended is None:
        return Refusal(ErrorCode.CONFLICT, "The task has no film yet.", retry_after_s=2)
    error = error_of(row)
    told = "it was cancelled" if error is None else f"{error['code']}: {error['message']}"
    return Refusal(ErrorCode.CONFLICT, f"The task has ended without a film: {told}")


def _film(row: ExecutionRow) -> OutputFile | None:
    """The first that it made."""
    own = row.asynchronous
    return own.output_files[0] if own is not None and own.output_files else None


def _format(film: OutputFile | None) -> str:
    return "mp4" if film is None else film.content_type.partition("/")[2]
