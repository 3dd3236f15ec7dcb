"""One try at one provider. It owns its upstream call and its journal entry, and ends exactly once.

    start → OPEN journaled → request sent → (head → data …)* → one ending → CLOSE journaled
                                                               ├ completed
                                                               ├ failed: refused, broken, timed out
                                                               └ abandoned: the caller left, or we cut it off

The caller's connection is not known here: `Execution` stands between, so that an attempt outlives its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol, TypeVar

from waypost.dispatch.counting import Counting
from waypost.dispatch.extension import Extension
from waypost.dispatch.failures import BROKEN, OF_TRANSPORT, OUR_FAULT, UNAFFORDABLE
from waypost.dispatch.fleet import Credential, LiveRoute
from waypost.dispatch.meter import AttemptMeter, bill_of, is_believable
from waypost.dispatch.ports import Candidate, Plan
from waypost.dispatch.streams import Streams
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.ledger.record import Open, Outcome, Progress, answer_digest
from waypost.metering.bill import FREE, Bill
from waypost.metering.estimate import upper_bound
from waypost.policy.circuit import UNTIED, Phase, Verdict, verdict_of
from waypost.providers.kind import BadAnswer, Failure, StreamReader, UpstreamError, check_values
from waypost.telemetry.events import report_bug
from waypost.transport.http1_client import UNBOUNDED, Call, TransportFailure
from waypost.wire.canonical import Chunk, Completion, Usage, has_content

ERROR_BODY_BYTES_MAX = 65_536  # of a refusal; more than any provider's error envelope
OUTPUT_BYTES_PER_TOKEN = 16  # of a stream, on average: four times as long as tokens of prose
OUTPUT_BYTES_MIN = 65_536  # short answers may consist of unusual tokens
_Word = TypeVar("_Word", int, bool)


class Owner(Protocol):
    """The execution that an attempt belongs to."""

    plan: Plan
    is_committed: bool
    counting: Counting
    streams: Streams

    def now_s(self) -> float: ...

    def relay(self, chunks: Sequence[Chunk]) -> None:
        """Hand events to the caller. The first time, it commits."""

    def attempt_ended(
        self, attempt: Attempt, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None
    ) -> None:
        """Called once: `failure` None means that the answer is whole."""

    def break_off(self) -> None:
        """A defect of ours kept the caller from being told the end."""

    def deliver(self) -> None: ...
    def usage_was_doubtful(self, live: LiveRoute) -> None: ...
    def hold_was_overrun(self, live: LiveRoute, over_nanos: Nanos) -> None: ...
    def raise_hold(self, attempt: Attempt, extra_nanos: Nanos) -> bool: ...
    def ask_to_raise_hold(self, attempt: Attempt, extra_nanos: Nanos, then: Callable[[bool], None]) -> None: ...
    def dropped_fields(self, count: int) -> None: ...


class Attempt:
    """A transport Receiver. Every path out of it goes through `_end`."""

    __slots__ = (
        "_answer_id",
        "_body",
        "_body_bytes",
        "_call",
        "_costs",
        "_credential",
        "_extension",
        "_has_arrived",
        "_headers",
        "_is_ended",
        "_is_held_back",
        "_is_paused",
        "_meter",
        "_output_bytes_max",
        "_owner",
        "_permit",
        "_reader",
        "_status",
        "is_over",
        "live",
        "number",
        "offer",
        "record",
    )

    def __init__(self, owner: Owner, candidate: Candidate, number: int, attempt_id: bytes, opened_at_ms: int) -> None:
        plan = owner.plan
        live, offer = candidate.live, candidate.offer
        request = plan.admission.request
        self._owner = owner
        self._credential: Credential = live.credentials[0]  # until it is sent
        self._permit = UNTIED
        self._call: Call | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}  # of an answer that is no stream
        self._answer_id = ""  # of a plain answer; a stream's reader knows it
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._reader: StreamReader | None = None
        self.is_over = False  # nothing more is taken; it may still be counted
        self._is_ended = False
        self._is_paused = False  # by the caller
        self._is_held_back = False  # by the extension
        self._has_arrived = False  # all of the answer, and a part of it waits for the extension
        # What a provider bills is what holds when it is asked; a customer's prices are those of the acceptance.
        costs = self._costs = live.costs.in_force(opened_at_ms) if live.costs.changes else live.costs
        self._meter: AttemptMeter | None = None  # made when it is needed
        self._extension: Extension | None = None
        output_tokens_max = offer.ceiling.output_tokens_max
        if request.is_stream and request.output_tokens_max is None:
            most_tokens = request.n * offer.model.max_output
            can_be_cut = live.stops_billing_on_cancel and not (offer.ceiling.may_speak or plan.has_long_hold)
            if can_be_cut and output_tokens_max < most_tokens:
                output_tokens_max = most_tokens
                self._extension = Extension(self, offer.ceiling, offer.prices, most_tokens=most_tokens)
        self._output_bytes_max = OUTPUT_BYTES_MIN + OUTPUT_BYTES_PER_TOKEN * output_tokens_max
        bound = offer.ceiling
        if self._extension is not None:
            bound = replace(bound, output_tokens_max=output_tokens_max)
        self.live = live
        self.offer = offer
        self.number = number
        self.record = Open(  # in their order: with names it would take 0.8 µs and not 0.2
            attempt_id,
            plan.execution_id,
            plan.hold.lease_id,
            plan.org_id,
            plan.api_key_id,
            plan.hold.amount_nanos,
            upper_bound(bound, costs),
            plan.admission.price_version,
            number,
            opened_at_ms,
            plan.accepted_at_ms,
            request.is_stream,
            offer.model.slug,
            live.provider.id,
            live.deployment.id,
            plan.has_long_hold,
        )

    def send(self) -> None:
        """Hand the request to the provider. The OPEN record has been written before, so whatever happens here ends in
        the books. Whoever left while it was synced is not sent for."""
        if self.is_over:
            return
        request, live, offer = self._owner.plan.admission.request, self.live, self.offer
        try:
            now_s = self._owner.now_s()
            credential = self._credential = live.credential(now_s)
            self._permit = credential.health.circuit.begin(now_s)
            # What the hold covers; or all that the model can answer, when the hold can be raised or the answer cut.
            output_tokens_max = offer.output_tokens_max if self._extension is None else offer.model.max_output
            head, body = live.kind.call(request, credential.target, output_tokens_max=output_tokens_max)
            timeouts, bytes_max = live.call_timeouts, None
            if request.is_stream:  # what counts is what was said in it: see `_read_events`
                timeouts, bytes_max = live.stream_timeouts, UNBOUNDED
            self._call = live.pool.call(head, body, self, timeouts, body_bytes_max=bytes_max)
        except Exception as bug:  # noqa: BLE001  an edge: a defect of ours must still end the attempt in the books
            self.end_by_bug(bug)

    # What the transport tells.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._status = status
        is_events = self.record.is_stream and status == 200
        # Some providers answer a streamed call with a whole JSON object when they refuse it.
        if is_events and not headers.get(b"content-type", b"").startswith(b"application/json"):
            self._reader = self.live.kind.stream(n=self._owner.plan.admission.request.n, target=self._credential.target)
        else:
            self._headers = headers

    def on_data(self, data: bytes) -> None:
        if self.is_over:
            return
        try:
            self._take(data)
        except Exception as bug:  # noqa: BLE001  an edge: a defect of ours must still end the attempt in the books
            self.end_by_bug(bug)

    def on_end(self) -> None:
        if not self.is_over and self._waiting:
            self._has_arrived = True
            return
        if not self.is_over:
            try:
                self._read_whole()
            except Exception as bug:  # noqa: BLE001  as above
                self.end_by_bug(bug)
        self._call = None  # it holds on to this object: without the cycle the request is freed now, with its payload

    def on_failure(self, failure: TransportFailure) -> None:
        if not self.is_over:
            try:
                self._broke(OF_TRANSPORT[failure])
            except Exception as bug:  # noqa: BLE001  as above
                self.end_by_bug(bug)
        self._call = None  # as above

    def _take(self, data: bytes) -> None:
        if self._reader is not None:
            self._read_events(self._reader, data)
        elif self._body_bytes < ERROR_BODY_BYTES_MAX or (self._status == 200 and not self.record.is_stream):
            self._body.append(data)
            self._body_bytes += len(data)

    def _read_whole(self) -> None:
        body = b"".join(self._body)
        if self._reader is not None:
            self._end_events(self._reader)
        elif self._status == 200:
            self._finish_plain(body)
        else:
            self._refused(self.live.kind.failure(self._status, self._headers, body, self.live.provider.error_map))

    # How it ends.

    def end_by_bug(self, bug: Exception) -> None:
        """A defect of ours, at whatever point."""
        report_bug(bug)
        self._stop_call()
        if self._is_ended:
            self._owner.break_off()
        elif not self.is_over:
            self._broke(OUR_FAULT)
        elif self._owner.is_committed:  # the defect is in the making of its bill: what was reported is left out
            self._end(Outcome.FAILED, self.meter.guessed(None, self.output_bytes), OUR_FAULT)
        else:
            self._end(Outcome.FAILED, self.meter.lost(), OUR_FAULT)

    def _read_events(self, reader: StreamReader, data: bytes) -> None:
        owner = self._owner
        try:
            chunks = reader.feed(data)
            if not owner.is_committed:
                chunks = [chunk for chunk in chunks if has_content(chunk)]
            if chunks:
                self._answers()
                if self.meter.tally is None:
                    owner.streams.add(self)
                if self._extension is None:
                    self.deliver(chunks)
                else:
                    self._extension.take(chunks, reader.output_bytes)
            if self.is_over or self._waiting:
                return
            if reader.output_bytes > self._output_bytes_max:  # it goes on and on, whatever maximum it was given
                self._stop_call()
                self._broke(BROKEN)
            elif reader.is_done or reader.is_broken:
                self._finish_stream(reader)
        except UpstreamError as error:
            self._stop_call()
            self._broke(error.failure) if owner.is_committed else self._refused(error.failure)
        except BadAnswer:
            self._stop_call()
            self._broke(BROKEN)

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """To the caller, and to what is counted as delivered."""
        self.meter.relayed(chunks)
        self._owner.relay(chunks)

    def _end_events(self, reader: StreamReader) -> None:
        try:
            self._finish_stream(reader)
        except (BadAnswer, UpstreamError):
            self._broke(BROKEN)

    def _finish_stream(self, reader: StreamReader) -> None:
        """Raises BadAnswer, UpstreamError when the answer is not whole."""
        reader.end()
        self._owner.dropped_fields(reader.unknown_fields)
        self._completed(None, reader.usage, has_output=reader.output_bytes > 0)

    def _finish_plain(self, body: bytes) -> None:
        try:
            request = self._owner.plan.admission.request
            if not (request.wants_logprobs or request.modality == "embedding"):  # which are many numbers
                check_values(body)
            completion, usage = self.live.kind.completion(
                self._headers, body, n=request.n, target=self._credential.target
            )
        except UpstreamError as error:
            self._refused(error.failure)
        except BadAnswer:
            self._broke(BROKEN)
        else:
            if request.is_stream:
                self._broke(BROKEN)  # a whole answer where events were asked for
            else:
                if completion.unknown_fields:
                    self._owner.dropped_fields(completion.unknown_fields)
                self._answer_id = completion.answer_id
                self._completed(completion, usage, has_output=completion.has_output)

    def _completed(self, completion: Completion | None, reported: Usage | None, *, has_output: bool) -> None:
        self.is_over = True
        plan, offer = self._owner.plan, self.offer
        if reported is not None and is_believable(reported, plan, offer):
            bill = bill_of(reported, plan, self.live, offer, self._costs, self._owner, has_output=has_output)
            self._end(Outcome.COMPLETED, bill, None, completion)
            return
        output_bytes = self.output_bytes if completion is None else completion.output_bytes
        self.meter.counted(
            completion, reported, output_bytes, lambda bill: self._settle(Outcome.COMPLETED, bill, None, completion)
        )

    def _refused(self, failure: Failure) -> None:
        """The provider said no: it bills nothing."""
        if failure.is_rate_limit or failure.is_ours:
            self._credential.health.rest(self._owner.now_s(), failure.retry_after_s)
        is_callers_fault = failure.code.status < 429 and not failure.is_ours
        self._end(Outcome.REJECTED if is_callers_fault else Outcome.FAILED, FREE, failure)

    def _broke(self, failure: Failure) -> None:
        """The answer did not come, or stopped coming."""
        if self.is_sent and self._owner.is_committed:
            self._end_received(Outcome.FAILED, failure)
        else:
            self._end(Outcome.FAILED, self.meter.lost() if self.is_sent else FREE, failure)

    def abandon(self, outcome: Outcome, failure: Failure) -> None:
        """Nobody waits any more and closing the connection stops the billing: close it, charge what was received."""
        if not self.is_over:
            may_be_billed = self._may_be_billed
            self._stop_call()
            if may_be_billed:
                self._end_received(outcome, failure)
            else:
                self._end(outcome, FREE, failure)

    def cut_for_balance(self) -> None:
        """The hold is used up and cannot be raised: close the connection, charge exactly what was received."""
        if not self.is_over:
            self._stop_call()
            self._end_received(Outcome.CUT_OFF, UNAFFORDABLE)

    def cut_off(self) -> None:
        """Nobody listens and the provider goes on too long: the caller pays what was received, and the cost is booked
        at its bound until the provider's bill corrects it."""
        if not self._is_ended:
            may_be_billed = self._may_be_billed
            bill = self.meter.guessed(self._reported, self.output_bytes) if may_be_billed else FREE
            self._stop_call()
            cogs = self.record.cost_bound_nanos if may_be_billed else 0
            usage = replace(bill.usage, is_estimated=True)
            self._end(Outcome.CUT_OFF, replace(bill, cogs_nanos=cogs, usage=usage), BROKEN)

    def _end_received(self, outcome: Outcome, failure: Failure) -> None:
        """Input, and the output so far: by the provider's own running count where it gives one, else by ours."""
        self.is_over = True
        settle = partial(self._settle, outcome, failure=failure)
        try:
            reported = None if self._reader is None else self._reader.usage
            self.meter.received(reported, self.output_bytes, settle, undelivered=self._waiting)
        except Exception as bug:  # noqa: BLE001  an edge: whoever leaves, or is cut off, does not come through another
            self.end_by_bug(bug)

    def _settle(
        self, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None = None
    ) -> None:
        """Its bill is made, now or after counting for a moment; it may have been cut off meanwhile."""
        if self._is_ended:
            return
        try:
            self._end(outcome, bill, failure, completion)
        except Exception as bug:  # noqa: BLE001  an edge: after counting, nobody above would tell the caller
            self.end_by_bug(bug)

    # What its meter and its hold need.

    @property
    def meter(self) -> AttemptMeter:
        if self._meter is None:
            owner = self._owner
            self._meter = AttemptMeter(owner.plan, self.live, self.offer, self._costs, owner.counting, owner)
        return self._meter

    @property
    def output_bytes(self) -> int:
        read_bytes = 0 if self._reader is None else self._reader.output_bytes  # less what was not delivered
        return read_bytes if self._extension is None else read_bytes - self._extension.waiting_bytes

    @property
    def _waiting(self) -> Collection[Chunk]:
        return () if self._extension is None else self._extension.waiting

    @property
    def _reported(self) -> Usage | None:
        """Of what was delivered, as far as its provider counts along."""
        return None if self._reader is None or self._waiting else self._reader.usage

    def progress(self) -> Progress | None:
        self._owner.deliver()
        return self.meter.progress(self.record.attempt_id, self._reported, self.output_bytes)

    def count_output(self, then: Callable[[int], None]) -> None:
        self.meter.count_output(self.output_bytes, partial(self._told, then))

    def raise_hold(self, extra_nanos: Nanos) -> bool:
        return self._owner.raise_hold(self, extra_nanos)

    def ask_to_raise_hold(self, extra_nanos: Nanos, then: Callable[[bool], None]) -> None:
        self._owner.ask_to_raise_hold(self, extra_nanos, partial(self._told, then))

    def _told(self, then: Callable[[_Word], None], word: _Word) -> None:
        """A count, or the outcome of a grant, which may come when all is over."""
        if self.is_over:
            return
        try:
            then(word)
        except Exception as bug:  # noqa: BLE001  an edge: after counting, nobody above would end it
            self.end_by_bug(bug)

    @property
    def answer(self) -> bytes:
        """Digest of the name that the provider gave its answer, by which its bill may be compared; b"" for none."""
        answer_id = self._answer_id if self._reader is None else self._reader.answer_id
        return answer_digest(answer_id) if answer_id else b""

    @property
    def is_sent(self) -> bool:
        """Whether its provider may have received any of it."""
        return self._call is not None and self._call.is_sent

    @property
    def _may_be_billed(self) -> bool:
        """Sent, and not being refused: providers do not bill refusals."""
        return self.is_sent and self._status in (0, 200)

    def _end(self, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None = None) -> None:
        assert not self._is_ended, "an attempt ends once"
        self.is_over = self._is_ended = True
        self._body = []
        self._extension = None  # it holds on to this object
        if self._meter is not None and self._meter.tally is not None:
            self._owner.streams.discard(self)
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
        self._is_paused = True
        self._pause_call()

    def resume(self) -> None:
        self._is_paused = False
        self._resume_call()

    def hold_back(self) -> None:
        """Its extension waits: stop reading from the provider, however fast the caller reads."""
        self._is_held_back = True
        self._pause_call()

    def go_on(self) -> None:
        self._is_held_back = False
        reader = self._reader
        assert reader is not None
        if self._has_arrived:
            self._end_events(reader)
            self._call = None  # as in `on_end`
        elif reader.is_done or reader.is_broken:
            self._end_events(reader)
        else:
            self._resume_call()

    def _pause_call(self) -> None:
        if self._call is not None and not self.is_over:
            self._call.pause()

    def _resume_call(self) -> None:
        if self._call is not None and not (self.is_over or self._is_paused or self._is_held_back):
            self._call.resume()
