"""What one attempt has come to: by its provider's word, where there is none by our own count, at the very end of a
process by a guess. See `metering.charge` for who pays it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

from waypost.dispatch.counting import Counting
from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.ports import Offer, Plan
from waypost.dispatch.tally import Tally, count_input
from waypost.kit.money import Nanos
from waypost.kit.values import replace
from waypost.ledger.record import Progress
from waypost.metering.bill import Bill
from waypost.metering.charge import bill_delivered, bill_lost
from waypost.metering.estimate import likely_tokens
from waypost.metering.price import PriceRow, amount
from waypost.metering.tokens import TokenCounter, chunk_bytes, completion_texts
from waypost.metering.usage import is_plausible
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.request import contexts


class Alarms(Protocol):
    """Where an operator is told."""

    def usage_was_doubtful(self, live: LiveRoute) -> None: ...
    def hold_was_overrun(self, live: LiveRoute, over_nanos: Nanos) -> None: ...


def is_believable(reported: Usage, plan: Plan, offer: Offer) -> bool:
    """Whether a provider's usage can be."""
    model, request = offer.model, plan.admission.request
    return is_plausible(reported, contexts(request) * model.context_window, model.max_output, request.n)


def bill_of(
    usage: Usage, plan: Plan, live: LiveRoute, offer: Offer, costs: PriceRow, alarms: Alarms, *, has_output: bool
) -> Bill:
    """What an attempt that delivered comes to."""
    hold_nanos = plan.hold.amount_nanos
    bill = bill_delivered(usage, prices=offer.prices, costs=costs, hold_nanos=hold_nanos, has_output=has_output)
    if bill.overrun_nanos:
        alarms.hold_was_overrun(live, bill.overrun_nanos)
    return bill


