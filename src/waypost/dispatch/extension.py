"""The hold of an answer whose length nobody bounded, while it is streamed.

    three quarters used  →  raise the hold, from the lease at once, or by a grant of the database meanwhile
    used up (less a slack)  →  wait for a grant that is under way, else cut the answer off

Only what the hold covers is delivered. One read of a socket may bring more: that waits here, event by event, and is
dropped when the answer is cut off. So an answer passes the point where it is held back or cut off by one event at most.

Only for providers that stop billing when we close the connection; any other is told a maximum that the hold covers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from waypost.metering.ceiling import Ceiling
from waypost.metering.estimate import upper_bound
from waypost.metering.price import PriceRow
from waypost.metering.tokens import chunk_bytes
from waypost.wire.canonical import Chunk

SLACK_TOKENS = 256  # what a provider may send between our word and its last piece
BLOCK_TOKENS = 8_192  # by which a hold is raised
_NEVER = 1 << 62


class Stream(Protocol):
    """The attempt that is watched."""

    @property
    def output_bytes(self) -> int:
        """That were delivered."""

    @property
    def is_over(self) -> bool: ...

    def deliver(self, chunks: Sequence[Chunk]) -> None: ...

    def count_output(self, then: Callable[[int], None]) -> None: ...

    def raise_hold(self, extra_nanos: int) -> bool:
        """At once, from the lease; False when there is no room."""

    def ask_to_raise_hold(self, extra_nanos: int, then: Callable[[bool], None]) -> None:
        """By a grant."""

    def hold_back(self) -> None:
        """Read no more for the moment."""

    def go_on(self) -> None:
        """Everything is delivered that was read."""

    def cut_for_balance(self) -> None: ...


class Extension:
    """Of one stream. `waiting` was read and is not delivered, `waiting_bytes` long."""

    __slots__ = (
        "_ceiling",
        "_held_tokens",
        "_is_asking",
        "_is_counting",
        "_is_held_back",
        "_is_refused",
        "_look_at_bytes",
        "_most_tokens",
        "_prices",
        "_stream",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, stream: Stream, ceiling: Ceiling, prices: PriceRow, *, most_tokens: int) -> None:
        """`ceiling` is what the hold covers, `most_tokens` all that the model can answer."""
        self.waiting: deque[Chunk] = deque()
        self.waiting_bytes = 0
        self._stream = stream
        self._ceiling = ceiling
        self._prices = prices
        self._held_tokens = ceiling.output_tokens_max
        self._most_tokens = most_tokens
        self._is_counting = self._is_asking = self._is_held_back = self._is_refused = False
        self._look_at_bytes = self._held_tokens * 3 // 4  # no text has more tokens than bytes

    def take(self, chunks: Sequence[Chunk], read_bytes: int) -> None:
        """These have been read, with which the answer is so long."""
        if read_bytes < self._look_at_bytes and not self.waiting:
            self._stream.deliver(chunks)
            return
        self.waiting.extend(chunks)
        self.waiting_bytes += sum(map(chunk_bytes, chunks))
        self._deliver()

    def _deliver(self) -> None:
        """What waits, up to where we have to look; and look there."""
        stream = self._stream
        while self.waiting and not (self._is_held_back or stream.is_over):
            covered: list[Chunk] = []
            room_bytes = self._look_at_bytes - stream.output_bytes
            while self.waiting and room_bytes > 0:
                chunk = self.waiting.popleft()
                covered.append(chunk)
                room_bytes -= chunk_bytes(chunk)
            if covered:
                self.waiting_bytes -= sum(map(chunk_bytes, covered))
                stream.deliver(covered)
            if room_bytes <= 0 and not stream.is_over:
                self._look()

    def _look(self) -> None:
        """Count, and decide by that. A stream that runs ahead of its count is held back."""
        if self._is_counting:
            self._hold_back()
            return
        self._is_counting = True
        at_bytes = self._stream.output_bytes
        self._look_at_bytes = at_bytes + SLACK_TOKENS
        self._stream.count_output(lambda tokens: self._decide(tokens, at_bytes))

    def _decide(self, tokens: int, at_bytes: int) -> None:
        self._is_counting = False
        used = tokens + self._stream.output_bytes - at_bytes
        if used * 4 >= self._held_tokens * 3 and self._held_tokens < self._most_tokens and not self._is_asking:
            self._raise()
        is_used_up = used + SLACK_TOKENS >= self._held_tokens and self._held_tokens < self._most_tokens
        if is_used_up and not self._is_asking:
            self._stream.cut_for_balance()
        elif is_used_up:
            self._hold_back()
        else:
            self._look_again(used)
            self._go_on()

    def _look_again(self, used: int) -> None:
        if self._held_tokens >= self._most_tokens:
            self._look_at_bytes = _NEVER
            return
        is_late = self._is_asking or self._is_refused
        goal = self._held_tokens - SLACK_TOKENS if is_late else self._held_tokens * 3 // 4
        self._look_at_bytes = self._stream.output_bytes + max(SLACK_TOKENS // 2, goal - used)

    def _raise(self) -> None:
        tokens = min(BLOCK_TOKENS, self._most_tokens - self._held_tokens)
        extra = self._worth(self._held_tokens + tokens) - self._worth(self._held_tokens)
        if self._stream.raise_hold(extra):
            self._held_tokens += tokens
            self._is_refused = False
        elif not self._is_refused:
            self._is_asking = True
            self._stream.ask_to_raise_hold(extra, lambda is_raised: self._answered(tokens if is_raised else 0))

    def _answered(self, tokens: int) -> None:
        self._is_asking = False
        self._held_tokens += tokens
        self._is_refused = not tokens
        if not self._is_counting:
            self._look()

    def _worth(self, output_tokens: int) -> int:
        ceiling = self._ceiling
        raised = Ceiling(ceiling.input_tokens_max, output_tokens, ceiling.has_audio, ceiling.has_images)
        return upper_bound(raised, self._prices)

    def _hold_back(self) -> None:
        if not self._is_held_back:
            self._is_held_back = True
            self._stream.hold_back()

    def _go_on(self) -> None:
        if self._is_held_back:
            self._is_held_back = False
            self._deliver()
            if not (self._is_held_back or self._stream.is_over):
                self._stream.go_on()
