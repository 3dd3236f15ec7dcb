"""Where an organisation wants to hear of its executions, by HTTP and with a key of full access.

`POST|GET /v1/webhooks/endpoints` · `GET|PATCH|DELETE /v1/webhooks/endpoints/{id}` · `POST …/{id}/test` ·
`POST …/{id}/rotate-secret` · `POST …/{id}/replay` · `GET /v1/webhooks/secret` · `POST /v1/webhooks/secret/rotate`

After ModelRoute's public contract: the secret of an endpoint is shown once. The organisation's own secret, which signs
for URLs given with requests, is shown to who asks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, check_query, moment, path_id, read_body, unknown
from waypost.control.services import Services
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.storage.webhook_deliveries import FAILURES_MAX
from waypost.storage.webhook_endpoints import (
    ROTATION_OVERLAP_S,
    Change,
    Endpoint,
    TooManyEndpoints,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    find_endpoint,
    list_endpoints,
    organisation_secret,
    rotate_organisation_secret,
    rotate_secret,
)
from waypost.storage.webhook_history import Inactive, replay
from waypost.upstream.guard import UrlForbidden, read_url
from waypost.webhooks.event import SUBSCRIBABLE
from waypost.webhooks.header_rules import HeaderRefused, read_headers
from waypost.webhooks.sealed import Unreadable
from waypost.webhooks.signature import SECRET_BYTES, secret_text

_FAILING = (
    f"{FAILURES_MAX} attempts in a row failed. Its events are kept as dead letters for 30 days: repair the receiver, "
    "set 'is_active' to true, and replay them."
)
_GONE = "The receiver answered 410 Gone. Set 'is_active' to true when it is there again."
_NOTICES = {"FAILING": ("consecutive_failures", _FAILING), "GONE": ("gone", _GONE)}
INACTIVE = "The endpoint is not active: set 'is_active' to true first."
DELETED = "The endpoint was deleted: nothing can be sent to it any more."
_Description = Annotated[str, msgspec.Meta(max_length=500)]
_Events = Annotated[list[str], msgspec.Meta(max_length=len(SUBSCRIBABLE))]
_Headers = dict[str, str]


class _NewEndpoint(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    description: _Description = ""
    events: _Events | None = None
    headers: _Headers | None = None


class _Changed(msgspec.Struct, forbid_unknown_fields=True):
    url: str | None = None
    description: _Description | None = None
    events: _Events | None = None
    headers: _Headers | None = None
    is_active: bool | None = None
    status: Literal["active", "inactive"] | None = None


class _Rotation(msgspec.Struct, forbid_unknown_fields=True):
    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=int(ROTATION_OVERLAP_S))] = int(ROTATION_OVERLAP_S)


class _Replay(msgspec.Struct, forbid_unknown_fields=True):
    since: datetime | None = None


_decode_new = msgspec.json.Decoder(_NewEndpoint)
_decode_changed = msgspec.json.Decoder(_Changed)
_decode_rotation = msgspec.json.Decoder(_Rotation)
_decode_replay = msgspec.json.Decoder(_Replay)


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    one = "/v1/webhooks/endpoints/{id}"
    return [
        Route("/v1/webhooks/endpoints", actions.create, methods=["POST"]),
        Route("/v1/webhooks/endpoints", actions.show_all, methods=["GET"]),
        Route(one, actions.show, methods=["GET"]),
        Route(one, actions.change, methods=["PATCH"]),
        Route(one, actions.delete, methods=["DELETE"]),
        Route(f"{one}/test", actions.test, methods=["POST"]),
        Route(f"{one}/rotate-secret", actions.rotate, methods=["POST"]),
        Route(f"{one}/replay", actions.replay, methods=["POST"]),
        Route("/v1/webhooks/secret", actions.show_secret, methods=["GET"]),
        Route("/v1/webhooks/secret/rotate", actions.rotate_secret, methods=["POST"]),
    ]


def check_url(services: Services, url: str, *, field: str) -> None:
    """Raises Refusal: 400 naming the field, for a URL that no webhook would be sent to."""
    try:
        read_url(url, services.webhooks.allowed())
    except UrlForbidden as forbidden:
        raise invalid(field, f"'{field}' cannot be called. {forbidden}", "INVALID_FORMAT") from None


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, request: Request) -> Response:
        """201 with the secret, which nobody can show again."""
        services = self._services
        org_id = services.administrator(request).org_id
        wanted = await read_body(request, _decode_new)
        check_url(services, wanted.url, field="url")
        endpoint_id, secret = services.ids.new(), _new_secret()
        headers = _checked_headers(wanted.headers or {})
        change = Change(
            url=services.webhooks.sealed.seal_url(endpoint_id, wanted.url),
            description=wanted.description,
            events=_checked_events(wanted.events or ()),
            headers=services.webhooks.sealed.seal_headers(endpoint_id, headers),
            header_names=list(headers),
        )
        sealed = services.webhooks.sealed.seal_secret(endpoint_id, secret)
        most = services.webhooks.endpoints_max()
        try:
            made = await create_endpoint(services.pool, org_id, endpoint_id, change, secret=sealed, endpoints_max=most)
        except TooManyEndpoints:
            raise Refusal(
                ErrorCode.CONFLICT, f"The organisation has {most} endpoints, and may have no more. Delete one first."
            ) from None
        return answer(self._shown(made) | {"secret": secret}, status=201)

    async def show_all(self, request: Request) -> Response:
        """At most as many as an organisation may have, so there is one page; under ModelRoute's name and under ours."""
        org_id = self._services.administrator(request).org_id
        check_query(request)
        listed = await list_endpoints(self._services.pool, org_id)
        rows = [self._shown(each) for each in listed]
        return answer({"endpoints": rows, "data": rows, "next_cursor": None})

    async def show(self, request: Request) -> Response:
        org_id = self._services.administrator(request).org_id
        found = await find_endpoint(self._services.pool, org_id, path_id(request, "wh"))
        if found is None:
            raise unknown("wh")
        return answer(self._shown(found))

    async def change(self, request: Request) -> Response:
        """What is left out stays. Made inactive, what is on its way becomes dead letters."""
        services = self._services
        org_id, endpoint_id = services.administrator(request).org_id, path_id(request, "wh")
        wanted = await read_body(request, _decode_changed)
        if wanted.url is not None:
            check_url(services, wanted.url, field="url")
        headers = None if wanted.headers is None else _checked_headers(wanted.headers)
        change = Change(
            url=None if wanted.url is None else services.webhooks.sealed.seal_url(endpoint_id, wanted.url),
            description=wanted.description,
            events=None if wanted.events is None else _checked_events(wanted.events),
            headers=None if headers is None else services.webhooks.sealed.seal_headers(endpoint_id, headers),
            header_names=None if headers is None else list(headers),
            state=_state(wanted),
        )
        try:
            return answer(self._shown(await change_endpoint(services.pool, org_id, endpoint_id, change)))
        except LookupError:
            raise unknown("wh") from None

    async def delete(self, request: Request) -> Response:
        org_id = self._services.administrator(request).org_id
        try:
            await delete_endpoint(self._services.pool, org_id, path_id(request, "wh"))
        except LookupError:
            raise unknown("wh") from None
        return answer(None, status=204)

    async def test(self, request: Request) -> Response:
        """Send one event of type `webhook.test` now, and tell how it went."""
        org_id = self._services.administrator(request).org_id
        try:
            delivery_id, attempt = await self._services.webhooks.test(org_id, path_id(request, "wh"))
        except LookupError:
            raise unknown("wh") from None
        return answer(
            {
                "id": ids.text("whd", delivery_id),
                "success": attempt.is_success,
                "status_code": attempt.status,
                "error": attempt.error,
                "latency_ms": round(attempt.took_s * 1000),
            }
        )

    async def rotate(self, request: Request) -> Response:
        """A new secret, shown once; for a day, or as long as was asked for, the old one signs too."""
        services = self._services
        org_id, endpoint_id = services.administrator(request).org_id, path_id(request, "wh")
        wanted, secret = await read_body(request, _decode_rotation), _new_secret()
        sealed = services.webhooks.sealed.seal_secret(endpoint_id, secret)
        try:
            until = await rotate_secret(services.pool, org_id, endpoint_id, secret=sealed, overlap_s=wanted.overlap_s)
        except LookupError:
            raise unknown("wh") from None
        return answer(
            {"id": ids.text("wh", endpoint_id), "secret": secret, "previous_secret_valid_until": moment(until)}
        )

    async def replay(self, request: Request) -> Response:
        """Send its dead letters again, all or those since a moment."""
        services = self._services
        org_id, endpoint_id = services.administrator(request).org_id, path_id(request, "wh")
        since = (await read_body(request, _decode_replay)).since
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        expires_s = services.webhooks.expires_s()
        try:
            replayed = await replay(services.pool, org_id, endpoint_id, since=since, expires_s=expires_s)
        except LookupError:
            raise unknown("wh") from None
        except Inactive:
            raise Refusal(ErrorCode.CONFLICT, INACTIVE) from None
        return answer({"replayed": replayed}, status=202)

    async def show_secret(self, request: Request) -> Response:
        """The organisation's own secret, made when it is first asked for."""
        services = self._services
        org_id = services.administrator(request).org_id
        fresh = services.webhooks.sealed.seal_secret(org_id, _new_secret())
        sealed, until = await organisation_secret(services.pool, org_id, fresh=fresh)
        secret = services.webhooks.sealed.secret(org_id, sealed)
        return answer({"secret": secret, "previous_secret_valid_until": moment(until)})

    async def rotate_secret(self, request: Request) -> Response:
        services = self._services
        org_id = services.administrator(request).org_id
        wanted, secret = await read_body(request, _decode_rotation), _new_secret()
        sealed = services.webhooks.sealed.seal_secret(org_id, secret)
        until = await rotate_organisation_secret(services.pool, org_id, secret=sealed, overlap_s=wanted.overlap_s)
        return answer({"secret": secret, "previous_secret_valid_until": moment(until)})

    def _shown(self, endpoint: Endpoint) -> dict[str, object]:
        try:
            url = self._services.webhooks.sealed.url(endpoint.id, endpoint.url)
        except Unreadable:  # the secrets directory is another one: nothing is sent there either
            url = None
        return {"id": ids.text("wh", endpoint.id), "url": url} | _shown(endpoint)


