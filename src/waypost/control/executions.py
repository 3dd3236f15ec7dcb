"""Executions over HTTP.

`POST|GET /v1/executions` · `GET /v1/executions/{id}` · `GET|DELETE …/{id}/result` · `POST …/{id}/cancel` ·
`GET …/{id}/events`

A key that may only run executions does all of it with those that it made itself; one with full access with all of its
organisation. Another's is as unknown as one that never was.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, page, page_request, path_id, unknown
from waypost.control.execution_acceptance import Acceptance, forget
from waypost.control.execution_answers import accepted, error_of, latency_ms, output_of, shown
from waypost.control.execution_events import event_stream
from waypost.control.services import Services
from waypost.executions.lifecycle import STATUSES, Cancelling, State, cancelling
from waypost.executions.payload_keys import input_key, metadata_key, output_key
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.money import format_usd
from waypost.kit.values import replace
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, Ending, Job
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.storage.executions import ExecutionRow, Filters, find_execution, list_executions
from waypost.stores.vault import VaultError
from waypost.tenancy.api_key import ApiKey, Scope

WAIT_S_MAX = 60
LOOK_S = 5.0  # at an execution that is waited for, whatever is announced of it
_TRIES_MAX = 10  # of a step, each lost to somebody else's; an execution takes no more of them in the time
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*(?:=\s*\"?(\d{1,6})\"?\s*)?(?=$|[,;])", re.IGNORECASE)


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/executions", actions.create, methods=["POST"]),
        Route("/v1/executions", actions.list, methods=["GET"]),
        Route("/v1/executions/{id}", actions.show, methods=["GET"]),
        Route("/v1/executions/{id}/result", actions.result, methods=["GET"]),
        Route("/v1/executions/{id}/result", actions.delete_result, methods=["DELETE"]),
        Route("/v1/executions/{id}/cancel", actions.cancel, methods=["POST"]),
        Route("/v1/executions/{id}/events", actions.events, methods=["GET"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._acceptance = Acceptance(services)

    async def create(self, request: Request) -> Response:
        """202. With `Prefer: wait`, and an end in that time, 200 and the execution as it ended."""
        api_key = self._services.principal(request)
        wait_s = _preferred_wait_s(request)
        made, is_new = await self._acceptance.accept(request, api_key)
        shown_id = ids.text("exec", made.id)
        headers = {"location": f"/v1/executions/{shown_id}"} | _id_header(made.id)
        if not is_new:
            headers["idempotent-replayed"] = "true"
        if wait_s is not None:
            headers["preference-applied"] = f"wait={wait_s}"
            found = await self._wait_for_end(api_key, made.id, wait_s)
            if found is not None:
                return answer(await self._in_full(found), headers=headers)
        return answer(accepted(made), status=202, headers=headers)

    async def list(self, request: Request) -> Response:
        """The newest first, in pages: `?status=…&model=…&created_after=…&created_before=…`."""
        api_key = self._services.principal(request)
        wanted = page_request(request, "exec", "status", "model", "created_after", "created_before")
        rows = await list_executions(
            self._services.pool,
            api_key.org_id,
            limit=wanted.limit + 1,
            before=wanted.before,
            filters=_filters(request, api_key),
        )
        on_page = rows[: wanted.limit]
        next_cursor = ids.text("exec", on_page[-1].id) if len(rows) > wanted.limit else None
        return answer(page([shown(row) for row in on_page], next_cursor))

    async def show(self, request: Request) -> Response:
        """404 for one that is unknown, another's, or a call that its caller still waits for."""
        row = await self._found(request)
        return answer(await self._in_full(row), headers=_id_header(row.id))

    async def result(self, request: Request) -> Response:
        """409 while there is none yet, 410 when it is no longer held; of one that did not succeed, its error."""
        row = await self._found(request)
        own = row.asynchronous
        if row.ended is None:
            raise Refusal(ErrorCode.CONFLICT, "The execution has not ended yet.", retry_after_s=2)
        output = None
        if own is None:
            # Of a call that was waited for: its answer went to whoever waited.
            raise Refusal(ErrorCode.RESULT_LOST, "The answer of a call that was waited for is not kept.")
        if own.state is State.SUCCEEDED:
            try:
                output = await self._output(row, own)
            except VaultError:
                raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None
            if output is None:
                raise Refusal(ErrorCode.RESULT_LOST)
        return answer(
            {
                "execution_id": ids.text("exec", row.id),
                "status": row.status,
                "output": output,
                "cost": format_usd(row.ended.charge_nanos - row.refunded_nanos),
                "latency_ms": latency_ms(row),
                "error": error_of(row),
            },
            headers=_id_header(row.id),
        )

    async def delete_result(self, request: Request) -> Response:
        """Forget what the vault keeps of it: text, vectors, the caller's metadata. Files are deleted as files."""
        row = await self._found(request)
        if row.ended is None:
            raise Refusal(ErrorCode.CONFLICT, "The execution has not ended yet.", retry_after_s=2)
        attempt = 0 if row.asynchronous is None else row.asynchronous.attempt
        # The row first: who finds nothing in the vault must be able to tell what was deleted from what was lost.
        await self._services.executions.result_was_deleted(row.id)
        try:
            await self._services.vault.delete(output_key(row.id, attempt), metadata_key(row.id))
        except VaultError:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None
        return answer(None, status=204, headers=_id_header(row.id))

    async def cancel(self, request: Request) -> Response:
        """200 with the cancelled execution; 202 when its provider decides; 409 when it is too late: terminal states
        never change, and what is cancelled is terminal too."""
        api_key = self._services.principal(request)
        row = await self._found(request)
        for _ in range(_TRIES_MAX):
            own = row.asynchronous
            if own is None or cancelling(own.state, own.mode) is Cancelling.TOO_LATE:
                is_cancelled = own is not None and own.state is State.CANCELED
                raise Refusal(ErrorCode.CONFLICT, _CANCELLED if is_cancelled else _TOO_LATE)
            if await self._cancelled(own):
                break
            row = await self._again(api_key, row)
        row = await self._again(api_key, row)
        return answer(await self._in_full(row), status=202 if row.ended is None else 200, headers=_id_header(row.id))

    async def events(self, request: Request) -> Response:
        """Its states as server-sent events, until it has ended."""
        api_key = self._services.principal(request)
        row = await self._found(request)

        async def look() -> ExecutionRow:
            return await self._again(api_key, row)

        return event_stream(request, self._services.news, row, look)

    async def _cancelled(self, own: AsynchronousExecution) -> bool:
        """False when somebody else took a step meanwhile."""
        now = self._now()
        if cancelling(own.state, own.mode) is Cancelling.AT_ONCE:
            after = replace(own, state=State.CANCELED, ended_at=now, cancel_requested_at=now)
            if await self._services.executions.step(own, after, ending=Ending()) is None:
                return False
            await forget(self._services, input_key(own.id))
            return True
        if own.cancel_requested_at is not None:
            return True
        after = replace(own, cancel_requested_at=now)
        return await self._services.executions.step(own, after, jobs=[Job(CANCEL_AT_PROVIDER)]) is not None

    async def _found(self, request: Request) -> ExecutionRow:
        api_key = self._services.principal(request)
        found = await self._find(api_key, path_id(request, "exec"))
        if found is None:
            raise unknown("exec")
        return found

    async def _again(self, api_key: ApiKey, row: ExecutionRow) -> ExecutionRow:
        return await self._find(api_key, row.id) or row

    async def _find(self, api_key: ApiKey, execution_id: bytes) -> ExecutionRow | None:
        return await find_execution(self._services.pool, api_key.org_id, execution_id, api_key_id=_seen_by(api_key))

    async def _wait_for_end(self, api_key: ApiKey, execution_id: bytes, wait_s: int) -> ExecutionRow | None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        with self._services.news.of(execution_id) as steps:
            while True:
                row = await self._find(api_key, execution_id)
                if row is not None and row.ended is not None:
                    return row
                left_s = until_s - loop.time()
                if left_s <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(steps.wait(), min(left_s, LOOK_S))

    async def _in_full(self, row: ExecutionRow) -> dict[str, object]:
        """What is known of it, with what the vault keeps of it."""
        own = row.asynchronous
        if own is None:
            return shown(row)
        output: object = None
        metadata = None
        try:
            output = await self._output(row, own)
            metadata = await self._services.vault.get(metadata_key(row.id))
        except VaultError:
            pass  # what is in there cannot be told now
        else:
            if output is None and own.state is State.SUCCEEDED:  # it may have been lost, and paid back
                row = await find_execution(self._services.pool, own.org_id, own.id) or row
        return shown(row) | {"output": output, "metadata": None if metadata is None else msgspec.Raw(metadata)}

    async def _output(self, row: ExecutionRow, own: AsynchronousExecution) -> object:
        """Everything that it made, None when there is nothing, or no longer. Raises VaultError. What should be there
        and is not was lost by us: then its price goes back, if nobody read it before."""
        if own.state is not State.SUCCEEDED or own.output_files:
            return output_of(own, None)
        if own.result_until is None or own.result_until <= self._now():
            return None
        kept = await self._services.vault.get(output_key(own.id, own.attempt))
        if kept is None:
            await self._services.executions.result_is_lost(own.id)
            return None
        if not row.was_read and not await self._services.executions.result_was_read(own.id):
            return None
        return output_of(own, kept)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._services.clock.unix_ns() / 1e9, UTC)


