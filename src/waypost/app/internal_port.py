"""The internal port of a gateway: a Unix socket in a directory that only this user can enter. It tells the supervisor
and the doctor how the process fares, and lets the worker call models and providers through it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from waypost.app.doctor_processes import Readiness
from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.errands import Errands
from waypost.dispatch.fleet import Fleet
from waypost.dispatch.status import status_of
from waypost.gateway.model_calls import ModelCalls
from waypost.gateway.pipeline import Gateway
from waypost.gateway.ports import EarlierViews
from waypost.gateway.readiness import State
from waypost.gateway.relay import JSON_TYPE
from waypost.gateway.worker_port import WorkerPort
from waypost.kit.crypto import hmac_sha256
from waypost.telemetry.events import report_bug
from waypost.telemetry.metrics import Page
from waypost.transport.exchange import Exchange
from waypost.transport.http1_server import Http1Server, Refuse, ServerLimits

_LIMITS = ServerLimits(body_bytes=64 << 20)  # what the worker sends may have files in it


def make_internal_port(
    gateway: Gateway,
    dispatcher: Dispatcher,
    fleet: Fleet,
    page: Page,
    ids_key: bytes,
    refuse: Refuse,
    earlier_views: EarlierViews,
) -> InternalPort:
    """Credentials are named by a digest that every gateway of the deployment makes the same."""
    errands = Errands(
        fleet,
        digest=lambda credential: hmac_sha256(ids_key, b"credential|" + credential.encode()).hex()[:16],
        counted=page.counter(
            "waypost_errands", "Errands of the worker at providers.", ("provider", "deployment", "outcome")
        ),
        earlier_view=earlier_views.view_at,
    )
    worker_port = WorkerPort(ModelCalls(gateway, dispatcher, earlier_views), errands, gateway.state)
    return InternalPort(page, gateway.state, fleet, worker_port, refuse)


class InternalPort:
    """Of a process that has its fleet."""

    def __init__(self, page: Page, state: State, fleet: Fleet, worker_port: WorkerPort, refuse: Refuse) -> None:
        self._page = page
        self._state = state
        self._fleet = fleet
        self._worker_port = worker_port
        self._server = Http1Server(self._answer, refuse, _LIMITS, on_bug=report_bug)
        # Whoever may read metrics over a network may not spend money.
        self._metrics_server = Http1Server(self._tell, refuse, on_bug=report_bug)

    async def listen(self, path: Path) -> None:
        await self._server.listen(unix_path=str(path))

    async def listen_for_metrics(self, host: str, port: int) -> None:
        """Raises OSError when the address cannot be taken."""
        await self._metrics_server.listen(host=host, port=port)

    async def drain(self, timeout_s: float) -> None:
        """Let what the worker asked for end; the rest goes on to be answered."""
        await self._worker_port.drain(timeout_s)

    async def close(self) -> None:
        await self._server.drain(0.0)
        await self._metrics_server.drain(0.0)

    def _answer(self, exchange: Exchange) -> None:
        if not self._worker_port.handle(exchange):
            self._tell(exchange)

    def _tell(self, exchange: Exchange) -> None:
        if exchange.path == "/metrics":
            exchange.respond(200, b"content-type: text/plain; version=0.0.4\r\n", self._page.render())
        elif exchange.path == "/providers":
            status = status_of(self._fleet, asyncio.get_running_loop().time())
            exchange.respond(200, JSON_TYPE, msgspec.json.encode(status))
        elif exchange.path == "/readyz":
            is_ready = self._state.is_ready and not self._state.is_draining
            body = msgspec.json.encode(Readiness(list(self._state.degraded())))
            exchange.respond(200 if is_ready else 503, JSON_TYPE, body)
        else:
            exchange.respond(404, JSON_TYPE, b"{}")
