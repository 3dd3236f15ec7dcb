"""A request's way through the gateway, top to bottom:

    read → authenticate → parse → admit → hold → attempt (failover) → relay (translate, meter) → settle

`read` is the transport's, `attempt` and `settle` are dispatch's. What stands here is plain calls in that order; only a
wallet without room for the hold makes it wait, for one grant from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from urllib.parse import unquote

import msgspec

from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.failures import OUT_OF_TIME
from waypost.dispatch.fleet import Fleet
from waypost.dispatch.ports import Admission, Plan
from waypost.gateway.admission import admit, permitted, shrink, too_dear
from waypost.gateway.allowance import Allowances
from waypost.gateway.anthropic_models import count_message_tokens
from waypost.gateway.arrival import Arrival
from waypost.gateway.callers import FailedKeys
from waypost.gateway.counted import Counted
from waypost.gateway.deadline import HEADER as DEADLINE
from waypost.gateway.deadline import ends_at_s
from waypost.gateway.early_refusal import EarlyRefusals
from waypost.gateway.edge import Edge
from waypost.gateway.endpoints import (
    COUNT_MESSAGE_TOKENS,
    EXECUTED,
    GEMINI_MODELS,
    MODELS,
    ChatEndpoint,
    chat_endpoint,
    check_query,
    dialect_of,
    gemini_call,
)
from waypost.gateway.gemini_models import count_tokens
from waypost.gateway.handoff import HandOff, is_oddly_spelled
from waypost.gateway.heads import (
    ON_DISCONNECT,
    OUTLIVES,
    READS,
    expect_images,
    expect_json,
    expect_method,
    id_headers,
    methods_of,
    request_header,
)
from waypost.gateway.idempotency import HEADER as IDEMPOTENCY_KEY
from waypost.gateway.idempotency import AlreadyDone, Idempotency
from waypost.gateway.journal import JournalFailed, JournalFull
from waypost.gateway.limits import LimitExceeded
from waypost.gateway.model_pages import model_page
from waypost.gateway.offering import Offerings, shown_names
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.preferred import admit_preferred
from waypost.gateway.pressure import Pressure
from waypost.gateway.readiness import State
from waypost.gateway.recount import recounted
from waypost.gateway.refusing import SHED, telling
from waypost.gateway.relay import JSON_TYPE, OpenStreams, PlainRelay, StreamRelay
from waypost.gateway.wallet import Hold, Wallet
from waypost.kit import ids
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.ledger.claim import Claim
from waypost.ledger.record import ClosedAttempt, InsufficientFunds, NodeSuperseded, Outcome
from waypost.metering.estimate import likely_tokens
from waypost.policy.address import TrustedProxies
from waypost.policy.snapshot import View
from waypost.telemetry.events import report_bug
from waypost.telemetry.metrics import Counter, Histogram
from waypost.tenancy.api_key import ApiKey
from waypost.tenancy.keyring import Keyring
from waypost.transport.exchange import Exchange
from waypost.transport.limits import ServerLimits
from waypost.wire.formats import FORMATS
from waypost.wire.preference_fields import PREFERENCE_FIELDS, take_preferences
from waypost.wire.request import ChatRequest

_OUTCOME_LABELS = {outcome: outcome.name.lower() for outcome in Outcome}


class Gateway:
    """Answers every exchange of the public port."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        view: Callable[[], View],
        fleet: Fleet,
        allowances: Allowances,
        failed_keys: FailedKeys,
        pressure: Pressure,
        wallet: Wallet,
        idempotency: Idempotency,
        dispatcher: Dispatcher,
        open_streams: OpenStreams,
        ids_source: Ids,
        clock: Clock,
        ids_key: bytes,
        state: State,
        answers_counted: Counter,
        answers_timed: Histogram,
    ) -> None:
        self._keyring = keyring
        self.view = view
        self._offerings = Offerings(view, fleet, dispatcher.dice)
        self.allowances = allowances
        self.pressure = pressure
        self._failed_keys = failed_keys
        self.trusted_proxies = TrustedProxies()
        self.text_bytes_max = ServerLimits().body_bytes  # of a body, beside its images
        self.handoff: HandOff | None = None
        self._wallet = wallet
        self._idempotency = idempotency
        self._dispatcher = dispatcher
        self._open_streams = open_streams
        self._ids = ids_source
        self._clock = clock
        self.edge = Edge(ids_key)
        self.state = state
        self._answers_counted = answers_counted
        self.early = EarlyRefusals(pressure, ids_source, answers_counted)
        self._answers_timed = answers_timed
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Task[None]] = set()
        self._arrivals: dict[bytes, Arrival] = {}  # by execution, until it ends
        self._counted = Counted(allowances, clock, self.refuse, self._later)

    def handle(self, exchange: Exchange) -> None:
        """The transport's handler."""
        request_id = self._ids.new()
        try:
            if exchange.query:
                check_query(exchange.query)
            endpoint = chat_endpoint(exchange.path)
            if endpoint is not None:
                self._chat(exchange, endpoint, request_id)
            else:
                self._route(exchange, request_id)
        except LimitExceeded as exceeded:
            self.refuse(exchange, exceeded, request_id, exceeded.headers)
        except Refusal as refusal:
            if refusal.code is ErrorCode.UNAUTHENTICATED:
                self._refuse_stranger(exchange, refusal, request_id)
            else:
                self.refuse(exchange, refusal, request_id)

    def _route(self, exchange: Exchange, request_id: bytes) -> None:
        path = exchange.path
        if path == COUNT_MESSAGE_TOKENS:
            self._count_message_tokens(exchange, request_id)
        elif path.startswith((MODELS, GEMINI_MODELS)):
            self._models(exchange, request_id)
        elif path == "/healthz":
            exchange.respond(200, JSON_TYPE + request_header(request_id), b'{"status":"ok"}')
        elif path == "/readyz":
            self._readyz(exchange, request_id)
        elif self.handoff is not None:
            self._hand_off(self.handoff, exchange, request_id)
        else:
            raise Refusal(ErrorCode.NOT_FOUND)

    def _hand_off(self, handoff: HandOff, exchange: Exchange, request_id: bytes) -> None:
        """To control. An execution counts as any call of its key, and where they do; looking at one as nothing."""
        path = exchange.path
        if is_oddly_spelled(path):
            raise Refusal(ErrorCode.NOT_FOUND)
        try:
            api_key = self._keyring.authenticate(exchange.headers, self._now_ms())
        except Refusal:
            handoff.relay(exchange, request_id)  # which says so, where a key is needed
            return
        relay = partial(handoff.relay, exchange, request_id, org_id=api_key.org_id)
        if path in EXECUTED and exchange.method == "POST":
            self._counted.answer(exchange, request_id, api_key, relay, tokens=likely_tokens(len(exchange.body)))
        elif path.startswith(EXECUTED):
            relay(self._counted.look(api_key))
        else:
            relay()

    def _chat(self, exchange: Exchange, endpoint: ChatEndpoint, execution_id: bytes) -> None:
        if exchange.method != "POST":
            expect_method(exchange, "POST")
        if not self.state.is_ready:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2)
        if self.pressure.shedding.is_active and self._sheds(exchange, endpoint, execution_id):
            return
        now_ms, now_s = self._clock.unix_ns() // 1_000_000, self._loop.time()
        headers = exchange.headers
        # authenticate
        api_key = self._keyring.authenticate(headers, now_ms)
        allowance = self.allowances.of(api_key, now_s)
        # parse
        if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
            expect_json(exchange)
        body = exchange.body.unwrap()
        request = endpoint.format.read(body, self.edge.around(exchange, endpoint, api_key.org_id))
        if len(body) > self.text_bytes_max:
            expect_images(request.text_bytes, self.text_bytes_max)
        if not PREFERENCE_FIELDS.isdisjoint(request.fields):
            request.preferences = take_preferences(request)
        claim = None
        if IDEMPOTENCY_KEY in headers:
            claim = self._idempotency.claim_of(
                headers, org_id=api_key.org_id, endpoint=exchange.path, body=body, execution_id=execution_id
            )
        # admit
        admission = self.admit(request, api_key, now_s, now_ms)
        arrival = Arrival(exchange, endpoint.format, execution_id, now_ms, len(body), allowance)
        arrival.ends_at_s = ends_at_s(headers, now_s) if DEADLINE in headers else 0.0
        tokens = admission.tokens_max
        arrival.limit_headers = allowance.begin(tokens, now_s=now_s, now_unix_s=now_ms / 1000)
        if not allowance.is_asked_of_server:
            arrival.reserve(tokens, now_s)
        self._arrivals[execution_id] = arrival
        # hold
        try:
            if claim is None and not allowance.is_asked_of_server:
                hold = self._wallet.hold(api_key.org_id, admission.hold_nanos, api_key.chain)
                if hold is not None:
                    self._attempt(arrival, admission, hold)
                    return
        except BaseException:
            self._forget(execution_id, 0)
            raise
        self._wait(arrival, self._attempt_after_grant(arrival, admission, claim))

    def _sheds(self, exchange: Exchange, endpoint: ChatEndpoint, request_id: bytes) -> bool:
        retry_after_s = self.pressure.shed()
        if retry_after_s:
            self._refuse_as(endpoint.format.dialect, exchange, SHED[retry_after_s], request_id, b"")
        return retry_after_s > 0

    def _later(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        waiting = self._loop.create_task(work)
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)
        return waiting

    def admit(
        self, request: ChatRequest, api_key: ApiKey, now_s: float, at_ms: int, earlier: View | None = None
    ) -> Admission:
        """`earlier` is the version whose prices count, when that is not the one in force. Raises Refusal."""
        find = self._offerings.find if earlier is None else partial(self._offerings.find_at, earlier)
        found = permitted(find(request.model), request.modality, api_key)
        if request.preferences is None:
            return admit(request, found, now_s, at_ms)
        models = {found.model.slug: found}
        for name in request.preferences.models:
            other = permitted(find(name), request.modality, api_key)
            models.setdefault(other.model.slug, other)
        return admit_preferred(request, list(models.values()), now_s=now_s, at_ms=at_ms)

    async def _attempt_after_grant(self, arrival: Arrival, admission: Admission, claim: Claim | None) -> None:
        refusal: Refusal | None = None
        api_key = arrival.allowance.api_key
        try:
            if arrival.allowance.is_asked_of_server:
                await self._take_together(arrival, admission.tokens_max)
            if claim is not None:
                await self._idempotency.take(claim)
            hold, admission = await self._hold_with_grant(api_key, admission)
            if arrival.exchange.is_open:
                self._attempt(arrival, admission, hold)
            else:
                self._wallet.release(hold)
                self._forget(arrival.id, 0)
        except (AlreadyDone, LimitExceeded) as told:  # of a name of its own: compiled, each has one type
            arrival.limit_headers += told.headers
            refusal = told
        except Refusal as refused:
            refusal = refused
        except asyncio.CancelledError:  # by `drain`
            refusal = Refusal(ErrorCode.SERVICE_UNAVAILABLE)
        except Exception as bug:  # noqa: BLE001  the edge of a task: nobody above would answer the caller
            report_bug(bug)
            refusal = Refusal(ErrorCode.INTERNAL_ERROR)
        if refusal is not None:
            self._forget(arrival.id, 0)
            self.refuse(arrival.exchange, refusal, arrival.id, arrival.limit_headers)

    def _wait(self, arrival: Arrival, work: Coroutine[None, None, None]) -> None:
        waiting = self._later(work)
        if arrival.ends_at_s:
            timer = self._loop.call_at(arrival.ends_at_s, self._run_out, arrival)
            waiting.add_done_callback(lambda _: timer.cancel())

    def _run_out(self, arrival: Arrival) -> None:
        """Its time is over while it waits; what it waits for finds nobody who waits."""
        self.refuse(arrival.exchange, Refusal(ErrorCode.GENERATION_TIMEOUT, OUT_OF_TIME), arrival.id)

    async def _take_together(self, arrival: Arrival, tokens: int) -> None:
        """Count it with those of all machines, which takes 20 ms at most. Raises Refusal."""
        now_s = self._loop.time()
        arrival.limit_headers, arrival.server_bucket = await self.allowances.take_together(
            arrival.allowance, now_s=now_s, now_unix_s=arrival.at_ms / 1000, tokens=tokens
        )
        arrival.reserve(tokens, now_s)

    async def _hold_with_grant(self, api_key: ApiKey, admission: Admission) -> tuple[Hold, Admission]:
        """The hold, after a grant. When the balance does not cover it, the input is counted, which makes it tighter;
        then it may be for a shorter answer, when no length was asked."""
        org_id, chain = api_key.org_id, api_key.chain
        try:
            try:
                return await self._wallet.hold_with_grant(org_id, admission.hold_nanos, chain), admission
            except InsufficientFunds as refused:
                first = refused  # handled outside: compiled code must not wait within a handler
            admission = await recounted(admission, self._dispatcher.counting)
            if admission.hold_nanos > first.available_nanos:
                admission = shrink(admission, first)
            return await self._wallet.hold_with_grant(org_id, admission.hold_nanos, chain), admission
        except InsufficientFunds as short:
            raise too_dear(admission, short) from None
        except (LedgerUnavailable, NodeSuperseded, JournalFull, JournalFailed):
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None
        except LookupError as unknown:
            # As after a restore, the books do not know a lease or an organisation of ours: the next request gets anew.
            report_bug(unknown)
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None

    def _attempt(self, arrival: Arrival, admission: Admission, hold: Hold) -> None:
        """Begin its execution, which owns the hold from then on. Whatever is raised, the hold is released."""
        try:
            api_key, exchange = arrival.allowance.api_key, arrival.exchange
            plan = Plan(
                arrival.id,
                api_key.org_id,
                api_key.id,
                arrival.at_ms,
                admission,
                hold,
                arrival.body_bytes,
                exchange.headers.get(ON_DISCONNECT) == OUTLIVES,
                arrival.ends_at_s,
            )
            self._dispatcher.begin(plan, self._relay(arrival, admission, api_key.org_id))
        except BaseException:
            self._wallet.release(hold)
            raise

    def _relay(self, arrival: Arrival, admission: Admission, org_id: bytes) -> PlainRelay | StreamRelay:
        request, chat_format, execution_id = admission.request, arrival.format, arrival.id
        headers = id_headers(execution_id, chat_format.dialect) + arrival.limit_headers
        if admission.dropped:
            headers += b"x-dropped-parameters: %b\r\n" % ", ".join(shown_names(admission.dropped)).encode()
        identity = self.edge.identity(
            admission, chat_format, execution_id=execution_id, org_id=org_id, at_ms=arrival.at_ms
        )
        if not request.is_stream:
            return PlainRelay(arrival.exchange, headers, chat_format, request, identity, execution_id)
        return StreamRelay(
            arrival.exchange, headers, chat_format, request, identity, execution_id, open_streams=self._open_streams
        )

    def _models(self, exchange: Exchange, request_id: bytes) -> None:
        """What can be called, and how many tokens an input has: nothing of it is an execution."""
        path = exchange.path
        called = gemini_call(path)
        expect_method(exchange, *(READS if called is None else ("POST",)))
        root = GEMINI_MODELS if path.startswith(GEMINI_MODELS) else MODELS
        name = unquote(path[len(root) + 1 :])
        if path != root and not (path.startswith(root + "/") and name):
            raise Refusal(ErrorCode.NOT_FOUND)
        view = self.view()
        if called is not None:
            named = ChatEndpoint(FORMATS["gemini_generate"], called[0])

            def count(api_key: ApiKey, body: bytes) -> bytes:
                return count_tokens(body, self.edge.around(exchange, named, api_key.org_id), view, api_key)

            self._count(exchange, request_id, count)
            return
        api_key = self._keyring.authenticate(exchange.headers, self._now_ms())
        body = model_page(view, api_key, root=root, name=name, headers=exchange.headers, query=exchange.query)
        exchange.respond(200, JSON_TYPE + request_header(request_id), body)

    def _count_message_tokens(self, exchange: Exchange, request_id: bytes) -> None:
        expect_method(exchange, "POST")
        messages = ChatEndpoint(FORMATS["anthropic_messages"])

        def count(api_key: ApiKey, body: bytes) -> bytes:
            return count_message_tokens(
                body, self.edge.around(exchange, messages, api_key.org_id), self.view(), api_key
            )

        self._count(exchange, request_id, count, "anthropic")

    def _count(
        self, exchange: Exchange, request_id: bytes, count: Callable[[ApiKey, bytes], bytes], dialect: str = ""
    ) -> None:
        """Answer how many tokens an input has. It reads a whole body, as a call does, and so counts as one; it ends
        before the next one begins, so it never is under way."""
        self.pressure.admit()
        now_ms = self._now_ms()
        api_key = self._keyring.authenticate(exchange.headers, now_ms)
        expect_json(exchange)
        self.allowances.of(api_key, self._loop.time()).check_place()

        def answer(limit_headers: bytes) -> None:
            body = count(api_key, exchange.body.unwrap())
            exchange.respond(200, JSON_TYPE + request_header(request_id, dialect) + limit_headers, body)

        self._counted.answer(exchange, request_id, api_key, answer)

    def client_of(self, exchange: Exchange) -> str:
        """The caller's address."""
        forwarded_for = exchange.headers.get(b"x-forwarded-for", b"")
        return self.trusted_proxies.client_of(exchange.client_host, forwarded_for)

    def _readyz(self, exchange: Exchange, request_id: bytes) -> None:
        state = self.state
        is_ready = state.is_ready and not state.is_draining
        status = "ready" if is_ready else "not ready"
        page = {"status": status, "catalogue_version": self.view().version, "degraded": state.degraded()}
        headers = JSON_TYPE + request_header(request_id)
        exchange.respond(200 if is_ready else 503, headers, msgspec.json.encode(page))

    # Around it.

    async def drain(self, timeout_s: float) -> None:
        """Let what was admitted end; what takes longer is told so, each execution with its record."""
        ends_at_s = self._loop.time() + timeout_s
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=timeout_s)
        for waiting in self._waiting:
            waiting.cancel()
        await self._dispatcher.drain(max(0.0, ends_at_s - self._loop.time()))

    def close(self) -> None:
        self._open_streams.close()
        self.pressure.close()

    def ended(self, attempt: ClosedAttempt) -> None:
        """An execution is in the books: count it, and correct what its key's limit had reserved."""
        close, opened = attempt.close, attempt.open
        self._answers_counted.add(opened.model, _OUTCOME_LABELS[close.outcome], close.error_code)
        self._answers_timed.observe((close.closed_at_ms - opened.accepted_at_ms) / 1000, opened.model)
        used = close.usage.all_input_tokens + close.usage.all_output_tokens
        self._forget(opened.execution_id, used, close.charge_nanos)

    def unused(self, plan: Plan) -> None:
        """An execution ended before anything was sent."""
        self._forget(plan.execution_id, 0)

    def _forget(self, execution_id: bytes, used_tokens: int, charge_nanos: int = 0) -> None:
        """It is over: what it had reserved of its key's limits, and without a charge its idempotency key, are free."""
        self._idempotency.ended(execution_id, charge_nanos)
        arrival = self._arrivals.pop(execution_id, None)
        if arrival is not None:
            arrival.end(used_tokens, self._loop.time())
            if arrival.window is not None and arrival.server_bucket >= 0:
                self.allowances.correct_together(arrival.allowance, used_tokens - arrival.tokens, arrival.server_bucket)

    def _refuse_stranger(self, exchange: Exchange, refusal: Refusal, request_id: bytes) -> None:
        """401, or 429 for an address that keeps trying keys; by the count of all machines, where one counts for all."""
        if self.allowances.is_counted_together:
            self._later(self._refuse_stranger_together(exchange, refusal, request_id))
            return
        try:
            self._failed_keys.count(self.client_of(exchange), self._loop.time())
        except Refusal as too_many:
            refusal = too_many
        self.refuse(exchange, refusal, request_id)

    async def _refuse_stranger_together(self, exchange: Exchange, refusal: Refusal, request_id: bytes) -> None:
        try:
            await self._failed_keys.count_together(self.client_of(exchange), self._loop.time())
        except Refusal as too_many:
            refusal = too_many
        self.refuse(exchange, refusal, request_id)

    def refuse(self, exchange: Exchange, refusal: Refusal, request_id: bytes, headers: bytes = b"") -> None:
        """Answer with an error, in the format that belongs to the path."""
        self._refuse_as(dialect_of(exchange.path, exchange.headers), exchange, refusal, request_id, headers)

    def _refuse_as(self, dialect: str, exchange: Exchange, refusal: Refusal, request_id: bytes, headers: bytes) -> None:
        told = telling(dialect, refusal)
        if refusal.code is ErrorCode.METHOD_NOT_ALLOWED:
            headers += b"allow: %b\r\n" % methods_of(exchange.path)
        if exchange.is_open:  # else who asked has left, or been told that his time is over
            self._answers_counted.add("", "refused", told.code)
        shown = ids.text("req", request_id).encode()
        exchange.respond(told.status, shown.join(told.lines) + headers, shown.join(told.body))

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // 1_000_000
