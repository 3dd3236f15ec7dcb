"""What became of webhooks, by HTTP and with a key of full access.

`GET /v1/webhooks/deliveries` · `GET /v1/webhooks/deliveries/{id}` · `POST /v1/webhooks/deliveries/{id}/redeliver`
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, moment, page, page_request, path_id, unknown
from waypost.control.services import Services
from waypost.control.webhooks import DELETED, INACTIVE
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.storage.webhook_history import (
    Deleted,
    Delivery,
    Inactive,
    Wanted,
    find_delivery,
    list_deliveries,
    redeliver,
)
from waypost.webhooks.event import EventType

_STATES = {"pending": "PENDING", "delivered": "DELIVERED", "dead": "DEAD"}
_SHOWN = {state: name for name, state in _STATES.items()}
_EVENTS = tuple(each.value for each in EventType)


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/webhooks/deliveries", actions.show_all, methods=["GET"]),
        Route("/v1/webhooks/deliveries/{id}", actions.show, methods=["GET"]),
        Route("/v1/webhooks/deliveries/{id}/redeliver", actions.redeliver, methods=["POST"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def show_all(self, request: Request) -> Response:
        """The newest first, in pages: `?endpoint_id=…&execution_id=…&status=pending|delivered|dead&event=…`."""
        org_id = self._services.administrator(request).org_id
        wanted = page_request(request, "whd", "endpoint_id", "execution_id", "status", "event")
        rows = await list_deliveries(
            self._services.pool, org_id, _filters(request), limit=wanted.limit + 1, before=wanted.before
        )
        on_page = rows[: wanted.limit]
        next_cursor = ids.text("whd", on_page[-1].id) if len(rows) > wanted.limit else None
        return answer(page([_shown(each) for each in on_page], next_cursor))

    async def show(self, request: Request) -> Response:
        org_id = self._services.administrator(request).org_id
        found = await find_delivery(self._services.pool, org_id, path_id(request, "whd"))
        if found is None:
            raise unknown("whd")
        return answer(_shown(found))

    async def redeliver(self, request: Request) -> Response:
        """202: it is sent again, with the id that its event has, and the whole schedule before it."""
        services = self._services
        org_id = services.administrator(request).org_id
        delivery_id, expires_s = path_id(request, "whd"), services.webhooks.expires_s()
        try:
            return answer(_shown(await redeliver(services.pool, org_id, delivery_id, expires_s=expires_s)), status=202)
        except LookupError:
            raise unknown("whd") from None
        except Inactive:
            raise Refusal(ErrorCode.CONFLICT, INACTIVE) from None
        except Deleted:
            raise Refusal(ErrorCode.CONFLICT, DELETED) from None


def _filters(request: Request) -> Wanted:
    """Raises Refusal: 400 naming the parameter."""
    status, event = request.query_params.get("status"), request.query_params.get("event")
    if status is not None and status not in _STATES:
        raise invalid("status", f"'status' is one of {', '.join(_STATES)}.")
    if event is not None and event not in _EVENTS:
        raise invalid("event", f"'event' is one of {', '.join(_EVENTS)}.")
    return Wanted(
        endpoint_id=_id(request, "endpoint_id", "wh"),
        execution_id=_id(request, "execution_id", "exec"),
        state=None if status is None else _STATES[status],
        event=event,
    )


def _id(request: Request, name: str, kind: str) -> bytes | None:
    text = request.query_params.get(name)
    try:
        return None if text is None else ids.parse(kind, text)
    except ValueError:
        raise invalid(name, f"'{name}' is an id such as {kind}_….", "INVALID_FORMAT") from None


def _shown(delivery: Delivery) -> dict[str, object]:
    is_pending = delivery.state == "PENDING"
    return {
        "id": ids.text("whd", delivery.id),
        # null: to the URL that came with the request
        "endpoint_id": None if delivery.endpoint_id is None else ids.text("wh", delivery.endpoint_id),
        "event_id": ids.text("evt", delivery.event_id),
        "event_type": delivery.event,
        "type": delivery.event,
        "execution_id": None if delivery.execution_id is None else ids.text("exec", delivery.execution_id),
        "sequence": delivery.sequence,
        "status": _SHOWN[delivery.state],
        "reason": delivery.reason,
        "attempts": delivery.attempts,
        "next_attempt_at": moment(delivery.due_at) if is_pending else None,
        "expires_at": moment(delivery.expires_at),
        "last_status_code": delivery.last_status,
        "last_error": delivery.last_error,
        "last_latency_ms": delivery.last_took_ms,
        "created_at": moment(delivery.created_at),
        "completed_at": moment(delivery.ended_at),
    }
