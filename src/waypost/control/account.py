"""What a key may read of its organisation's account.

`GET /v1/key` · `GET /v1/balance` · `GET /v1/usage`

After ModelRoute's two permission levels: money is read with full access.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, check_query, moment
from waypost.control.services import Services
from waypost.kit import ids
from waypost.kit.errors import invalid
from waypost.kit.money import format_usd, format_usd_floor
from waypost.storage.balances import balance_of, budgets_of
from waypost.storage.usage import UsageRow, total_of, usage_of


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/key", actions.key, methods=["GET"]),
        Route("/v1/balance", actions.balance, methods=["GET"]),
        Route("/v1/usage", actions.usage, methods=["GET"]),
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
        check_query(request, "since")
        rows = await usage_of(self._services.pool, org_id, since_ms=self._since_ms(request))
        shown = [{"day": str(row.day), "model": row.model} | _counts(row) for row in rows]
        return answer({"rows": shown, "total": _counts(total_of(rows))})

    def _since_ms(self, request: Request) -> int:
        text = request.query_params.get("since")
        if text is None:
            return self._services.clock.unix_ns() // 1_000_000 - 31 * 86_400_000
        try:
            since = datetime.fromisoformat(text)
            return max(0, int((since if since.tzinfo is not None else since.replace(tzinfo=UTC)).timestamp()) * 1000)
        except (ValueError, OverflowError):
            told = "'since' is a day such as 2026-11-01, or a moment in ISO 8601."
            raise invalid("since", told, "INVALID_FORMAT") from None


def _counts(row: UsageRow) -> dict[str, object]:
    counts = msgspec.structs.asdict(row)
    money = {name: str(value) for name, value in counts.items() if name.endswith("_nanos")}
    return {name: value for name, value in counts.items() if name not in ("day", "model")} | money
