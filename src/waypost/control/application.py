"""The control plane as an ASGI application: who comes through the gateway's hand-off is answered here."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from waypost.control import (
    account,
    api_keys,
    callbacks,
    executions,
    files,
    video_generations,
    webhook_deliveries,
    webhooks,
)
from waypost.control.answers import answer, refuse, request_id_of
from waypost.control.services import Services
from waypost.kit.errors import ErrorCode, Refusal
from waypost.ledger.record import LedgerUnavailable
from waypost.stores.vault import VaultFull, VaultUnavailable
from waypost.telemetry.events import report_bug

_BY_STATUS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def build(services: Services, lifespan: Lifespan[Starlette]) -> Starlette:
    """Every public path of the control plane, and `/readyz` and `/metrics` for the supervisor, which asks at the socket
    itself. `lifespan` is around everything."""

    async def readyz(request: Request) -> Response:
        _refuse_relayed(request)
        return answer({"degraded": []}, status=200 if services.is_ready() else 503)

    async def metrics(request: Request) -> Response:
        _refuse_relayed(request)
        return Response(services.metrics(), media_type="text/plain; version=0.0.4")

    async def on_refusal(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return refuse(refusal, request_id_of(request, services.ids))

    async def on_unavailable(request: Request, _: Exception) -> Response:
        return await on_refusal(request, Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2))

    async def on_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await on_refusal(request, Refusal(_BY_STATUS.get(error.status_code, ErrorCode.INTERNAL_ERROR)))

    async def on_bug(request: Request, error: Exception) -> Response:
        report_bug(error)
        return await on_refusal(request, Refusal(ErrorCode.INTERNAL_ERROR))

    application = Starlette(
        routes=[
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            *api_keys.routes(services),
            *account.routes(services),
            *executions.routes(services),
            *files.routes(services),
            *video_generations.routes(services),
            *webhooks.routes(services),
            *webhook_deliveries.routes(services),
            *callbacks.routes(services.callbacks),
        ],
        lifespan=lifespan,
        middleware=[Middleware(_UntilReady, services=services)],
        exception_handlers={
            Refusal: on_refusal,
            LedgerUnavailable: on_unavailable,
            VaultFull: on_unavailable,
            VaultUnavailable: on_unavailable,
            HTTPException: on_status,
            Exception: on_bug,
        },
    )
    # A path has one spelling. Who followed a redirect would send key and content to an address that we can only guess.
    application.router.redirect_slashes = False
    return application


class _UntilReady:
    """503 for callers while a process that has just started knows neither keys nor catalogue: what it would tell them
    is not so."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_early = scope["type"] == "http" and not self._services.is_ready()
        if is_early and scope["path"] not in ("/readyz", "/metrics"):
            refusal = Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=1)
            response = refuse(refusal, request_id_of(Request(scope), self._services.ids))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refuse_relayed(request: Request) -> None:
    """404 for callers, however they spell the path: the gateway says of each of them where it is, and lets nobody else
    say so."""
    if "x-forwarded-for" in request.headers:
        raise Refusal(ErrorCode.NOT_FOUND)
