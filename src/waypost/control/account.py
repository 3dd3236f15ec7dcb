"""What a key may read of its organisation's account.

`GET /v1/key` · `GET /v1/balance` · `GET /v1/usage` · `GET /v1/executions` · `GET /v1/executions/{id}`

After ModelRoute's two permission levels: money is read with full access; a key that may only run executions sees the
executions that it made itself, and nothing of anybody else's.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, moment, page, page_request, path_id
from waypost.control.services import Services
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.money import format_usd, format_usd_floor
from waypost.ledger.record import Outcome
from waypost.storage.balances import balance_of, budgets_of
from waypost.storage.executions import ExecutionRow, find_execution, list_executions
from waypost.storage.usage import UsageRow, total_of, usage_of
from waypost.tenancy.api_key import ApiKey, Scope

_STATUS = {
    Outcome.COMPLETED: "COMPLETED",
    Outcome.DISCONNECTED: "CANCELLED",  # by whoever called
}
_RARE = ("images", "duration_ms", "characters")


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/key", actions.key, methods=["GET"]),
        Route("/v1/balance", actions.balance, methods=["GET"]),
        Route("/v1/usage", actions.usage, methods=["GET"]),
        Route("/v1/executions", actions.executions, methods=["GET"]),
        Route("/v1/executions/{id}", actions.execution, methods=["GET"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def key(self, request: Request) -> Response:
        """The key itself: what it may do, and what is left of its own budget. Of its project's it learns nothing."""
        api_key = self._services.principal(request)
        own = await budgets_of(self._services.pool, api_key.org_id, api_key.id)
        budgets = [
            {
                "window": each.period,
                "limit": format_usd(each.amount_nanos),
                "used": format_usd(each.taken_nanos),
                "renews_at": moment(each.renews_at),
            }
            for each in own
        ]
        until_ms = api_key.valid_until_ms
        return answer(
            {
                "id": ids.text("key", api_key.id),
                "organization_id": ids.text("org", api_key.org_id),
                "project_id": None if api_key.project_id is None else ids.text("proj", api_key.project_id),
                "scope": api_key.scope.value,
                "requests_per_minute": api_key.requests_per_minute,
                "tokens_per_minute": api_key.tokens_per_minute,
                "models": None if api_key.models is None else sorted(api_key.models),
                "budgets": budgets,
                "valid_until": None if until_ms is None else moment(datetime.fromtimestamp(until_ms // 1000, UTC)),
            }
        )

    async def balance(self, request: Request) -> Response:
        found = await balance_of(self._services.pool, self._services.administrator(request).org_id)
        return answer(
            {
                "available_nanos": str(found.available_nanos),
                "held_nanos": str(found.held_nanos),
                "suspense_nanos": str(found.suspense_nanos),
                "usd": format_usd_floor(found.total_nanos),
            }
        )

    async def usage(self, request: Request) -> Response:
        """By day (UTC) and model; `since` is a day or a moment, by default a month ago."""
        org_id = self._services.administrator(request).org_id
        rows = await usage_of(self._services.pool, org_id, since_ms=self._since_ms(request))
        shown = [{"day": str(row.day), "model": row.model} | _counts(row) for row in rows]
        return answer({"rows": shown, "total": _counts(total_of(rows))})

    async def executions(self, request: Request) -> Response:
        """The newest first, in pages."""
        api_key = self._services.principal(request)
        wanted = page_request(request, "exec")
        rows = await list_executions(
            self._services.pool,
            api_key.org_id,
            limit=wanted.limit + 1,
            before=wanted.before,
            api_key_id=_seen_by(api_key),
        )
        shown = rows[: wanted.limit]
        next_cursor = ids.text("exec", shown[-1].id) if len(rows) > wanted.limit else None
        return answer(page([_execution(row) for row in shown], next_cursor))

    async def execution(self, request: Request) -> Response:
        """404 for one that is unknown, another's, or still runs."""
        api_key = self._services.principal(request)
        found = await find_execution(
            self._services.pool, api_key.org_id, path_id(request, "exec"), api_key_id=_seen_by(api_key)
        )
        if found is None:
            raise Refusal(ErrorCode.NOT_FOUND)
        return answer(_execution(found))

    def _since_ms(self, request: Request) -> int:
        text = request.query_params.get("since")
        if text is None:
            return self._services.clock.unix_ns() // 1_000_000 - 31 * 86_400_000
        try:
            since = datetime.fromisoformat(text)
            return max(0, int((since if since.tzinfo is not None else since.replace(tzinfo=UTC)).timestamp()) * 1000)
        except (ValueError, OverflowError):
            raise invalid("since", "'since' is a day such as 2026-11-01, or a moment in ISO 8601.") from None


def _seen_by(api_key: ApiKey) -> bytes | None:
    return None if api_key.scope is Scope.FULL else api_key.id


def _counts(row: UsageRow) -> dict[str, object]:
    counts = msgspec.structs.asdict(row)
    return {name: value for name, value in counts.items() if name not in ("day", "model", "charge_nanos")} | {
        "charge_nanos": str(row.charge_nanos)
    }


def _execution(row: ExecutionRow) -> dict[str, object]:
    usage: dict[str, object] = {
        "input_tokens": row.input_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "output_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "is_estimated": row.is_estimated,
    }
    usage |= {name: getattr(row, name) for name in _RARE if getattr(row, name)}
    return {
        "id": ids.text("exec", row.id),
        "status": _STATUS.get(row.outcome, "FAILED"),
        "model": row.model,
        "usage": usage,
        "cost": format_usd(row.charge_nanos),
        "created_at": moment(row.accepted_at),
        "completed_at": moment(row.closed_at),
        "error": _error(row),
    }


def _error(row: ExecutionRow) -> dict[str, str] | None:
    if row.outcome in _STATUS:
        return None
    # What we ended ourselves without a code of its own was told so.
    code = ErrorCode[row.error_code or ErrorCode.SERVICE_UNAVAILABLE.name]
    return {"code": code.name, "message": code.message}
