"""The gateway process put together: the only place that sees its ports and their adapters at once.

start: recover the journal → follow keys and catalogue → listen → ready
end:   stop admitting → let executions finish → settle → return leases
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random  # noqa: TID251  the dice of routing and jitter; no secret hangs on them
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from waypost.app.secrets import CredentialReader, open_node_id, open_secrets
from waypost.app.settings import Settings
from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.fleet import Fleet
from waypost.gateway.access import Keyring
from waypost.gateway.books import GatewayBooks
from waypost.gateway.following import Following
from waypost.gateway.journal import Journal
from waypost.gateway.limits import KeyLimits
from waypost.gateway.pipeline import Gateway, State
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.recovery import recover
from waypost.gateway.relay import JSON_TYPE, OpenStreams
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import NodeIdentity, Wallet
from waypost.kit import ids
from waypost.kit.clock import SystemClock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.ledger.record import ClosedAttempt, Outcome
from waypost.storage.directory import PostgresDirectory
from waypost.storage.ledger import PostgresLedger
from waypost.storage.partitions import ensure_partitions
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.supervisor.hardening import keep_memory_private
from waypost.supervisor.inheritance import die_with_supervisor, read_inheritance
from waypost.telemetry.events import (
    AdmissionStopped,
    DatabaseLost,
    Draining,
    JournalQuarantined,
    JournalRecovered,
    ProcessStarted,
    SettlementRefused,
    SettlingDelayed,
    emit,
    quieten_third_parties,
    report_bug,
)
from waypost.telemetry.metrics import Page
from waypost.transport.exchange import Exchange
from waypost.transport.http1_server import Http1Server
from waypost.wire.dialects import error_headers, render_error

_Result = TypeVar("_Result")
_RETRY_S = 0.5  # between tries to reach the database at start
_PARTITIONS_S = 6 * 3600.0  # between looks at the partitions of the months ahead
_LOOK_S = 1.0  # between looks at what an operator should be told
SETTLE_LATE_S = 5.0  # age of the oldest attempt that is not booked
_SETTLE_S = 10.0  # at the end, for what is not yet booked; the journal keeps the rest


class GatewayOptions(msgspec.Struct, frozen=True):
    """Where a gateway listens. `internal_path` is a Unix socket for the supervisor: `/metrics` and `/readyz`."""

    host: str
    port: int
    internal_path: Path
    name: str = "gateway-0"
    listen_fd: int | None = None  # a socket that listens there already, from the supervisor


def run_gateway(settings: Settings, conninfo: str, options: GatewayOptions) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code: 1 when the journal could not be written any more."""
    keep_memory_private()
    quieten_third_parties()
    die_with_supervisor(os.environ)
    inheritance = read_inheritance(os.environ)
    if inheritance is not None:
        options = msgspec.structs.replace(
            options,
            internal_path=inheritance.internal_socket,
            name=inheritance.process,
            listen_fd=inheritance.listen_fd,
        )
    return uvloop.run(GatewayProcess(settings, conninfo, options).serve())


