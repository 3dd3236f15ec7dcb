"""The worker's side door of a gateway: on the internal socket, which only this user can connect to, it calls models
under executions' holds (`gateway.model_calls`) and sends errands to providers (`dispatch.errands`).
"""

from __future__ import annotations

import asyncio

from waypost.dispatch.errands import Errands
from waypost.gateway.endpoints import chat_endpoint
from waypost.gateway.model_calls import ModelCalls
from waypost.gateway.readiness import State
from waypost.telemetry.events import report_bug
from waypost.transport.exchange import Exchange
from waypost.wire.errand import Ambiguous, Errand, NotSent, Sent, decode_errand, encode_sent

ERRAND_PATH = "/errand"
ERRANDS_MAX = 512  # at a time; the worker has fewer jobs
_MSGPACK = b"content-type: application/msgpack\r\n"


class WorkerPort:
    """`handle` says whether the path is one of these."""

    def __init__(self, calls: ModelCalls, errands: Errands, state: State) -> None:
        self._calls = calls
        self._errands = errands
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()

    def handle(self, exchange: Exchange) -> bool:
        if exchange.path == ERRAND_PATH:
            self._start(exchange)
            return True
        endpoint = chat_endpoint(exchange.path)
        if endpoint is None:
            return False
        self._calls.handle(exchange, endpoint)
        return True

    async def drain(self, timeout_s: float) -> None:
        """Let errands end; what takes longer is told to be ambiguous."""
        await self._calls.drain()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        for running in self._running:
            running.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _start(self, exchange: Exchange) -> None:
        if not self._state.is_ready or len(self._running) >= ERRANDS_MAX:
            _answer(exchange, NotSent("gateway_busy" if self._state.is_ready else "gateway_not_ready"))
            return
        try:
            errand = decode_errand(exchange.body.unwrap())
        except ValueError:
            _answer(exchange, NotSent("invalid"))
            return
        running = self._loop.create_task(self._run(exchange, errand))
        exchange.watcher = _Watcher(running)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _run(self, exchange: Exchange, errand: Errand) -> None:
        sent: Sent
        try:
            sent = await self._errands.run(errand)
        except asyncio.CancelledError:  # by `drain`, or there is nobody to be answered
            sent = Ambiguous("gateway_left")
        except Exception as bug:  # noqa: BLE001  the edge of a task: nobody above would answer
            report_bug(bug)
            sent = Ambiguous("internal_error")
        _answer(exchange, sent)


class _Watcher:
    """Of an errand, whose answer is short."""

    __slots__ = ("_running",)

    def __init__(self, running: asyncio.Task[None]) -> None:
        self._running = running

    def leave(self) -> None:
        self._running.cancel()

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


def _answer(exchange: Exchange, sent: Sent) -> None:
    exchange.respond(200, _MSGPACK, encode_sent(sent))
