"""One try at one provider. It owns its upstream call and its journal entry, and ends exactly once.

    start → OPEN journaled → request sent → (head → data …)* → one ending → CLOSE journaled
                                                               ├ completed
                                                               ├ failed: refused, broken, timed out
                                                               └ abandoned: the caller left, or we cut it off

The caller's connection is not known here: `Execution` stands between, so that an attempt outlives its caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from waypost.dispatch.fleet import Credential
from waypost.dispatch.ports import Candidate, Plan
from waypost.kit.errors import ErrorCode
from waypost.kit.money import Nanos
from waypost.ledger.record import Open, Outcome
from waypost.metering.charge import FREE, Bill, bill_delivered, bill_lost
from waypost.metering.estimate import likely_tokens, upper_bound
from waypost.metering.usage import meter
from waypost.policy.circuit import UNTIED, Phase, Verdict, verdict_of
from waypost.providers.kind import BadAnswer, Failure, StreamReader, UpstreamError
from waypost.telemetry.events import report_bug
from waypost.transport.http1_client import UNBOUNDED, Call, TransportFailure
from waypost.wire.canonical import Chunk, Completion, Usage, has_content

ERROR_BODY_BYTES_MAX = 65_536  # of a refusal; more than any provider's error envelope
OUTPUT_BYTES_PER_TOKEN = 16  # of a stream, on average: four times as long as tokens of prose
OUTPUT_BYTES_MIN = 65_536  # short answers may consist of unusual tokens
_BROKEN = Failure(code=ErrorCode.GENERATION_FAILED)
_OUR_FAULT = Failure(code=ErrorCode.INTERNAL_ERROR)
_TIMED_OUT = Failure(code=ErrorCode.GENERATION_TIMEOUT)
_UNREACHABLE = Failure(code=ErrorCode.MODEL_UNAVAILABLE)
_FAILURES = {
    TransportFailure.DNS: _UNREACHABLE,
    TransportFailure.CONNECT_REFUSED: _UNREACHABLE,
    TransportFailure.CONNECT_TIMEOUT: _UNREACHABLE,
    TransportFailure.TLS: _UNREACHABLE,
    TransportFailure.RESET_REUSED: _UNREACHABLE,
    TransportFailure.RESET: _BROKEN,
    TransportFailure.TRUNCATED: _BROKEN,
    TransportFailure.MALFORMED: _BROKEN,
    TransportFailure.TOO_LARGE: _BROKEN,
    TransportFailure.FIRST_BYTE_TIMEOUT: _TIMED_OUT,
    TransportFailure.IDLE_TIMEOUT: _TIMED_OUT,
    TransportFailure.TOTAL_TIMEOUT: _TIMED_OUT,
}


class Owner(Protocol):
    """The execution that an attempt belongs to."""

    plan: Plan
    is_committed: bool

    def now_s(self) -> float: ...

    def relay(self, chunks: Sequence[Chunk]) -> None:
        """Hand events to the caller. The first time, it commits."""

    def attempt_ended(
        self, attempt: Attempt, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None
    ) -> None:
        """Called once: `failure` None means that the answer is whole."""

    def break_off(self) -> None:
        """A defect of ours kept the caller from being told the end."""

    def usage_was_doubtful(self, attempt: Attempt) -> None: ...
    def hold_was_overrun(self, attempt: Attempt, over_nanos: Nanos) -> None: ...
    def dropped_fields(self, count: int) -> None: ...


class Attempt:
    """A transport Receiver. Every path out of it goes through `_end`."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_call",
        "_credential",
        "_headers",
        "_is_ended",
        "_output_bytes_max",
        "_owner",
        "_permit",
        "_reader",
        "_status",
        "live",
        "number",
        "offer",
        "record",
    )

    def __init__(self, owner: Owner, candidate: Candidate, number: int, attempt_id: bytes, opened_at_ms: int) -> None:
        plan = owner.plan
        live, offer = candidate.live, candidate.offer
        self._owner = owner
        self._credential: Credential = live.credentials[0]  # until it is sent
        self._permit = UNTIED
        self._call: Call | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._reader: StreamReader | None = None
        self._is_ended = False
        self._output_bytes_max = OUTPUT_BYTES_MIN + OUTPUT_BYTES_PER_TOKEN * offer.ceiling.output_tokens_max
        self.live = live
        self.offer = offer
        self.number = number
        self.record = Open(
            attempt_id=attempt_id,
            execution_id=plan.execution_id,
            lease_id=plan.hold.lease_id,
            org_id=plan.org_id,
            api_key_id=plan.api_key_id,
            hold_nanos=plan.hold.amount_nanos,
            cost_bound_nanos=upper_bound(offer.ceiling, live.costs),
            price_version=plan.admission.price_version,
            attempt_number=number,
            opened_at_ms=opened_at_ms,
            accepted_at_ms=plan.accepted_at_ms,
            is_stream=plan.admission.request.is_stream,
            model=offer.model.slug,
            provider=live.provider.id,
            deployment=live.deployment.id,
        )

    def send(self) -> None:
        """Hand the request to the provider. The OPEN record has been written before, so whatever happens here ends in
        the books."""
        try:
            self._send()
        except Exception as bug:  # noqa: BLE001  an edge: a defect of ours must still end the attempt in the books
            self._end_by_bug(bug)

    def _send(self) -> None:
        plan = self._owner.plan
        now_s = self._owner.now_s()
        self._credential = self.live.credential(now_s)
        self._permit = self._credential.health.begin(now_s)
        head, body = self.live.kind.call(
            plan.admission.request, self._credential.target, output_tokens_max=self.offer.output_tokens_max
        )
        if plan.admission.request.is_stream:
            # What counts is what was said in it: see `_read_events`.
            timeouts, bytes_max = self.live.stream_timeouts, UNBOUNDED
        else:
            timeouts, bytes_max = self.live.call_timeouts, None
        self._call = self.live.pool.call(head, body, self, timeouts, body_bytes_max=bytes_max)

    # What the transport tells.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status
        self._headers = headers
        plan = self._owner.plan
        is_events = plan.admission.request.is_stream and status == 200
        # Some providers answer a streamed call with a whole JSON object when they refuse it.
        if is_events and not headers.get(b"content-type", b"").startswith(b"application/json"):
            self._reader = self.live.kind.stream(n=plan.admission.request.n, target=self._credential.target)

    def on_data(self, data: bytes) -> None:
        if self._is_ended:
            return
        try:
            self._take(data)
        except Exception as bug:  # noqa: BLE001  an edge: a defect of ours must still end the attempt in the books
            self._end_by_bug(bug)

    def on_end(self) -> None:
        if not self._is_ended:
            try:
                self._read_whole()
            except Exception as bug:  # noqa: BLE001  as above
                self._end_by_bug(bug)
        self._call = None  # it holds on to this object: without the cycle the request is freed now, with its payload

    def on_failure(self, failure: TransportFailure) -> None:
        if not self._is_ended:
            try:
                self._broke(_FAILURES[failure])
            except Exception as bug:  # noqa: BLE001  as above
                self._end_by_bug(bug)
        self._call = None  # as above

    def _take(self, data: bytes) -> None:
        if self._reader is not None:
            self._read_events(self._reader, data)
        elif self._is_whole_answer or self._body_bytes < ERROR_BODY_BYTES_MAX:
            self._body.append(data)
            self._body_bytes += len(data)

    def _read_whole(self) -> None:
        if self._reader is not None:
            self._end_events(self._reader)
        elif self._status == 200:
            self._finish_plain(b"".join(self._body))
        else:
            body = b"".join(self._body)
            self._refused(self.live.kind.failure(self._status, self._headers, body, self.live.provider.error_map))

    # How it ends.

    def _end_by_bug(self, bug: Exception) -> None:
        report_bug(bug)
        self._stop_call()
        if self._is_ended:
            self._owner.break_off()
        else:
            self._broke(_OUR_FAULT)

    def _read_events(self, reader: StreamReader, data: bytes) -> None:
        owner = self._owner
        try:
            chunks = reader.feed(data)
            if not owner.is_committed:
                chunks = [chunk for chunk in chunks if has_content(chunk)]
            if chunks:
                self._answers()
                owner.relay(chunks)
            if self._is_ended:
                return
            if reader.output_bytes > self._output_bytes_max:
                # It goes on and on, whatever maximum it was given.
                self._stop_call()
                self._broke(_BROKEN)
            elif reader.is_done or reader.is_broken:
                self._finish_stream(reader)
        except UpstreamError as error:
            self._stop_call()
            self._broke(error.failure) if owner.is_committed else self._refused(error.failure)
        except BadAnswer:
            self._stop_call()
            self._broke(_BROKEN)

    def _end_events(self, reader: StreamReader) -> None:
        try:
            self._finish_stream(reader)
        except (BadAnswer, UpstreamError):
            self._broke(_BROKEN)

    def _finish_stream(self, reader: StreamReader) -> None:
        """Raises BadAnswer, UpstreamError when the answer is not whole."""
        reader.end()
        self._owner.dropped_fields(reader.unknown_fields)
        self._completed(None, reader.usage, reader.output_bytes)

    def _finish_plain(self, body: bytes) -> None:
        try:
            request = self._owner.plan.admission.request
            completion, usage = self.live.kind.completion(
                self._headers, body, n=request.n, target=self._credential.target
            )
        except UpstreamError as error:
            self._refused(error.failure)
        except BadAnswer:
            self._broke(_BROKEN)
        else:
            if request.is_stream:
                self._broke(_BROKEN)  # a whole answer where events were asked for
            else:
                self._owner.dropped_fields(completion.unknown_fields)
                self._completed(completion, usage, completion.output_bytes)

    def _completed(self, completion: Completion | None, reported: Usage | None, output_bytes: int) -> None:
        bill = self._bill(reported, output_bytes, has_output=output_bytes > 0)
        self._end(Outcome.COMPLETED, bill, None, completion)

    def _refused(self, failure: Failure) -> None:
        """The provider said no: it bills nothing."""
        if failure.is_rate_limit or failure.is_our_credential:
            self._credential.health.rest(self._owner.now_s(), failure.retry_after_s)
        is_callers_fault = failure.code.status < 429 and not failure.is_ours
        self._end(Outcome.REJECTED if is_callers_fault else Outcome.FAILED, FREE, failure)

    def _broke(self, failure: Failure) -> None:
        """The answer did not come, or stopped coming."""
        if not self._is_sent:
            bill = FREE
        elif self._owner.is_committed:
            bill = self._bill_received()
        else:
            bill = bill_lost(input_estimate=self.offer.input_estimate, costs=self.live.costs)
        self._end(Outcome.FAILED, bill, failure)

    def abandon(self) -> None:
        """The caller has left and closing the connection stops the billing: close it, charge what was received."""
        if not self._is_ended:
            bill = self._bill_received() if self._may_be_billed else FREE
            self._stop_call()
            self._end(Outcome.DISCONNECTED, bill, _BROKEN)

    def cut_off(self) -> None:
        """Nobody listens and the provider goes on too long: the caller pays what was received, and the cost is booked
        at its bound until the provider's bill corrects it."""
        if not self._is_ended:
            bill = self._bill_received() if self._may_be_billed else FREE
            self._stop_call()
            cogs = self.record.cost_bound_nanos if self._may_be_billed else 0
            usage = msgspec.structs.replace(bill.usage, is_estimated=True)
            self._end(Outcome.CUT_OFF, msgspec.structs.replace(bill, cogs_nanos=cogs, usage=usage), _BROKEN)

    def _bill(self, reported: Usage | None, output_bytes: int, *, has_output: bool) -> Bill:
        plan, offer = self._owner.plan, self.offer
        metered = meter(
            reported,
            Usage(input_tokens=offer.input_estimate, output_tokens=likely_tokens(output_bytes)),
            context_window=offer.model.context_window,
            max_output=offer.model.max_output,
            n=plan.admission.request.n,
        )
        if metered.is_alarming:
            self._owner.usage_was_doubtful(self)
        bill = bill_delivered(
            metered.usage,
            prices=offer.model.price,
            costs=self.live.costs,
            hold_nanos=plan.hold.amount_nanos,
            has_output=has_output,
        )
        if bill.overrun_nanos:
            self._owner.hold_was_overrun(self, bill.overrun_nanos)
        return bill

    def _bill_received(self) -> Bill:
        """Input, and the output so far: by the provider's own running count where it gives one, else estimated."""
        reader = self._reader
        if reader is None:
            return self._bill(None, 0, has_output=True)
        return self._bill(reader.usage, reader.output_bytes, has_output=True)

    @property
    def _is_sent(self) -> bool:
        return self._call is not None and self._call.is_sent

    @property
    def _may_be_billed(self) -> bool:
        """Sent, and not being refused: providers do not bill refusals."""
        return self._is_sent and self._status in (0, 200)

    @property
    def _is_whole_answer(self) -> bool:
        """Whether the body that arrives is the answer to a plain call, bounded by the pool; any other is an error."""
        return self._status == 200 and not self._owner.plan.admission.request.is_stream

    def _end(self, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None = None) -> None:
        assert not self._is_ended, "an attempt ends once"
        self._is_ended = True
        self._body = []
        verdict = verdict_of(outcome, failure, self._status)
        self._credential.health.end(self._permit, verdict, self._owner.now_s())
        self._owner.attempt_ended(self, outcome, bill, failure, completion)

    def _answers(self) -> None:
        """The first content is what a probe is for: its stream may go on for long."""
        health = self._credential.health
        if health.circuit.phase is Phase.HALF_OPEN and self._permit != UNTIED:
            permit, self._permit = self._permit, UNTIED
            health.end(permit, Verdict.SUCCESS, self._owner.now_s())

    def _stop_call(self) -> None:
        if self._call is not None:
            self._call.abort()

    def pause(self) -> None:
        """The caller reads too slowly: stop reading from the provider."""
        if self._call is not None and not self._is_ended:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None and not self._is_ended:
            self._call.resume()
