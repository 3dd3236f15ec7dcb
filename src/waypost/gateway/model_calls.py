"""Calls of models for asynchronous executions, as the worker asks for them: the way of a caller's request, without what
was done when the execution was accepted.

    read → parse → admit → fit its long hold → attempt (failover) → answer, whole

Its key, limits and permissions were looked at then, and the money was set aside; the prices of then count. The answer
always comes in one piece; where the worker wants it streamed from the provider, so that silence ends it and not its
length, it is put together here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from waypost.dispatch.dispatcher import Dispatcher
from waypost.dispatch.ports import Admission, Plan, Running
from waypost.gateway.admission import fit_long_hold
from waypost.gateway.endpoints import ChatEndpoint
from waypost.gateway.heads import expect_json, expect_method, request_header
from waypost.gateway.pipeline import Gateway
from waypost.gateway.ports import EarlierViews, LedgerUnavailable
from waypost.gateway.recount import recounted
from waypost.gateway.relay import JSON_TYPE
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.money import Nanos, format_usd
from waypost.kit.values import replace
from waypost.policy.snapshot import View
from waypost.telemetry.events import report_bug
from waypost.tenancy.api_key import ApiKey, Scope
from waypost.transport.exchange import Exchange
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.collected import Collector
from waypost.wire.dialects import error_headers, render_error
from waypost.wire.formats import ChatFormat
from waypost.wire.identity import AnswerIdentity
from waypost.wire.model_call import CallOutcome, ModelCall, outcome_line, read_call, units_of
from waypost.wire.preference_fields import take_preferences
from waypost.wire.request import ChatRequest


class LongHold(msgspec.Struct, frozen=True):
    """`dispatch.ports.Hold` of an execution whose money is in the books, and not in a lease of ours."""

    lease_id: bytes
    amount_nanos: Nanos


class ModelCalls:
    """Answers exchanges of the worker port at callers' paths."""

    def __init__(self, gateway: Gateway, dispatcher: Dispatcher, earlier_views: EarlierViews) -> None:
        self._gateway = gateway
        self._dispatcher = dispatcher
        self._earlier_views = earlier_views
        self._loop = asyncio.get_running_loop()
        self._preparing: set[asyncio.Task[None]] = set()

    def handle(self, exchange: Exchange, endpoint: ChatEndpoint) -> None:
        """Answer, now or later. Raises nothing."""
        call: ModelCall | None = None
        try:
            expect_method(exchange, "POST")
            call = _call_of(exchange)
            self._begin(exchange, endpoint, call)
        except Refusal as refusal:
            _refuse_unsent(exchange, refusal, call)

    async def drain(self) -> None:
        """Begin nothing more; what has begun is the dispatcher's."""
        for preparing in self._preparing:
            preparing.cancel()
        if self._preparing:
            await asyncio.wait(self._preparing)

    def _begin(self, exchange: Exchange, endpoint: ChatEndpoint, call: ModelCall) -> None:
        gateway = self._gateway
        if not gateway.state.is_ready:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2)
        gateway.pressure.admit()
        expect_json(exchange)
        body = exchange.body.unwrap()
        request = endpoint.format.read(body, gateway.edge.around(exchange, endpoint, call.org_id))
        request.preferences = take_preferences(request)
        if call.price_version == gateway.view().version:
            admission = self._admit(request, call, None)
            if admission.hold_nanos <= call.hold_nanos:
                self._attempt(exchange, endpoint.format, call, admission)
                return
        preparing = self._loop.create_task(self._attempt_prepared(exchange, endpoint.format, call, request))
        self._preparing.add(preparing)
        preparing.add_done_callback(self._preparing.discard)

    async def _attempt_prepared(
        self, exchange: Exchange, chat_format: ChatFormat, call: ModelCall, request: ChatRequest
    ) -> None:
        """Its prices are those of another version than ours, or its bound is above what is held."""
        refusal: Refusal | None = None
        try:
            admission = await self._fitted(request, call)
            if exchange.is_open:
                self._attempt(exchange, chat_format, call, admission)
        except Refusal as refused:
            refusal = refused
        except LedgerUnavailable:
            refusal = Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2)
        except asyncio.CancelledError:  # by `drain`
            refusal = Refusal(ErrorCode.SERVICE_UNAVAILABLE)
        except Exception as bug:  # noqa: BLE001  the edge of a task: nobody above would answer
            report_bug(bug)
            refusal = Refusal(ErrorCode.INTERNAL_ERROR)
        if refusal is not None:
            _refuse_unsent(exchange, refusal, call)

    async def _fitted(self, request: ChatRequest, call: ModelCall) -> Admission:
        """Where its bound is above what is held the input is counted, which makes it tighter, and the answer shortened.
        Raises Refusal, LedgerUnavailable."""
        earlier = None
        if call.price_version != self._gateway.view().version:
            earlier = await self._earlier_views.view_at(call.price_version)
        admission = self._admit(request, call, earlier)
        if admission.hold_nanos <= call.hold_nanos:
            return admission
        return fit_long_hold(await recounted(admission, self._dispatcher.counting), call.hold_nanos)

    def _admit(self, request: ChatRequest, call: ModelCall, earlier: View | None) -> Admission:
        # Any model: which ones the key may call was looked at when the execution was accepted.
        api_key = ApiKey(id=call.api_key_id, org_id=call.org_id, digest=b"", scope=Scope.FULL)
        return self._gateway.admit(request, api_key, self._loop.time(), call.accepted_at_ms, earlier=earlier)

    def _attempt(self, exchange: Exchange, chat_format: ChatFormat, call: ModelCall, admission: Admission) -> None:
        plan = Plan(
            execution_id=call.execution_id,
            org_id=call.org_id,
            api_key_id=call.api_key_id,
            accepted_at_ms=call.accepted_at_ms,
            admission=admission,
            hold=LongHold(call.execution_id, call.hold_nanos),
            body_bytes=len(exchange.body),
            has_long_hold=True,
            attempts_before=call.attempts_before,
        )
        identity = self._gateway.edge.identity(
            admission,
            chat_format,
            execution_id=call.execution_id,
            org_id=call.org_id,
            at_ms=call.accepted_at_ms,
        )
        self._dispatcher.begin(plan, _Relay(exchange, chat_format, plan, identity))


