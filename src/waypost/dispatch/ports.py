"""What an execution is given: its plan, the books it writes to, and the caller it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from waypost.dispatch.fleet import LiveRoute
from waypost.kit.errors import Refusal
from waypost.kit.money import Nanos
from waypost.ledger.record import ClosedAttempt, Open, Progress
from waypost.metering.ceiling import Ceiling
from waypost.metering.price import PriceRow
from waypost.policy.catalogue import Model
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.request import ChatRequest


class Hold(Protocol):
    """Money set aside for one execution; it resolves exactly once."""

    @property
    def lease_id(self) -> bytes: ...

    @property
    def amount_nanos(self) -> Nanos: ...


class Offer(msgspec.Struct, frozen=True, gc=False):
    """A model that may answer the request, and what the answer can come to."""

    model: Model
    prices: PriceRow  # in force when the request was accepted
    ceiling: Ceiling  # of units; the hold covers it
    output_tokens_max: int  # per choice; the provider is asked for no more, unless the hold can be raised meanwhile
    input_estimate: int  # tokens, for when nobody counted


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A route that may answer, and for which model."""

    live: LiveRoute
    offer: Offer


class Admission(msgspec.Struct, frozen=True, gc=False):
    """A request that may go ahead, and what it needs."""

    request: ChatRequest
    price_version: int  # catalogue version whose prices count
    first: Candidate  # to try first
    offers: tuple[Offer, ...]  # of every model that may answer, the one asked for first
    ranked: Callable[[ChatRequest, tuple[Offer, ...]], Sequence[Candidate]]
    """Every candidate for this request of these offers, in the order of preference."""
    hold_nanos: Nanos  # covers the ceiling of every offer
    dropped: tuple[str, ...] = ()  # of the request, by leave of the caller, whoever answers

    @property
    def tokens_max(self) -> int:
        """What it may come to, as limits per minute count it."""
        return self.first.offer.input_estimate + (self.request.output_tokens_max or 0)


class Plan(msgspec.Struct, frozen=True, gc=False):
    """An execution to be begun: who asked for it, when, and the money set aside."""

    execution_id: bytes
    org_id: bytes
    api_key_id: bytes
    accepted_at_ms: int
    admission: Admission
    hold: Hold
    body_bytes: int = 0  # of the request, in memory until the end
    outlives_caller: bool = False  # goes on to its end when the caller leaves
    ends_at_s: float = 0.0  # by the loop's clock: when the caller is told that it took too long; 0: no such time
    has_long_hold: bool = False
    """The hold is an asynchronous execution's, which ends it elsewhere: attempts are recorded with charge 0 and none of
    them as final, the hold is neither raised nor resolved, and what the answer costs the customer is only told."""
    attempts_before: int = 0  # of the same execution, by earlier plans


class Books(Protocol):
    """Journal, wallet and settler. What is written is written when a call returns: nothing comes between an event and
    its record."""

    def opened(self, record: Open) -> None:
        """Written before the first upstream byte. Raises Refusal (503) when it cannot be: then nothing is sent."""

    def when_safe(self, then: Callable[[], None]) -> None:
        """Run it when the record opened last survives what it has to: at once, or after a sync of the disk."""

    def unused(self, plan: Plan) -> None:
        """The execution has ended without an attempt: its hold is free, and there is nothing to book."""

    def progress(self, record: Progress) -> None:
        """So much of a stream is delivered: at most once a second."""

    def extend(self, attempt_id: bytes, plan: Plan, extra_nanos: Nanos) -> bool:
        """Raise the hold from the lease at hand, journaled; False when there is no room."""

    def ask_to_extend(self, attempt_id: bytes, plan: Plan, extra_nanos: Nanos, then: Callable[[bool], None]) -> None:
        """The same by a grant of the database; `then` hears the outcome, in the event loop."""

    def closed(self, attempt: ClosedAttempt, hold: Hold) -> None:
        """The attempt has ended. With `close.is_final` the hold is resolved at `close.charge_nanos`."""


class Running(Protocol):
    """An execution, as its caller may act on it."""

    @property
    def has_sent(self) -> bool:
        """When it has failed: whether any provider may have received the request."""

    @property
    def attempts(self) -> int:
        """That have ended, by earlier plans of it too."""

    def leave(self) -> None:
        """The caller is gone."""

    def pause(self) -> None:
        """The caller reads too slowly."""

    def resume(self) -> None: ...


class Caller(Protocol):
    """The downstream side of an execution. It only receives; exactly one of the last three calls ends it, and none
    comes after `Running.leave`."""

    def attach(self, execution: Running) -> None:
        """The execution is in the books and begins."""

    def on_model(self, slug: str) -> None:
        """Another model than the one asked for is tried now, as the caller allowed. Only before the first content."""

    def on_chunks(self, chunks: Sequence[Chunk]) -> None:
        """Streamed calls: events in order. The first call is the commitment: there is no failover after it."""

    def deliver(self) -> None:
        """What it was told is about to be charged for: it must not be lost with this process."""

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: Nanos) -> None:
        """The answer is whole: `completion` for a plain call, None after the chunks of a stream."""

    def on_failed(self, refusal: Refusal) -> None:
        """No answer, or no more of it."""

    def on_broken(self) -> None:
        """A defect of ours on the way to the caller: close, so that what was sent cannot be taken for the whole."""