class GatewayProcess:
    """One gateway from its start to its end."""

    def __init__(self, settings: Settings, conninfo: str, options: GatewayOptions) -> None:
        self._settings = settings
        self._options = options
        self._conninfo = conninfo
        self._stop = asyncio.Event()
        self._has_failed = False
        self._state = State()
        self._page = Page()
        self._clock = SystemClock()
        self._ids = Ids()
        self._secrets = open_secrets(settings.secrets_dir)
        self._ledger = PostgresLedger(conninfo)
        self._directory = PostgresDirectory(conninfo)

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_from_loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._ledger.close_connections)
            stack.push_async_callback(self._directory.close_connections)
            await self._run(stack)
        return 1 if self._has_failed else 0

    async def _run(self, stack: contextlib.AsyncExitStack) -> None:
        options = self._options
        # First of all, because it is locked: a second process on it must not take the node's place.
        journal = Journal.open_dir(self._settings.data_dir / "journal" / options.name, on_failed=self._journal_failed)
        stack.callback(journal.shut)
        node_id = open_node_id(self._settings.data_dir)
        node = NodeIdentity(node_id, await _insist(lambda: self._ledger.register_node(node_id)))
        settler = Settler(self._ledger, journal, self._clock, on_refused=_settlement_refused)
        self._recover(journal, settler)
        wallet = Wallet(self._ledger, journal, self._ids, self._clock, node, settler)
        keyring = Keyring(self._secrets.pepper)
        fleet = Fleet(CredentialReader(os.environ))
        stack.push_async_callback(fleet.close)
        following = Following(self._directory, keyring, fleet, self._clock)
        await _insist(following.catch_up)
        await _insist(self._make_partitions)
        gateway, dispatcher = self._assemble(journal, settler, wallet, keyring, fleet, following)
        self._watch(settler, wallet, fleet, following, dispatcher)

        background = [asyncio.ensure_future(part.run()) for part in (journal, settler, wallet, following)]
        background.append(asyncio.ensure_future(self._keep_partitions()))
        background.append(asyncio.ensure_future(self._tell_of_delays(settler)))
        internal = Http1Server(self._answer_internal, self._refuse_framing)
        public = Http1Server(gateway.handle, self._refuse_framing, on_bug=report_bug)
        await internal.listen(unix_path=str(options.internal_path))
        if options.listen_fd is None:
            await public.listen(host=options.host, port=options.port)
        else:
            await public.listen(sock=socket.socket(fileno=options.listen_fd))
        self._state.is_ready = True
        emit(ProcessStarted(process=options.name, pid=os.getpid(), port=public.port))
        # What is alive now stays: the collector need not look at it again.
        gc.freeze()
        await self._stop.wait()

        emit(Draining(process=options.name))
        self._state.is_ready = False
        await public.drain(self._settings.drain_s)
        await dispatcher.drain(timeout_s=0.0 if self._has_failed else self._settings.drain_s)
        gateway.close()
        if await settler.drain(_SETTLE_S):
            await wallet.close_all()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await internal.drain(0.0)

    async def _make_partitions(self) -> None:
        owner = Pool(self._conninfo, Role.OWNER, size=1)
        try:
            await ensure_partitions(owner, self._clock.unix_ns() // 1_000_000)
        finally:
            await owner.close()

    async def _keep_partitions(self) -> None:
        while True:
            await asyncio.sleep(_PARTITIONS_S)
            await _insist(self._make_partitions)

    def _assemble(
        self,
        journal: Journal,
        settler: Settler,
        wallet: Wallet,
        keyring: Keyring,
        fleet: Fleet,
        following: Following,
    ) -> tuple[Gateway, Dispatcher]:
        page = self._page
        books = GatewayBooks(journal=journal, wallet=wallet, settler=settler)
        dispatcher = Dispatcher(
            books=books,
            clock=self._clock,
            dice=random.random,
            attempts_counted=page.counter(
                "waypost_attempts", "Attempts at providers.", ("provider", "deployment", "outcome")
            ),
            fields_dropped=page.counter(
                "waypost_fields_dropped",
                "Answer fields outside the closed set, in streams and in one of 32 plain answers.",
            ),
        )
        gateway = Gateway(
            keyring=keyring,
            view=lambda: following.view,
            fleet=fleet,
            limits=KeyLimits(),
            wallet=wallet,
            dispatcher=dispatcher,
            open_streams=OpenStreams(asyncio.get_running_loop()),
            ids_source=self._ids,
            clock=self._clock,
            ids_key=self._secrets.ids_key,
            state=self._state,
            answers_counted=page.counter("waypost_answers", "Requests by their end.", ("model", "outcome", "code")),
            answers_timed=page.histogram("waypost_execution_seconds", "From acceptance to the end.", ("model",)),
        )
        books.on_final = gateway.ended
        return gateway, dispatcher

    def _recover(self, journal: Journal, settler: Settler) -> None:
        recovery = recover(journal, self._clock.unix_ns() // 1_000_000)
        for attempt in recovery.attempts:
            settler.add(attempt)
        for _ in recovery.damages:
            emit(JournalQuarantined(process=self._options.name))
        if recovery.attempts:
            crashed = sum(attempt.close.outcome is Outcome.CRASHED for attempt in recovery.attempts)
            emit(JournalRecovered(recovered=len(recovery.attempts), crashed=crashed))

    def _watch(
        self, settler: Settler, wallet: Wallet, fleet: Fleet, following: Following, dispatcher: Dispatcher
    ) -> None:
        gauge = self._page.gauge
        gauge("waypost_executions_running", "Executions under way.", lambda: dispatcher.running)
        gauge("waypost_settlements_waiting", "Attempts not booked yet.", lambda: settler.backlog)
        gauge("waypost_settlement_age_seconds", "Age of the oldest of them.", lambda: settler.oldest_age_s)
        gauge("waypost_leases", "Leases held.", lambda: wallet.leases)
        gauge("waypost_holds_open", "Holds open.", lambda: wallet.holds)
        gauge("waypost_upstream_idle", "Idle connections to providers.", lambda: fleet.connections()[0])
        gauge("waypost_upstream_open", "Connections to providers.", lambda: fleet.connections()[1])
        gauge("waypost_catalogue_version", "Catalogue version in force.", lambda: following.view.version)

        def is_degraded() -> tuple[str, ...]:
            is_reachable = following.is_database_reachable and settler.is_ledger_reachable
            return () if is_reachable else ("database",)

        self._state.degraded = is_degraded

    async def _tell_of_delays(self, settler: Settler) -> None:
        """Log, once each time, that the database is away or that bookings do not keep up."""
        was_reachable, was_in_time = True, True
        while True:
            await asyncio.sleep(_LOOK_S)
            is_reachable, is_in_time = not self._state.degraded(), settler.oldest_age_s <= SETTLE_LATE_S
            if was_reachable and not is_reachable:
                emit(DatabaseLost(process=self._options.name))
            if was_in_time and not is_in_time:
                emit(SettlingDelayed(backlog=settler.backlog, age_s=round(settler.oldest_age_s, 1)))
            was_reachable, was_in_time = is_reachable, is_in_time

    def _refuse_framing(self, code: ErrorCode) -> tuple[bytes, bytes]:
        """The transport's own refusals, before anything is known of the request."""
        is_malformed = code is ErrorCode.INPUT_VALIDATION_ERROR
        refusal = Refusal(code, "This is not a valid HTTP/1.1 request." if is_malformed else "")
        request_id = ids.text("req", self._ids.new())
        headers = b"%bx-request-id: %b\r\n%b" % (JSON_TYPE, request_id.encode(), error_headers(refusal))
        return headers, render_error("canonical", refusal, request_id)

    def _answer_internal(self, exchange: Exchange) -> None:
        if exchange.path == "/metrics":
            exchange.respond(200, b"content-type: text/plain; version=0.0.4\r\n", self._page.render())
        elif exchange.path == "/readyz":
            exchange.respond(200 if self._state.is_ready else 503, JSON_TYPE, b"{}")
        else:
            exchange.respond(404, JSON_TYPE, b"{}")

    def _journal_failed(self) -> None:
        """The disk does not take the journal: admit nothing more, leave, and let recovery sort it out."""
        self._has_failed = True
        self._state.is_ready = False
        emit(AdmissionStopped(process=self._options.name))
        self._stop.set()


async def _insist(call: Callable[[], Awaitable[_Result]]) -> _Result:
    """At start, wait for the database as long as it takes; the supervisor sees that we are not ready."""
    while True:
        try:
            return await call()
        except LedgerUnavailable:
            await asyncio.sleep(_RETRY_S)


def _settlement_refused(attempt: ClosedAttempt, error: Exception) -> None:
    emit(SettlementRefused(execution_id=attempt.open.execution_id.hex(), error_type=type(error).__name__))


def _report_from_loop(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        report_bug(error)