def _new_secret() -> str:
    return secret_text(os.urandom(SECRET_BYTES))


def _checked_events(events: Sequence[str]) -> list[str]:
    for at, each in enumerate(events):
        if each not in SUBSCRIBABLE:
            raise invalid(f"events[{at}]", f"An event is one of {', '.join(SUBSCRIBABLE)}; none means all.")
    return list(dict.fromkeys(events))


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    try:
        return read_headers(headers)
    except HeaderRefused as refused:
        at = f"headers.{refused.name}" if refused.name else "headers"
        raise invalid(at, str(refused), refused.detail) from None


def _state(wanted: _Changed) -> str | None:
    by_status = None if wanted.status is None else wanted.status == "active"
    if wanted.is_active is not None and by_status is not None and wanted.is_active is not by_status:
        raise invalid("status", "'status' and 'is_active' contradict each other.")
    is_active = wanted.is_active if wanted.is_active is not None else by_status
    return None if is_active is None else "ACTIVE" if is_active else "PAUSED"


def _shown(endpoint: Endpoint) -> dict[str, object]:
    is_active = endpoint.state == "ACTIVE"
    return {
        "description": endpoint.description,
        "events": endpoint.events,
        "headers": endpoint.header_names,  # their values may be secrets
        "is_active": is_active,
        "status": "active" if is_active else "inactive",
        "notice": _notice(endpoint),
        "failure_count": endpoint.failures,
        "last_success": moment(endpoint.last_success_at),
        "last_failure": moment(endpoint.last_failure_at),
        "last_error": endpoint.last_failure,
        "dead_letters": endpoint.dead_letters,
        "previous_secret_valid_until": moment(endpoint.previous_secret_until),
        "created_at": moment(endpoint.created_at),
    }


def _notice(endpoint: Endpoint) -> dict[str, object] | None:
    """Why it was deactivated, when it was not by its owner."""
    if endpoint.state not in _NOTICES:
        return None
    reason, message = _NOTICES[endpoint.state]
    return {"reason": reason, "message": message, "at": moment(endpoint.state_since)}
