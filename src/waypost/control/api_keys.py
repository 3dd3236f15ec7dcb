"""Keys by HTTP: made, listed, rotated and revoked by a key with full access, within its organisation.

`POST /v1/api-keys` · `GET /v1/api-keys` · `POST /v1/api-keys/{id}/rotate` · `DELETE /v1/api-keys/{id}`, after
ModelRoute's public contract: the text of a key is shown once, a rotated one stays valid for an hour.
"""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, check_query, moment, page, path_id, read_body, unknown
from waypost.control.services import Services
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.storage.api_keys import (
    Limits,
    ListedKey,
    MayDoMore,
    TooManyKeys,
    create_api_key,
    list_api_keys,
    revoke_api_key,
    rotate_api_key,
    secret_of,
)
from waypost.tenancy.api_key import ApiKey, Scope, assemble

_PerMinute = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class _NewKey(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    scope: Scope = Scope.EXECUTION
    requests_per_minute: _PerMinute | None = None
    tokens_per_minute: _PerMinute | None = None
    models: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)] | None = None


_decode_new = msgspec.json.Decoder(_NewKey)


def routes(services: Services) -> list[Route]:
    actions = _Actions(services)
    return [
        Route("/v1/api-keys", actions.create, methods=["POST"]),
        Route("/v1/api-keys", actions.show_all, methods=["GET"]),
        Route("/v1/api-keys/{id}/rotate", actions.rotate, methods=["POST"]),
        Route("/v1/api-keys/{id}", actions.revoke, methods=["DELETE"]),
    ]


class _Actions:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, request: Request) -> Response:
        """201 with the text, which nobody can show again."""
        services = self._services
        minter = services.administrator(request)
        if minter.has_own_budget:
            raise Refusal(ErrorCode.PERMISSION_DENIED, "A key with a budget of its own makes no others: they had none.")
        wanted = await read_body(request, _decode_new)
        limits = _limits(wanted, minter)
        api_key_id, text = services.ids.new(), assemble(os.urandom(32))
        try:
            await create_api_key(
                services.pool,
                api_key_id=api_key_id,
                org_id=minter.org_id,
                secret=secret_of(text, services.keyring.peppers.newest),
                name=wanted.name,
                scope=wanted.scope,
                limits=limits,
                keys_max=services.api_keys_max,
                project_id=minter.project_id,
            )
        except TooManyKeys:
            most = services.api_keys_max
            raise Refusal(
                ErrorCode.CONFLICT, f"The organisation has {most} keys, and may have no more. Revoke one first."
            ) from None
        shown_key = {"id": ids.text("key", api_key_id), "key": text, "name": wanted.name, "scope": wanted.scope.value}
        return answer(shown_key | _shown_limits(limits), status=201)

    async def show_all(self, request: Request) -> Response:
        """Those that are valid; at most as many as an organisation may have, so there is one page."""
        org_id = self._services.administrator(request).org_id
        check_query(request)
        listed = await list_api_keys(self._services.pool, org_id)
        now = self._services.clock.unix_ns() / 1e9
        valid = [_shown(key) for key in listed if key.valid_until is None or key.valid_until.timestamp() > now]
        return answer(page(valid, None))

    async def rotate(self, request: Request) -> Response:
        """200 with a new text, for a key that may do no more than the one that asks: else its limits were none."""
        asker = self._services.administrator(request)
        api_key_id, text = path_id(request, "key"), assemble(os.urandom(32))
        secret = secret_of(text, self._services.keyring.peppers.newest)
        try:
            until = await rotate_api_key(self._services.pool, api_key_id, secret, asker=asker)
        except LookupError:
            raise unknown("key") from None
        except MayDoMore:
            raise Refusal(
                ErrorCode.PERMISSION_DENIED,
                "That key may do more than this one, whose budget, project, limits or models are narrower. Ask with a "
                "wider key, or the operator.",
            ) from None
        shown_key = {"id": ids.text("key", api_key_id), "new_key": text, "previous_key_valid_until": moment(until)}
        return answer(shown_key)

    async def revoke(self, request: Request) -> Response:
        org_id = self._services.administrator(request).org_id
        try:
            await revoke_api_key(self._services.pool, path_id(request, "key"), org_id=org_id)
        except LookupError:
            raise unknown("key") from None
        return answer(None, status=204)


def _limits(wanted: _NewKey, minter: ApiKey) -> Limits:
    """What the new key may do: never more than the key that makes it."""
    models = None if wanted.models is None else frozenset(wanted.models)
    if minter.models is not None:
        if models is not None and not models <= minter.models:
            raise invalid("models", "'models' names a model that this key itself may not call.")
        models = models or minter.models
    return Limits(
        _lower(wanted.requests_per_minute, minter.requests_per_minute),
        _lower(wanted.tokens_per_minute, minter.tokens_per_minute),
        models,
        minter.in_flight_max,
    )


def _lower(wanted: int | None, own: int | None) -> int | None:
    limits = [limit for limit in (wanted, own) if limit is not None]
    return min(limits) if limits else None


def _shown(key: ListedKey) -> dict[str, object]:
    return {
        "id": ids.text("key", key.id),
        "name": key.name,
        "scope": key.scope.value,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "created_at": moment(key.created_at),
        "valid_until": moment(key.valid_until),
    } | _shown_limits(key.limits)


def _shown_limits(limits: Limits) -> dict[str, object]:
    return {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "models": None if limits.models is None else sorted(limits.models),
    }
