"""The hold of an answer without a maximum: raised in time, else the answer is cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from tests.e2e.stack import COST, UPSTREAM_MODEL, ask, deployment, model, provider
from tests.e2e.test_heartbeat import KeptBooks, Relaying, relaying
from waypost.dispatch.extension import BLOCK_TOKENS, SLACK_TOKENS, Extension
from waypost.dispatch.ports import Plan, Running
from waypost.kit.errors import Refusal
from waypost.ledger.record import ClosedAttempt, Outcome
from waypost.metering.ceiling import Ceiling
from waypost.metering.price import price_row
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import build_view
from waypost.simulator import Simulator
from waypost.wire.canonical import Chunk, Completion, Usage

PRICES = price_row({"input": 1_000_000_000, "output": 2_000_000_000})  # 2,000 nano-USD a token
HELD = 8_192


class Stream:
    """An answer of so many bytes a token, a token an event; counts come at once, or when they are let through."""

    def __init__(self, *, room_nanos: int, bytes_per_token: int = 4, is_slow: bool = False) -> None:
        self.room_nanos = room_nanos
        self.event = Chunk(0, content="x" * bytes_per_token)
        self.output_bytes = 0  # delivered
        self.read = 0
        self.is_over = self.is_held_back = False
        self.counts: list[Callable[[int], None]] = []
        self.asked: list[tuple[int, Callable[[bool], None]]] = []
        self.raised: list[int] = []
        self.is_slow = is_slow

    @property
    def tokens(self) -> int:
        return self.output_bytes // len(self.event.content)

    @property
    def state(self) -> tuple[bool, bool]:
        """Is it cut, is it held back."""
        return self.is_over, self.is_held_back

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        assert not self.is_over
        self.output_bytes += sum(len(chunk.content) for chunk in chunks)

    def count_output(self, then: Callable[[int], None]) -> None:
        if self.is_slow:
            tokens = self.tokens
            self.counts.append(lambda _: then(tokens))
        else:
            then(self.tokens)

    def raise_hold(self, extra_nanos: int) -> bool:
        if extra_nanos > self.room_nanos:
            return False
        self.room_nanos -= extra_nanos
        self.raised.append(extra_nanos)
        return True

    def ask_to_raise_hold(self, extra_nanos: int, then: Callable[[bool], None]) -> None:
        self.asked.append((extra_nanos, then))

    def hold_back(self) -> None:
        self.is_held_back = True

    def go_on(self) -> None:
        self.is_held_back = False

    def cut_for_balance(self) -> None:
        self.is_over = True


def run(stream: Stream, extension: Extension, tokens: int, *, per_read: int = 1) -> None:
    """Until so many have been read."""
    while stream.read < tokens and not stream.is_over and not stream.is_held_back:
        count = min(per_read, tokens - stream.read)
        stream.read += count
        extension.take([stream.event] * count, stream.read * len(stream.event.content))


def extension_of(stream: Stream, most_tokens: int = 100_000) -> Extension:
    return Extension(stream, Ceiling(1_000, HELD), PRICES, most_tokens=most_tokens)


PER_READ = pytest.mark.parametrize("per_read", [1, 7, 5_000, 50_000])


def test_a_short_answer_raises_nothing() -> None:
    stream = Stream(room_nanos=10**12)
    run(stream, extension_of(stream), 6_000)
    assert (stream.raised, stream.is_over) == ([], False)


@PER_READ
def test_a_long_answer_is_raised_block_by_block_before_it_gets_there(per_read: int) -> None:
    stream = Stream(room_nanos=10**12)
    run(stream, extension_of(stream), 18_000, per_read=per_read)
    assert stream.raised == [BLOCK_TOKENS * 2_000] * 2
    assert stream.state == (False, False)
    assert stream.tokens == 18_000


@PER_READ
def test_the_last_block_ends_at_the_models_maximum_and_then_nothing_is_cut(per_read: int) -> None:
    stream = Stream(room_nanos=10**12)
    run(stream, extension_of(stream, most_tokens=10_000), 12_000, per_read=per_read)
    assert stream.raised == [(10_000 - HELD) * 2_000]
    assert stream.state == (False, False)
    assert stream.tokens == 12_000


@PER_READ
@pytest.mark.parametrize("bytes_per_token", [1, 2, 4, 30])
def test_without_money_the_answer_is_cut_within_its_hold(bytes_per_token: int, per_read: int) -> None:
    stream = Stream(room_nanos=0, bytes_per_token=bytes_per_token)
    extension = extension_of(stream)
    run(stream, extension, 100_000, per_read=per_read)
    ((_, then),) = stream.asked  # at three quarters; the answer goes on meanwhile
    assert stream.tokens <= HELD
    assert stream.state == (False, True)
    then(False)
    assert stream.is_over
    assert HELD - 2 * SLACK_TOKENS <= stream.tokens <= HELD
    assert len(extension.waiting) == stream.read - stream.tokens
    assert extension.waiting_bytes == len(extension.waiting) * bytes_per_token


@PER_READ
def test_a_refused_grant_lets_the_answer_go_on_to_the_end_of_its_hold(per_read: int) -> None:
    stream = Stream(room_nanos=0)
    extension = extension_of(stream)
    run(stream, extension, HELD * 3 // 4 + SLACK_TOKENS, per_read=per_read)
    ((_, then),) = stream.asked
    then(False)
    assert stream.state == (False, False)
    run(stream, extension, 100_000, per_read=per_read)
    assert stream.is_over
    assert HELD - 2 * SLACK_TOKENS <= stream.tokens <= HELD


@PER_READ
def test_a_grant_that_comes_lets_a_stream_that_waits_go_on(per_read: int) -> None:
    stream = Stream(room_nanos=0)
    extension = extension_of(stream)
    run(stream, extension, 12_000, per_read=per_read)
    assert stream.state == (False, True)
    assert stream.tokens <= HELD
    stream.asked[0][1](True)
    assert stream.state == (False, False)
    run(stream, extension, 12_000, per_read=per_read)
    assert (stream.tokens, stream.is_over, len(extension.waiting)) == (12_000, False, 0)


@PER_READ
def test_a_stream_that_outruns_its_count_is_held_back_until_it_is_there(per_read: int) -> None:
    stream = Stream(room_nanos=10**12, bytes_per_token=1, is_slow=True)
    extension = extension_of(stream)
    run(stream, extension, 12_000, per_read=per_read)
    assert stream.state == (False, True)
    assert stream.tokens <= HELD
    while stream.counts:
        stream.counts.pop()(0)
    run(stream, extension, 12_000, per_read=per_read)
    while stream.counts:
        stream.counts.pop()(0)
    assert stream.state == (False, False)
    assert stream.raised
    assert stream.tokens == 12_000


def test_one_event_passes_the_end_of_the_hold_at_most() -> None:
    stream = Stream(room_nanos=0, bytes_per_token=1)
    extension = extension_of(stream)
    extension.take([stream.event] * 7_000, 7_000)
    stream.asked[0][1](False)
    long = Chunk(0, content="x" * 4_000)
    extension.take([long, stream.event, long], 15_001)
    assert stream.is_over
    assert list(extension.waiting) == [stream.event, long]
    assert extension.waiting_bytes == 4_001


class WaitingBooks(KeptBooks):
    """No room in the lease; a grant is under way for as long as the test likes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Callable[[bool], None]] = []

    def extend(self, attempt_id: bytes, plan: Plan, extra_nanos: int) -> bool:
        return False

    def ask_to_extend(self, attempt_id: bytes, plan: Plan, extra_nanos: int, then: Callable[[bool], None]) -> None:
        self.asked.append(then)


