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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from waypost import compiled
from waypost.app.background import Background
from waypost.app.delays import is_reachable, tell_of_delays
from waypost.app.front import Front, SettingUnusable, make_egress
from waypost.app.internal_port import InternalPort, make_internal_port
from waypost.app.journal_opening import open_journal
from waypost.app.left_behind import LeftBehind, book_recovered, report_refused
from waypost.app.live_settings import LiveSettings
from waypost.app.partition_keeper import PartitionKeeper
from waypost.app.reload import Reloading
from waypost.app.resilience import Limits, make_fleet, make_limits, make_pressure, watch_fleet
from waypost.app.secrets import CredentialReader, PepperReader, open_node_id, open_secrets
from waypost.app.settings import Settings
from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.fleet import Fleet
from waypost.gateway.allowance import Allowances
from waypost.gateway.bookkeeping import Bookkeeper
from waypost.gateway.books import GatewayBooks
from waypost.gateway.callers import FailedKeys
from waypost.gateway.following import Following
from waypost.gateway.idempotency import Idempotency
from waypost.gateway.journal import Journal
from waypost.gateway.pipeline import Gateway
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.presenting import Presenter
from waypost.gateway.readiness import State
from waypost.gateway.recovery import recover
from waypost.gateway.relay import JSON_TYPE, OpenStreams
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import NodeIdentity, Wallet
from waypost.kit import ids
from waypost.kit.clock import SystemClock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.storage.directory import PostgresDirectory
from waypost.storage.idempotency import PostgresClaims
from waypost.storage.ledger import PostgresLedger
from waypost.supervisor.hardening import keep_memory_private
from waypost.supervisor.inheritance import die_with_supervisor, read_inheritance
from waypost.telemetry.events import (
    AdmissionStopped,
    Draining,
    ProcessStarted,
    emit,
    quieten_third_parties,
    report_bug,
)
from waypost.telemetry.metrics import Page
from waypost.tenancy.keyring import Keyring
from waypost.transport.http1_server import Http1Server
from waypost.transport.tls import TlsFilesUnusable
from waypost.wire.dialects import error_headers, render_error

_Result = TypeVar("_Result")
JOURNAL_NAME = "journal"  # in the data directory: a directory for each gateway
_RETRY_S = 0.5  # between tries to reach the database at start
OVERDUE_MS = 3_600_000  # no execution of ours takes an hour
_JOURNAL_FREE_S = 10.0  # five starts in a row outlast the longest drain by default
_IDLE_LEAVE_S = 1.0  # for callers who keep a connection and are between two requests
_LAST_WORDS_S = 1.0  # for sending what was answered at the very end
_SETTLE_S = 10.0  # at the end, for what is not yet booked; the journal keeps the rest


class GatewayRefused(Exception):
    """The gateway cannot start. The message is a sentence for the operator, with what to do."""


class _StopAsked(Exception):
    """While the gateway was starting."""


class GatewayOptions(msgspec.Struct, frozen=True):
    """Where a gateway listens. `internal_path` is a Unix socket of this user's: `/metrics` and `/readyz` for the
    supervisor, `/providers` for the doctor, and the worker port."""

    host: str
    port: int
    internal_path: Path
    name: str = "gateway-0"
    metrics_port: int | None = None  # of `host`: /metrics for a gateway that no supervisor collects from
    listen_fd: int | None = None  # a socket that listens there already, from the supervisor
    sibling_fds: tuple[int, ...] = ()  # those of other gateways
    workers: int = 1  # gateways on this machine that share what a limit allows
    control_socket: str = ""  # of the control process, when the settings name none