class _Relay:
    """`dispatch.ports.Caller`: one whole answer, and what came of the call beside it."""

    __slots__ = ("_collector", "_exchange", "_execution", "_format", "_identity", "_plan")

    def __init__(self, exchange: Exchange, chat_format: ChatFormat, plan: Plan, identity: AnswerIdentity) -> None:
        self._exchange = exchange
        self._format = chat_format
        self._plan = plan
        self._identity = identity
        self._collector: Collector | None = None
        self._execution: Running | None = None

    @property
    def _request(self) -> ChatRequest:
        return self._plan.admission.request

    def attach(self, execution: Running) -> None:
        self._execution = execution
        self._exchange.watcher = execution

    def on_model(self, slug: str) -> None:
        self._identity = replace(self._identity, model=slug)

    def on_chunks(self, chunks: Sequence[Chunk]) -> None:
        if self._collector is None:
            self._collector = Collector()
        self._collector.add(chunks)

    def deliver(self) -> None:
        """There is nothing before the end."""

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: Nanos) -> None:
        execution, self._execution = self._execution, None
        assert execution is not None
        if completion is None:
            completion = (self._collector or Collector()).completion()
        body = self._format.render(completion, self._request, self._identity, usage, format_usd(charge_nanos))
        outcome = CallOutcome(
            execution.attempts,
            is_sent=True,
            units=units_of(usage),
            charge_nanos=charge_nanos,
            price_version=self._plan.admission.price_version,
        )
        headers = JSON_TYPE + request_header(self._plan.execution_id) + outcome_line(outcome)
        self._exchange.respond(200, headers, body)

    def on_failed(self, refusal: Refusal) -> None:
        execution, self._execution = self._execution, None
        attempts, is_sent = self._plan.attempts_before, False
        if execution is not None:
            attempts, is_sent = execution.attempts, execution.has_sent
        _refuse(self._exchange, refusal, CallOutcome(attempts, is_sent=is_sent), self._plan.execution_id)

    def on_broken(self) -> None:
        self._execution = None
        self._exchange.abort()


def _call_of(exchange: Exchange) -> ModelCall:
    try:
        return read_call(exchange.headers)
    except ValueError:
        raise invalid(None, "The header that names the execution is not valid.") from None


def _refuse_unsent(exchange: Exchange, refusal: Refusal, call: ModelCall | None) -> None:
    if call is None:
        _refuse(exchange, refusal, CallOutcome(0), bytes(16))
    else:
        _refuse(exchange, refusal, CallOutcome(call.attempts_before), call.execution_id)


def _refuse(exchange: Exchange, refusal: Refusal, outcome: CallOutcome, request_id: bytes) -> None:
    lines = JSON_TYPE + error_headers(refusal) + outcome_line(outcome)
    exchange.respond(refusal.code.status, lines, render_error("canonical", refusal, ids.text("req", request_id)))