class HaltingCaller:
    """Takes a piece, is full, and is ready again in the next turn of the loop, if it `halts` at all."""

    execution: Running

    def __init__(self, *, halts: bool) -> None:
        self.halts = halts
        self.pieces = 0
        self.refusal: Refusal | None = None

    def attach(self, execution: Running) -> None:
        self.execution = execution

    def on_model(self, slug: str) -> None: ...

    def on_chunks(self, chunks: Sequence[Chunk]) -> None:
        self.pieces += len(chunks)
        if self.halts:
            self.execution.pause()
            asyncio.get_running_loop().call_soon(self.execution.resume)

    def deliver(self) -> None: ...

    def on_completed(self, completion: Completion | None, usage: Usage, charge_nanos: int) -> None: ...

    def on_failed(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def on_broken(self) -> None: ...

    async def is_quiet(self) -> None:
        """Until no piece has come for a moment."""
        pieces = -1
        while pieces != self.pieces:
            pieces = self.pieces
            await asyncio.sleep(0.2)


async def waits_for_a_grant(
    sim: Simulator, gateway: Relaying, caller: HaltingCaller, *, words: int, outlives_caller: bool = False
) -> WaitingBooks:
    """A stream of so many words that has come to the end of its hold, and of whose grant nobody has heard."""
    document: dict[str, object] = {
        "providers": [provider(sim, "alpha")],
        "models": [model("swift-1", deployment("alpha"), max_output=60_000)],
    }
    gateway.view = build_view(read_catalogue(document), 2)
    gateway.fleet.adopt(gateway.view)
    gateway.dispatcher.books = books = WaitingBooks()
    gateway.dispatcher.counting.counter.load()
    body = json.dumps(ask(f"sim: words={words} delay_ms=0", stream=True)).encode()
    gateway.dispatcher.begin(gateway.plan(body, outlives_caller=outlives_caller), caller)
    async with asyncio.timeout(20):
        while not books.asked:  # noqa: ASYNC110  the stream's own pace
            await asyncio.sleep(0.01)
        await caller.is_quiet()
    return books


async def ends_when_answered(gateway: Relaying, books: WaitingBooks, *, is_granted: bool) -> ClosedAttempt:
    for then in books.asked:
        then(is_granted)
    async with asyncio.timeout(20):
        while gateway.dispatcher.running:  # noqa: ASYNC110  its last tokens are counted in a thread
            await asyncio.sleep(0.01)
    (attempt,) = books.closed_attempts
    return attempt


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_that_waits_for_its_grant_waits_whatever_its_caller_does(leaves: bool) -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        caller = HaltingCaller(halts=not leaves)
        books = await waits_for_a_grant(sim, gateway, caller, words=30_000, outlives_caller=True)
        if leaves:
            caller.execution.leave()
            await asyncio.sleep(0.5)  # for what must not come
        assert not books.closed_attempts
        attempt = await ends_when_answered(gateway, books, is_granted=False)
        assert attempt.close.outcome is Outcome.CUT_OFF
        # Of 30,000, whatever one read of the socket brings.
        assert HELD - 3 * SLACK_TOKENS < attempt.close.usage.output_tokens <= HELD
        assert caller.pieces <= HELD
        assert (caller.refusal is None) is leaves
        assert attempt.close.cogs_nanos >= attempt.close.usage.output_tokens * 8_000


@pytest.mark.parametrize("is_granted", [False, True])
async def test_an_answer_that_ends_while_it_waits_ends_when_its_grant_comes(is_granted: bool) -> None:
    """The provider is through with 9,000 tokens before anybody has answered."""
    async with Simulator() as sim, relaying(sim) as gateway:
        sim.set_prices({UPSTREAM_MODEL: COST})
        caller = HaltingCaller(halts=False)
        books = await waits_for_a_grant(sim, gateway, caller, words=8_500)
        delivered = caller.pieces
        attempt = await ends_when_answered(gateway, books, is_granted=is_granted)
        if is_granted:
            assert attempt.close.outcome is Outcome.COMPLETED
            assert caller.pieces > delivered
            assert attempt.close.cogs_nanos == sim.bill.nanos
        else:
            assert attempt.close.outcome is Outcome.CUT_OFF
            assert caller.pieces < 8_500
            assert HELD - 2 * SLACK_TOKENS < attempt.close.usage.output_tokens <= HELD
            delivered_cost = attempt.close.usage.all_input_tokens * 2_000 + attempt.close.usage.output_tokens * 8_000
            assert attempt.close.cogs_nanos > delivered_cost, "what was read behind it costs too"