def run_gateway(settings: Settings, conninfo: str, options: GatewayOptions) -> int:
    """Serve until SIGTERM or SIGINT; the exit code: 1 when it had to stop by itself. Raises GatewayRefused."""
    keep_memory_private()
    quieten_third_parties()
    die_with_supervisor(os.environ)
    inheritance = read_inheritance(os.environ)
    if inheritance is not None:
        options = replace(
            options,
            internal_path=inheritance.internal_socket,
            name=inheritance.process,
            listen_fd=inheritance.listen_fd,
            sibling_fds=inheritance.sibling_fds,
            workers=inheritance.workers,
            control_socket=inheritance.control_socket,
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
        self._journal_dir = settings.data_dir / JOURNAL_NAME / options.name
        self._clock = SystemClock()
        self._ids = Ids()
        self._peppers = PepperReader(settings.secrets_dir)
        self._secrets = open_secrets(settings.secrets_dir)
        try:
            self._egress = make_egress(settings.live.egress)
        except SettingUnusable as error:
            raise GatewayRefused(str(error)) from None
        self._ledger = PostgresLedger(conninfo)
        self._directory = PostgresDirectory(conninfo)
        self._claims = PostgresClaims(conninfo)
        self.fleet: Fleet
        self.gateway: Gateway
        """These two are there once it is ready."""

    @property
    def is_ready(self) -> bool:
        """Whether requests are admitted."""
        return self._state.is_ready

    def ask_to_stop(self) -> None:
        """Leave in order, as on SIGTERM."""
        self._stop.set()

    async def serve(self) -> int:
        """Serve until asked to stop; the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_from_loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._ledger.close_connections)
            stack.push_async_callback(self._directory.close_connections)
            stack.push_async_callback(self._claims.close_connections)
            with contextlib.suppress(_StopAsked):
                await self._run(stack)
        return 1 if self._has_failed else 0

    async def _run(self, stack: contextlib.AsyncExitStack) -> None:
        options = self._options
        # First of all, because it is locked: a second process on it must not take the node's place.
        journal = await self._open_journal()
        stack.callback(journal.shut)
        node_id = open_node_id(self._journal_dir)
        epoch = await self._insist(lambda: self._ledger.register_node(node_id))
        node = NodeIdentity(node_id, epoch, nodes=options.workers)
        settler = Settler(self._ledger, journal, self._clock, on_refused=report_refused)
        was_promoted = await self._insist(lambda: self._ledger.stand_for(node_id=node_id, node_epoch=epoch))
        recovered = self._recover(journal, settler, is_whole=was_promoted)
        idempotency = Idempotency(
            self._claims, secret=self._secrets.ids_key, node_id=node.node_id, node_epoch=node.epoch
        )
        keyring = Keyring(self._secrets.peppers)
        fleet = self.fleet = make_fleet(self._page, CredentialReader(os.environ), random.random)
        fleet.use(self._egress)
        stack.push_async_callback(fleet.close)
        following = Following(self._directory, keyring, fleet, self._clock, self._peppers)
        wallet, presenter = self._make_wallet(journal, settler, node, following)
        await self._insist(following.catch_up)
        partitions = PartitionKeeper(self._conninfo, self._clock)
        await self._insist(partitions.make)
        limits = self._make_limits(wallet)
        gateway, dispatcher = self._assemble(journal, settler, wallet, idempotency, keyring, fleet, following, limits)
        self._watch(journal, settler, wallet, fleet, following, dispatcher, limits)

        bookkeeper = self._bookkeeper(settler, node, recovered, dispatcher)
        background = Background(self._fail)
        for part in (journal, settler, wallet, presenter, following, bookkeeper, partitions, limits):
            background.start(part.run())
        background.start(self._keep_claims(idempotency, settler, recovered))
        background.start(self._left_behind().run())
        background.start(tell_of_delays(journal, settler, following, process=options.name))
        internal = self._internal_port(gateway, dispatcher)
        front = Front(gateway, self._refuse_framing, on_bug=report_bug, control_socket=options.control_socket)
        public = front.server
        self._watch_port(public, dispatcher)
        reloading = self._follow_file(front, fleet, gateway)
        background.start(reloading.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloading.look)
        await internal.listen(options.internal_path)
        if options.metrics_port is not None:
            with _refusing_port(options.host, options.metrics_port, "--metrics-port"):
                await internal.listen_for_metrics(options.host, options.metrics_port)
        await self._listen(front)
        self._state.is_ready = True
        emit(ProcessStarted(process=options.name, pid=os.getpid(), port=public.port))
        # What is alive now stays: the collector need not look at it again.
        gc.freeze()
        await self._stop.wait()

        emit(Draining(process=options.name))
        self._state.is_draining = True
        public.stop_accepting()
        if not self._has_failed:
            await public.let_idle_leave(min(_IDLE_LEAVE_S, reloading.live.drain_s))
        self._state.is_ready = False
        # Executions first: what is cut off still has its caller to be told, in its stream and not by a reset.
        left_s = 0.0 if journal.is_failed else reloading.live.drain_s
        ends_at_s = self._clock.monotonic_s() + left_s
        await asyncio.gather(gateway.drain(left_s), internal.drain(left_s))
        await public.drain(max(_LAST_WORDS_S, ends_at_s - self._clock.monotonic_s()))
        gateway.close()
        await front.close()
        if await settler.drain(_SETTLE_S):
            await wallet.close_all()
        await background.end()
        await internal.close()

    async def _open_journal(self) -> Journal:
        # A sibling may be at work on what we left, or the supervisor before ours has left a gateway that still drains.
        patience_s = _JOURNAL_FREE_S if self._options.listen_fd is not None else 0.0
        try:
            return await open_journal(
                self._journal_dir, self._settings, self._clock, patience_s=patience_s, on_failed=self._fail
            )
        except BlockingIOError:
            raise GatewayRefused(
                f"a gateway already runs on {self._settings.data_dir}: stop that one, or give another --data-dir"
            ) from None

    def _follow_file(self, front: Front, fleet: Fleet, gateway: Gateway) -> Reloading:
        """Serve by the settings, and by those of the file when it changes."""
        try:
            front.adopt(self._settings.live)
            self._bound(gateway, self._settings.live)
        except TlsFilesUnusable as error:
            raise GatewayRefused(f"server.tls: {error}") from None

        def adopt(live: LiveSettings) -> None:
            egress = make_egress(live.egress)
            front.adopt(live)
            fleet.use(egress)
            self._bound(gateway, live)

        is_alone = self._options.listen_fd is None
        return Reloading(self._settings, adopt, process=self._options.name, tells_why=is_alone)

    def _bound(self, gateway: Gateway, live: LiveSettings) -> None:
        """What one caller may take of this process."""
        gateway.allowances.bound(per_organisation=live.organisation_in_flight, per_key=live.key_in_flight)

    async def _listen(self, front: Front) -> None:
        options = self._options
        ssl_context = front.ssl_context(self._settings.live)
        if options.listen_fd is not None:
            await front.server.listen(
                sock=socket.socket(fileno=options.listen_fd),
                siblings=[socket.socket(fileno=fd) for fd in options.sibling_fds],
                ssl_context=ssl_context,
            )
            return
        with _refusing_port(options.host, options.port, "--port"):
            await front.server.listen(host=options.host, port=options.port, ssl_context=ssl_context)

    def _make_wallet(
        self, journal: Journal, settler: Settler, node: NodeIdentity, following: Following
    ) -> tuple[Wallet, Presenter]:
        ledger, clock = self._ledger, self._clock
        wallet = Wallet(ledger, journal, self._ids, clock, node, settler, on_superseded=self._fail)
        presenter = Presenter(ledger, wallet, journal, settler, clock, node, on_refused=report_refused)
        wallet.on_promoted, presenter.on_presented = presenter.notice, following.begin_anew
        return wallet, presenter

    def _bookkeeper(
        self, settler: Settler, node: NodeIdentity, recovered: frozenset[bytes] | None, dispatcher: Dispatcher
    ) -> Bookkeeper:
        return Bookkeeper(
            self._ledger,
            settler,
            self._clock,
            node_id=node.node_id,
            node_epoch=node.epoch,
            recovered=recovered,
            open_too_long=lambda: dispatcher.count_older(self._clock.unix_ns() // 1_000_000 - OVERDUE_MS),
        )

    async def _keep_claims(
        self, idempotency: Idempotency, settler: Settler, recovered: frozenset[bytes] | None
    ) -> None:
        """Idempotency keys: what an earlier run left without an execution is free once all of it is booked. Where its
        journal could not be read as a whole, a day frees it."""
        while recovered is not None:
            await asyncio.sleep(_RETRY_S)
            if all(settler.is_booked(lease_id) for lease_id in recovered):
                with contextlib.suppress(LedgerUnavailable):
                    await idempotency.forget_interrupted()
                    break
        await idempotency.keep()

    def _assemble(
        self,
        journal: Journal,
        settler: Settler,
        wallet: Wallet,
        idempotency: Idempotency,
        keyring: Keyring,
        fleet: Fleet,
        following: Following,
        limits: Limits,
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
        pressure = make_pressure(page, random.random)
        gateway = self.gateway = Gateway(
            keyring=keyring,
            view=lambda: following.view,
            fleet=fleet,
            allowances=Allowances(limits.of_keys, workers=self._options.workers),
            failed_keys=FailedKeys(limits.of_addresses, self._secrets.ids_key),
            pressure=pressure,
            wallet=wallet,
            idempotency=idempotency,
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
        books.on_unused = gateway.unused
        return gateway, dispatcher

    def _internal_port(self, gateway: Gateway, dispatcher: Dispatcher) -> InternalPort:
        ids_key, views = self._secrets.ids_key, self._directory
        return make_internal_port(gateway, dispatcher, self.fleet, self._page, ids_key, self._refuse_framing, views)

    def _make_limits(self, wallet: Wallet) -> Limits:
        return make_limits(
            self._page,
            read_inheritance(os.environ),
            self._settings,
            process=self._options.name,
            nodes=lambda: wallet.nodes,
        )

    def _left_behind(self) -> LeftBehind:
        keeps_booked = self._settings.database_url is not None
        return LeftBehind(self._journal_dir, self._ledger, self._clock, keeps_booked=keeps_booked)

    def _recover(self, journal: Journal, settler: Settler, *, is_whole: bool) -> frozenset[bytes] | None:
        recovery = recover(journal, self._clock.unix_ns() // 1_000_000, is_whole=is_whole)
        return book_recovered(recovery, settler, process=self._options.name)

    def _watch(
        self,
        journal: Journal,
        settler: Settler,
        wallet: Wallet,
        fleet: Fleet,
        following: Following,
        dispatcher: Dispatcher,
        limits: Limits,
    ) -> None:
        gauge = self._page.gauge
        gauge("waypost_compiled_modules", "Modules that run compiled.", lambda: compiled.running.compiled)
        gauge("waypost_executions_running", "Executions under way.", lambda: dispatcher.running)
        gauge("waypost_settlements_waiting", "Attempts not booked yet.", lambda: settler.backlog)
        gauge("waypost_settlement_age_seconds", "Age of the oldest of them.", lambda: settler.oldest_age_s)
        gauge("waypost_leases", "Leases held.", lambda: wallet.leases)
        gauge("waypost_holds_open", "Holds open.", lambda: wallet.holds)
        gauge("waypost_upstream_idle", "Idle connections to providers.", lambda: fleet.connections()[0])
        gauge("waypost_upstream_open", "Connections to providers.", lambda: fleet.connections()[1])
        watch_fleet(self._page, fleet)
        gauge("waypost_catalogue_version", "Catalogue version in force.", lambda: following.view.version)
        gauge("waypost_journal_segments", "Segments of the journal in use.", lambda: journal.segments)

        def degraded() -> tuple[str, ...]:
            database = () if is_reachable(settler, following) else ("database",)
            journals = ("journal",) if journal.is_running_out else ()
            return (*database, *journals, *following.unreadable, *limits.degraded())

        self._state.degraded = degraded

    def _refuse_framing(self, code: ErrorCode, told: str = "") -> tuple[bytes, bytes]:
        """The transport's own refusals, before anything is known of the request."""
        is_malformed = code is ErrorCode.INPUT_VALIDATION_ERROR
        refusal = Refusal(code, "This is not a valid HTTP/1.1 request." if is_malformed else told)
        request_id = ids.text("req", self._ids.new())
        headers = b"%bx-request-id: %b\r\n%b" % (JSON_TYPE, request_id.encode(), error_headers(refusal))
        return headers, render_error("canonical", refusal, request_id)

    def _watch_port(self, public: Http1Server, dispatcher: Dispatcher) -> None:
        dispatcher.on_kept = public.keep
        self.gateway.pressure.callers = lambda: (public.waiting, public.accepted)
        self._page.gauge("waypost_callers_waiting", "Connections to be accepted.", lambda: public.waiting)
        self._page.gauge("waypost_request_bytes", "Request bodies in memory.", lambda: public.buffered_bytes)

    def _fail(self) -> None:
        """The disk does not take the journal, a task has died, or another process has the node's place: admit nothing
        more, leave, and let the next start sort it out."""
        if self._has_failed:
            return
        self._has_failed = True
        self._state.is_ready = False
        emit(AdmissionStopped(process=self._options.name))
        self._stop.set()

    async def _insist(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """At start, wait for the database as long as it takes; the supervisor sees that we are not ready. Raises
        _StopAsked when we are told to stop meanwhile."""
        while not self._stop.is_set():
            working, stopping = asyncio.ensure_future(call()), asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
                break
            with contextlib.suppress(LedgerUnavailable):
                return working.result()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._stop.wait()
        raise _StopAsked


@contextlib.contextmanager
def _refusing_port(host: str, port: int, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "no such address"
        sentence = f"{host}:{port} cannot be listened at ({reason}): stop the program there, or give another {option}"
        raise GatewayRefused(f"{sentence} or --host") from None


def _report_from_loop(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        report_bug(error)