class AttemptMeter:
    """Of one attempt that its provider's word at the end is not enough for: a stream, which may stop anywhere, or an
    answer without a usage that can be. Its bills are made once; counts that take long are waited for."""

    __slots__ = ("_alarms", "_costs", "_counting", "_live", "_offer", "_plan", "_progress", "tally")

    def __init__(
        self, plan: Plan, live: LiveRoute, offer: Offer, costs: PriceRow, counting: Counting, alarms: Alarms
    ) -> None:
        self._plan = plan
        self._live = live
        self._offer = offer
        self._costs = costs
        self._counting = counting
        self._alarms = alarms
        self._progress: Progress | None = None
        self.tally: Tally | None = None  # of a stream that has begun

    def relayed(self, chunks: Sequence[Chunk]) -> None:
        if self.tally is None:
            self.tally = Tally()
        self.tally.add(chunks)

    # Bills.

    def counted(
        self,
        completion: Completion | None,
        reported: Usage | None,
        output_bytes: int,
        then: Callable[[Bill], None],
    ) -> None:
        """The bill of a whole answer whose provider reported nothing, or what cannot be."""
        if reported is not None:
            self._alarms.usage_was_doubtful(self._live)
        self._count(completion, output_bytes, lambda counted: then(self._bill(counted, has_output=output_bytes > 0)))

    def received(
        self,
        reported: Usage | None,
        output_bytes: int,
        then: Callable[[Bill], None],
        *,
        undelivered: Collection[Chunk] = (),
    ) -> None:
        """The bill of an answer that stopped in the middle: the input, and the output so far. `undelivered` was read
        behind it: the customer pays nothing for that, and the house what it costs."""
        told = self._believable(reported)
        usage = self._running(reported)
        if undelivered:
            whole_cogs = 0 if usage is None else amount(usage, self._costs)
            then, usage = partial(self._with_undelivered, tuple(undelivered), whole_cogs, then), None
        if usage is not None:
            then(self._bill(usage, has_output=True))
            return

        def bill(counted: Usage) -> None:
            if told is not None and told.all_input_tokens > 0:
                # It told the input at the beginning, and would have told the output at the end.
                counted = replace(told, output_tokens=counted.output_tokens, reasoning_tokens=0, is_estimated=True)
            then(self._bill(counted, has_output=True))

        self._count(None, output_bytes, bill)

    def _with_undelivered(
        self, undelivered: Sequence[Chunk], whole_cogs: Nanos, then: Callable[[Bill], None], bill: Bill
    ) -> None:
        """The cost by the provider's own count of the whole, where it counts along, else by ours."""
        lost = Tally()
        lost.add(undelivered)

        def have_lost(tokens: int | None) -> None:
            guess = likely_tokens(sum(map(chunk_bytes, undelivered)))
            usage = bill.usage
            read = replace(usage, output_tokens=usage.output_tokens + (guess if tokens is None else tokens))
            then(replace(bill, cogs_nanos=whole_cogs or amount(read, self._costs)))

        self._counting.run(lost.count, have_lost, text_bytes=sum(map(chunk_bytes, undelivered)))

    def guessed(self, reported: Usage | None, output_bytes: int) -> Bill:
        """As `received`, when nothing can be waited for."""
        return self._bill(self._running(reported) or self._guess(output_bytes), has_output=True)

    def lost(self) -> Bill:
        return bill_lost(input_estimate=self._offer.input_estimate, costs=self._costs)

    # While it runs.

    def progress(self, attempt_id: bytes, reported: Usage | None, output_bytes: int) -> Progress | None:
        """What was delivered so far, when that is more than at the last call."""
        tally = self.tally
        if tally is None or not tally.deltas:
            return None
        tally.pack()
        request = self._plan.admission.request
        usage = tally.least(self._believable(reported), output_bytes, request.fields, request.text_bytes)
        charge = min(amount(usage, self._offer.prices), self._plan.hold.amount_nanos)
        record = Progress(attempt_id, usage.all_input_tokens, usage.output_tokens, charge)
        if record == self._progress:
            return None
        self._progress = record
        return record

    def count_output(self, output_bytes: int, then: Callable[[int], None]) -> None:
        """Tokens relayed until now."""
        tally = self.tally
        assert tally is not None
        guess = likely_tokens(output_bytes)
        self._counting.run(
            tally.count, lambda tokens: then(guess if tokens is None else tokens), text_bytes=output_bytes
        )

    def _believable(self, reported: Usage | None) -> Usage | None:
        """What a provider told before the end, when it can be."""
        return reported if reported is not None and is_believable(reported, self._plan, self._offer) else None

    def _running(self, reported: Usage | None) -> Usage | None:
        """The provider's own count so far, where it counts along: one that is below the number of pieces told was made
        before them."""
        if reported is None or (self.tally is not None and reported.all_output_tokens < self.tally.deltas):
            return None
        return self._believable(reported)

    def _count(self, completion: Completion | None, output_bytes: int, then: Callable[[Usage], None]) -> None:
        request = self._plan.admission.request
        tally = self.tally
        spoken: Callable[[TokenCounter], int]
        if completion is not None:
            texts = completion_texts(completion)
            spoken = partial(TokenCounter.count, texts=texts)
        else:
            spoken = _nothing if tally is None else tally.count
        read = partial(count_input, fields=request.fields, images=request.image_count)

        def have_both(output_tokens: int | None, input_tokens: int | None) -> None:
            guess = self._guess(output_bytes)
            then(
                Usage(
                    input_tokens=guess.input_tokens if input_tokens is None else input_tokens,
                    output_tokens=guess.output_tokens if output_tokens is None else output_tokens,
                    is_estimated=True,
                )
            )

        def have_output(output_tokens: int | None) -> None:
            self._counting.run(read, partial(have_both, output_tokens), text_bytes=request.text_bytes)

        self._counting.run(spoken, have_output, text_bytes=output_bytes)

    def _guess(self, output_bytes: int) -> Usage:
        return Usage(
            input_tokens=self._offer.input_estimate, output_tokens=likely_tokens(output_bytes), is_estimated=True
        )

    def _bill(self, usage: Usage, *, has_output: bool) -> Bill:
        return bill_of(usage, self._plan, self._live, self._offer, self._costs, self._alarms, has_output=has_output)


def _nothing(_: TokenCounter) -> int:
    return 0