_TOO_LATE = "It is too late to cancel: the execution has ended, or is about to."
_CANCELLED = "The execution is cancelled already."


def _id_header(execution_id: bytes) -> dict[str, str]:
    return {"x-execution-id": ids.text("exec", execution_id)}


def _seen_by(api_key: ApiKey) -> bytes | None:
    return None if api_key.scope is Scope.FULL else api_key.id


def _preferred_wait_s(request: Request) -> int | None:
    """Of `Prefer: wait` or `wait=n` (RFC 7240), whole seconds, at most `WAIT_S_MAX`."""
    found = _WAIT.search(request.headers.get("prefer", ""))
    return None if found is None else min(int(found[1] or WAIT_S_MAX), WAIT_S_MAX)


def _filters(request: Request, api_key: ApiKey) -> Filters:
    """Raises Refusal: 400 naming the parameter."""
    status = request.query_params.get("status")
    if status is not None and status not in STATUSES:
        raise invalid("status", f"'status' is one of {', '.join(STATUSES)}.")
    return Filters(
        api_key_id=_seen_by(api_key),
        status=status,
        model=request.query_params.get("model"),
        created_from_ms=_moment_ms(request, "created_after"),
        created_before_ms=_moment_ms(request, "created_before"),
    )


def _moment_ms(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        ms = int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)
        return min(max(0, ms), (1 << 48) - 1)  # as far as ids can tell
    except (ValueError, OverflowError):
        told = f"'{name}' is a day such as 2026-11-01, or a moment in ISO 8601."
        raise invalid(name, told, "INVALID_FORMAT") from None
