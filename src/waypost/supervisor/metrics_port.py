"""The metrics port: `GET /metrics` is one page of all processes, fetched from each when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waypost.kit.errors import ErrorCode
from waypost.supervisor.child import Child
from waypost.supervisor.internal_http import get
from waypost.supervisor.metrics_page import merge
from waypost.telemetry.metrics import Page
from waypost.transport.http1_server import Exchange, Http1Server

FETCH_S = 2.0  # a process that does not answer in this time is missing from the page
_TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"


class MetricsPort:
    """Serves the pages of the children that have one (those reached by a Unix socket) and the supervisor's own."""

    def __init__(self, children: Callable[[], Sequence[Child]]) -> None:
        self._children = children
        self._server = Http1Server(self._answer, _refuse)
        self._running: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        self._page = Page()
        self._page.gauge("waypost_uptime_seconds", "Time since the start of `up`.", lambda: loop.time() - started_s)
        self._page.gauge(
            "waypost_children_up", "Child processes that run.", lambda: sum(child.is_up for child in self._children())
        )
        self._restarts = self._page.counter("waypost_restarts", "Restarts of a child process.", ("child",))

    async def listen(self, host: str, port: int) -> int:
        """Start serving; the port. Raises OSError when it is taken."""
        await self._server.listen(host=host, port=port)
        return self._server.port

    async def close(self) -> None:
        await self._server.drain(1.0)
        for task in self._running:
            task.cancel()

    def _answer(self, exchange: Exchange) -> None:
        if exchange.path != "/metrics":
            exchange.respond(404, _PLAIN, b"The metrics are at /metrics.\n")
        elif exchange.method not in ("GET", "HEAD"):
            exchange.respond(405, _PLAIN + b"allow: GET, HEAD\r\n", b"")
        else:
            task = asyncio.ensure_future(self._answer_with_page(exchange))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer_with_page(self, exchange: Exchange) -> None:
        page = await self.render()
        if exchange.is_open:
            exchange.respond(200, _TEXT, page)

    async def render(self) -> bytes:
        """The merged page."""
        children = self._children()
        for child in children:
            self._restarts.counts[(child.plan.name,)] = child.restarts
        fetched = await asyncio.gather(*(_fetch(child) for child in children))
        names = [child.plan.name for child in children]
        return merge({"supervisor": self._page.render(), **dict(zip(names, fetched, strict=True))})


async def _fetch(child: Child) -> bytes:
    if isinstance(child.plan.address, int) or not child.is_up:
        return b""
    try:
        status, page = await get(child.plan.address, "/metrics", timeout_s=FETCH_S)
    except OSError:
        return b""
    return page if status == 200 else b""


def _refuse(code: ErrorCode) -> tuple[bytes, bytes]:
    return _PLAIN, code.message.encode() + b"\n"
