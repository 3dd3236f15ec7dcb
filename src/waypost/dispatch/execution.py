"""One accepted request at work: attempts in order until one answers, whether or not the caller is still there.

Committed means that the first content event was sent downstream. Before it a failed attempt is followed by the next
route; after it a broken stream ends in an error.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from waypost.dispatch.attempt import Attempt
from waypost.dispatch.choice import Choice
from waypost.dispatch.counting import Counting
from waypost.dispatch.failures import BROKEN, OUT_OF_TIME, TIMED_OUT
from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.ports import Books, Caller, Candidate, Plan
from waypost.dispatch.streams import Streams
from waypost.kit import ids
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.ledger.record import Close, ClosedAttempt, Outcome
from waypost.metering.bill import Bill
from waypost.policy.bulkhead import Waiter
from waypost.policy.failover import AttemptResult, GiveUp, TryNext, next_step
from waypost.providers.kind import Failure
from waypost.telemetry.events import HoldOverrun, RefusedByProvider, UsageDoubtful, emit, report_bug
from waypost.telemetry.metrics import Counter
from waypost.wire.canonical import Chunk, Completion
from waypost.wire.request import let_go_of_call

_Input = TypeVar("_Input")
_OF_CUT_OFF = (ErrorCode.INSUFFICIENT_BALANCE, ErrorCode.GENERATION_TIMEOUT)  # what a caller is told whom we cut off


class Services(Protocol):
    """What executions share; `Dispatcher` is it."""

    books: Books
    clock: Clock
    dice: Callable[[], float]
    attempts_counted: Counter
    fields_dropped: Counter
    counting: Counting
    streams: Streams
    loop: asyncio.AbstractEventLoop

    def began(self, execution: Execution) -> None: ...
    def ended(self, execution: Execution) -> None: ...
    def may_drain(self, execution: Execution, provider_id: str) -> bool: ...


class Execution:
    """Owner of the attempts of one request. The caller's side holds it to say `leave`, `pause` and `resume`."""

    __slots__ = (
        "_attempt",
        "_caller",
        "_choice",
        "_deadline",
        "_first_content_ms",
        "_is_late",
        "_is_over",
        "_last",
        "_loop",
        "_pause",
        "_queued",
        "_results",
        "_services",
        "_waiter",
        "counting",
        "drains_until_s",
        "has_sent",
        "is_committed",
        "plan",
        "streams",
    )

    def __init__(self, services: Services, plan: Plan, caller: Caller) -> None:
        self.plan = plan
        self.is_committed = False
        self.has_sent = False  # an attempt that failed; of one that answers it needs no telling
        self.drains_until_s: float | None = None
        self.counting = services.counting
        self.streams = services.streams
        self._services = services
        self._caller: Caller | None = caller
        self._loop = services.loop
        self._attempt: Attempt | None = None
        self._results: tuple[AttemptResult, ...] = ()
        self._choice: Choice | None = None  # from the first route on that did not do
        self._first_content_ms = 0
        self._last: ClosedAttempt | None = None
        self._is_over = False  # in the books, to the end
        self._pause: asyncio.TimerHandle | None = None  # before the next attempt, or the end of waiting for a place
        self._deadline: asyncio.TimerHandle | None = None  # that the caller gave
        self._is_late = False  # it is over, and the caller was told so
        self._queued: LiveRoute | None = None  # whose bulkhead it waits at, as
        self._waiter: Waiter | None = None

    @property
    def attempts(self) -> int:
        """That have ended, those before the plan's too."""
        return self.plan.attempts_before if self._last is None else self._last.open.attempt_number

    def begin(self) -> None:
        """The first attempt, or the queue for it. Raises Refusal when its OPEN cannot be written: then nothing was sent
        and nobody told."""
        live = self.plan.admission.first.live
        if live.gate.places.take():
            self._open(live)
        self._services.began(self)
        if self.plan.ends_at_s:
            late = Refusal(ErrorCode.GENERATION_TIMEOUT, OUT_OF_TIME)
            self._deadline = self._loop.call_at(self.plan.ends_at_s, self._guarded, self._run_out, late)
        try:
            if self._caller is not None:
                self._caller.attach(self)
            if self._attempt is not None:
                self._send(self._attempt)
            else:
                self._queue_for(live)
        except Exception as bug:  # noqa: BLE001  an edge, see `_went_wrong`
            self._went_wrong(bug)

    # What the caller's side says.

    def leave(self) -> None:
        """The caller is gone. The attempt ends now where that stops the billing, else it is drained to its usage, as
        also when the caller asked for that."""
        self._caller = None
        self._go_on_for_nobody(Outcome.DISCONNECTED, BROKEN)

    def _run_out(self, late: Refusal) -> None:
        """The time that the caller gave is over: he is told so, and it goes on as if he had left."""
        caller, self._caller = self._caller, None
        if caller is not None:
            self._is_late = True
            try:
                self._go_on_for_nobody(Outcome.CUT_OFF, TIMED_OUT)
            finally:  # whoever ends it after a defect does not know him any more
                caller.on_failed(late)

    def _go_on_for_nobody(self, outcome: Outcome, failure: Failure) -> None:
        attempt = self._attempt
        if attempt is None:
            self._end_waiting(outcome)
        elif attempt.live.stops_billing_on_cancel and not self.plan.outlives_caller:
            attempt.abandon(outcome, failure)
        elif self._services.may_drain(self, attempt.live.provider.id):
            attempt.resume()
        else:
            attempt.cut_off()

    def pause(self) -> None:
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        if self._attempt is not None:
            self._attempt.resume()

    def cut_off(self) -> None:
        """End it now, whatever it is doing: it has drained too long, or the process is leaving."""
        caller, self._caller = self._caller, None
        if self._attempt is not None:
            self._attempt.cut_off()
        else:
            self._end_waiting(Outcome.CUT_OFF)
        if caller is not None:
            caller.on_failed(Refusal(ErrorCode.SERVICE_UNAVAILABLE))

    def break_off(self) -> None:
        """A defect of ours kept the caller from being told the end."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.on_broken()

    # What an attempt says.

    def relay(self, chunks: Sequence[Chunk]) -> None:
        if not self.is_committed:
            self.is_committed = True
            self._first_content_ms = max(1, self._now_ms() - self.plan.accepted_at_ms)
            let_go_of_call(self.plan.admission.request)  # there is no failover: a stream may stay open for long
            self._choice = None
        if self._caller is not None:
            self._caller.on_chunks(chunks)

    def deliver(self) -> None:
        if self.is_committed and self._caller is not None:
            self._caller.deliver()

    def attempt_ended(
        self, attempt: Attempt, outcome: Outcome, bill: Bill, failure: Failure | None, completion: Completion | None
    ) -> None:
        """The one place where an attempt's end becomes a record, and either the next attempt or an answer."""
        self._attempt = None
        attempt.live.gate.release()
        self._services.attempts_counted.add(
            attempt.live.provider.id, attempt.live.deployment.id, "COMPLETED" if failure is None else failure.code.name
        )
        if failure is None:
            code = ErrorCode.INTERNAL_ERROR  # which is not told
            if self._is_late:
                outcome, code = Outcome.CUT_OFF, ErrorCode.GENERATION_TIMEOUT
            elif self._caller is None:
                outcome = Outcome.DISCONNECTED  # drained to its end, for nobody
            close = self._record(attempt, outcome, bill, code, is_final=True)
            self._measure(attempt, close)
            self._ended()
            if self._caller is not None:
                self._caller.on_completed(completion, bill.usage, bill.charge_nanos)
            return
        self.has_sent = self.has_sent or attempt.is_sent
        self._results += (AttemptResult(route=attempt.live.route, failure=failure),)
        step = self._next_step(attempt.live, outcome)
        code = ErrorCode.GENERATION_TIMEOUT if self._is_late else failure.code
        self._record(attempt, outcome, bill, code, is_final=isinstance(step, GiveUp))
        self._tell_operator(attempt.live, failure)
        if isinstance(step, GiveUp):
            self._give_up(Refusal(step.code, retry_after_s=step.retry_after_s))
        else:
            self._guarded(self._follow, step)

    def _measure(self, attempt: Attempt, close: Close) -> None:
        opened_ms = attempt.record.opened_at_ms
        first_ms = self.plan.accepted_at_ms + self._first_content_ms - opened_ms if self.is_committed else None
        attempt.live.pace.observe(
            first_content_s=None if first_ms is None else max(0, first_ms) / 1000,
            output_tokens=close.usage.output_tokens,
            total_s=(close.closed_at_ms - opened_ms) / 1000,
        )

    def _tell_operator(self, live: LiveRoute, failure: Failure) -> None:
        if failure.is_ours:
            what = "credential" if failure.is_our_credential else "model name"
            emit(RefusedByProvider(provider=live.provider.id, deployment=live.deployment.id, refused=what))

    def dropped_fields(self, count: int) -> None:
        if count:
            self._services.fields_dropped.add(by=count)

    def usage_was_doubtful(self, live: LiveRoute) -> None:
        emit(UsageDoubtful(provider=live.provider.id, deployment=live.deployment.id, execution_id=self._shown_id()))

    def hold_was_overrun(self, live: LiveRoute, over_nanos: Nanos) -> None:
        emit(
            HoldOverrun(
                provider=live.provider.id,
                deployment=live.deployment.id,
                execution_id=self._shown_id(),
                over_nanos=over_nanos,
            )
        )

    def raise_hold(self, attempt: Attempt, extra_nanos: Nanos) -> bool:
        return self._services.books.extend(attempt.record.attempt_id, self.plan, extra_nanos)

    def ask_to_raise_hold(self, attempt: Attempt, extra_nanos: Nanos, then: Callable[[bool], None]) -> None:
        self._services.books.ask_to_extend(attempt.record.attempt_id, self.plan, extra_nanos, then)

    # Steps.

    def _guarded(self, step: Callable[[_Input], None], given: _Input) -> None:
        """An edge, around whatever happens before an attempt."""
        try:
            step(given)
        except Exception as bug:  # noqa: BLE001  see `_went_wrong`
            self._went_wrong(bug)

    def _went_wrong(self, bug: Exception) -> None:
        """A defect of ours ends the execution, in the books and for its caller. Nobody above could: a timer has nobody,
        and who begins it releases the hold of what never began."""
        if self._attempt is not None:
            self._attempt.end_by_bug(bug)
            return
        report_bug(bug)
        if self._is_over:
            self.break_off()
        else:
            self._end_before_next(Outcome.FAILED, Refusal(ErrorCode.INTERNAL_ERROR))

    def _next_step(self, failed: LiveRoute, outcome: Outcome) -> TryNext | GiveUp:
        """Never raises: the attempt's record comes after it."""
        try:
            return self._chosen_step(failed, outcome)
        except Exception as bug:  # noqa: BLE001  an edge: the attempt that has ended must be booked
            report_bug(bug)
            return GiveUp(ErrorCode.INTERNAL_ERROR, retry_after_s=None)

    def _chosen_step(self, failed: LiveRoute, outcome: Outcome) -> TryNext | GiveUp:
        is_over = self.is_committed or self._caller is None or outcome in (Outcome.DISCONNECTED, Outcome.CUT_OFF)
        if is_over:
            return GiveUp(code=self._results[-1].failure.code, retry_after_s=None)
        now_s = self.now_s()
        has_other = failed.is_ready(now_s) and failed.gate.budget.has_room(now_s)
        usable = tuple(live.route for live in self._choices().usable(self._results, now_s))
        dice, left_s = self._services.dice, self._left_s
        return next_step(usable, self._results, dice, has_other_credential=has_other, left_s=left_s)

    @property
    def _left_s(self) -> float:
        """How long the caller waits yet, at most."""
        return self.plan.ends_at_s - self.now_s() if self.plan.ends_at_s else math.inf

    def _choices(self) -> Choice:
        if self._choice is None:
            self._choice = Choice(self.plan.admission)
        return self._choice

    def _candidate(self, live: LiveRoute) -> Candidate:
        first = self.plan.admission.first
        return first if live is first.live else self._choices().candidate(live)

    def _follow(self, step: TryNext) -> None:
        live = self._choices().live(step.route)
        if self._is_repetition(live):
            live.gate.budget.spend(self.now_s())  # now, not after the pause: others decide meanwhile
        if step.delay_s:
            self._pause = self._loop.call_later(step.delay_s, self._guarded, self._try, live)
        else:
            self._try(live)

    def _is_repetition(self, live: LiveRoute) -> bool:
        """Whether its provider has had this request before."""
        return any(result.route.provider.id == live.provider.id for result in self._results)

    def _try(self, live: LiveRoute) -> None:
        self._pause = None
        if live.gate.places.take():
            self._start(live)
        else:
            self._queue_for(live)

    def _start(self, live: LiveRoute) -> None:
        """A place at its bulkhead has been taken."""
        try:
            attempt = self._open(live)
        except Refusal as refusal:
            self._end_before_next(Outcome.FAILED, refusal)
        else:
            self._send(attempt)

    def _queue_for(self, live: LiveRoute) -> None:
        waiter = partial(self._guarded, self._take_place, live)
        if live.gate.wait(waiter):
            self._queued, self._waiter = live, waiter
            self._pause = self._loop.call_later(
                live.gate.places.settings.wait_s, self._guarded, self._go_elsewhere, live
            )
        else:
            self._try_without(live)

    def _take_place(self, live: LiveRoute) -> None:
        """A place has been taken for us, unless we have left meanwhile."""
        if self._queued is not live or self._pause is None:
            return
        self._pause.cancel()
        self._pause = self._queued = self._waiter = None
        now_s = self.now_s()
        if live.is_ready(now_s) or live.is_last_resort(now_s):
            self._start(live)
        else:  # its circuit has opened meanwhile
            live.gate.release()
            self._try_without(live)

    def _go_elsewhere(self, full: LiveRoute) -> None:
        """No place came free in time."""
        self._pause = None
        self._leave_queue()
        full.gate.refused()
        self._try_without(full)

    def _leave_queue(self) -> None:
        live, waiter = self._queued, self._waiter
        self._queued = self._waiter = None
        if live is not None and waiter is not None and not live.gate.places.leave(waiter):
            live.gate.release()

    def _try_without(self, full: LiveRoute) -> None:
        choices = self._choices()
        choices.exclude(full)
        usable = tuple(live.route for live in choices.usable(self._results, self.now_s()))
        step: TryNext | GiveUp
        if self._results:
            step = next_step(usable, self._results, self._services.dice, left_s=self._left_s)
        elif usable:
            step = TryNext(usable[0], 0.0)
        else:
            step = GiveUp(ErrorCode.MODEL_OVERLOADED, retry_after_s=1)
        if isinstance(step, TryNext):
            self._follow(step)
        else:
            self._end_before_next(Outcome.FAILED, Refusal(step.code, retry_after_s=step.retry_after_s))

    def _end_waiting(self, outcome: Outcome) -> None:
        """Before an attempt: there will be no further one."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._leave_queue()
            self._end_before_next(outcome, Refusal(ErrorCode.SERVICE_UNAVAILABLE))

    def _end_before_next(self, outcome: Outcome, refusal: Refusal) -> None:
        """Between two attempts, or before the first: then nothing was sent, and there is nothing to book."""
        self._is_over = True
        if self._last is None:
            self._services.books.unused(self.plan)
        elif not self.plan.has_long_hold:
            self._end_last(outcome)
        self._give_up(refusal)

    def _end_last(self, outcome: Outcome) -> None:
        """The last attempt was not meant to end the execution, and now does: said by a second CLOSE."""
        assert self._last is not None
        close = replace(self._last.close, is_final=True, outcome=outcome)
        if self._is_late:
            code = ErrorCode.GENERATION_TIMEOUT
            close = replace(close, status=code.status, error_code=code.name)
        self._services.books.closed(ClosedAttempt(self._last.open, close), self.plan.hold)

    def _ended(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()  # it holds on to this object
        self._services.ended(self)

    def _give_up(self, refusal: Refusal) -> None:
        self._ended()
        if self._caller is not None:
            self._caller.on_failed(refusal)

    def _open(self, live: LiveRoute) -> Attempt:
        """A place at its bulkhead has been taken; it is free again when this raises."""
        number = self.plan.attempts_before + len(self._results) + 1
        try:
            attempt = Attempt(
                self, self._candidate(live), number, ids.sibling(self.plan.execution_id, number), self._now_ms()
            )
            self._services.books.opened(attempt.record)
        except BaseException:
            live.gate.release()
            raise
        self._attempt = attempt  # at once: from here on whatever goes wrong ends it
        return attempt

    def _send(self, attempt: Attempt) -> None:
        live = attempt.live
        if self._caller is not None and len(self.plan.admission.offers) > 1:
            self._caller.on_model(attempt.offer.model.slug)
        if not self._results or not self._is_repetition(live):
            live.gate.budget.count(self.now_s())
        self._services.books.when_safe(attempt.send)

    def _record(self, attempt: Attempt, outcome: Outcome, bill: Bill, code: ErrorCode, *, is_final: bool) -> Close:
        is_answered = outcome is Outcome.COMPLETED or self.is_committed
        has_error = outcome in (Outcome.FAILED, Outcome.REJECTED)
        has_error = has_error or (outcome is Outcome.CUT_OFF and code in _OF_CUT_OFF)
        has_long_hold = self.plan.has_long_hold
        close = Close(  # in their order: with names it would take 0.5 µs and not 0.1
            attempt.record.attempt_id,
            outcome,
            is_final and not has_long_hold,
            0 if has_long_hold else bill.charge_nanos,
            bill.cogs_nanos,
            self._now_ms(),
            self._first_content_ms,
            200 if is_answered else code.status if has_error else 0,
            code.name if has_error else "",
            bill.usage,
            attempt.answer,
        )
        self.deliver()
        self._is_over = is_final
        self._last = ClosedAttempt(attempt.record, close)
        self._services.books.closed(self._last, self.plan.hold)
        return close

    def now_s(self) -> float:
        return self._loop.time()

    def now_unix_s(self) -> float:
        return self._services.clock.unix_ns() / 1e9

    def _now_ms(self) -> int:
        return self._services.clock.unix_ns() // 1_000_000

    def _shown_id(self) -> str:
        return ids.text("exec", self.plan.execution_id)
