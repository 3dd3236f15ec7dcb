"""Executions over HTTP.

`GET /v1/executions` · `GET /v1/executions/{id}`

A key that may only run executions sees those that it made itself; one with full access all of its organisation.
"""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, page, page_request, path_id
from waypost.control.execution_answers import shown
from waypost.control.services import Services
from waypost.executions.lifecycle import STATUSES
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.storage.executions import Filters, find_execution, list_executions
from waypost.tenancy.api_key import ApiKey, Scope


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/executions", actions.list, methods=["GET"]),
        Route("/v1/executions/{id}", actions.show, methods=["GET"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, request: Request) -> Response:
        """The newest first, in pages: `?status=…&model=…&created_after=…&created_before=…`."""
        api_key = self._services.principal(request)
        wanted = page_request(request, "exec")
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
        api_key = self._services.principal(request)
        found = await find_execution(
            self._services.pool, api_key.org_id, path_id(request, "exec"), api_key_id=_seen_by(api_key)
        )
        if found is None:
            raise Refusal(ErrorCode.NOT_FOUND)
        return answer(shown(found))


def _seen_by(api_key: ApiKey) -> bytes | None:
    return None if api_key.scope is Scope.FULL else api_key.id


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
        raise invalid(name, f"'{name}' is a day such as 2026-11-01, or a moment in ISO 8601.") from None
