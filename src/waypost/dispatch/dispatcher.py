"""The executions of this process: begun here, swept here, and waited for at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from waypost.dispatch.counting import Counting
from waypost.dispatch.execution import Execution
from waypost.dispatch.ports import Books, Caller, Plan
from waypost.dispatch.streams import Streams
from waypost.kit.clock import Clock
from waypost.telemetry.metrics import Counter

DRAIN_S_MAX = 120.0  # how long a provider may go on generating for a caller who has left
OUTLIVE_S_MAX = 900.0  # and for one who asked for that
DRAINS_MAX = 64  # at once and per provider
_SWEEP_S = 1.0


class Dispatcher:
    """Shared by all executions: their books, clock and dice. Made inside a running loop."""

    def __init__(
        self,
        *,
        books: Books,
        clock: Clock,
        dice: Callable[[], float],
        attempts_counted: Counter,
        fields_dropped: Counter,
    ) -> None:
        self.books = books
        self.clock = clock
        self.dice = dice
        self.attempts_counted = attempts_counted
        self.fields_dropped = fields_dropped
        # Looked up once: in CPython 3.11 it is a system call.
        self.loop = asyncio.get_running_loop()
        self.counting = Counting()
        self.streams = Streams(books)
        self.on_kept: Callable[[int], None] = _ignore
        """Called with the bytes of a request that is kept after its caller left; negative when it is let go."""
        self._running: set[Execution] = set()
        self._draining: dict[str, set[Execution]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._is_idle: asyncio.Event | None = None  # waited for by drain

    @property
    def running(self) -> int:
        return len(self._running)

    def count_older(self, accepted_before_ms: int) -> int:
        """How many running executions were accepted before that moment (Unix ms); those on long holds may wait as long
        as they like before they come here."""
        plans = [execution.plan for execution in self._running]
        return sum(plan.accepted_at_ms < accepted_before_ms and not plan.has_long_hold for plan in plans)

    def begin(self, plan: Plan, caller: Caller) -> None:
        """Start an execution. Raises Refusal when its OPEN cannot be written: then its hold is still to be released."""
        Execution(self, plan, caller).begin()

    def began(self, execution: Execution) -> None:
        self._running.add(execution)

    def ended(self, execution: Execution) -> None:
        self._running.discard(execution)
        if self._is_idle is not None and not self._running:
            self._is_idle.set()
        if execution.drains_until_s is not None:
            self.on_kept(-execution.plan.body_bytes)
            for executions in self._draining.values():
                executions.discard(execution)

    def may_drain(self, execution: Execution, provider_id: str) -> bool:
        """Whether one more attempt of this provider may go on for nobody; it counts as draining from now on."""
        executions = self._draining.setdefault(provider_id, set())
        if len(executions) >= DRAINS_MAX:
            return False
        executions.add(execution)
        longest_s = OUTLIVE_S_MAX if execution.plan.outlives_caller else DRAIN_S_MAX
        execution.drains_until_s = self.loop.time() + longest_s
        self.on_kept(execution.plan.body_bytes)
        if self._sweep is None:
            self._sweep = self.loop.call_later(_SWEEP_S, self._cut_off_the_longest)
        return True

    def _cut_off_the_longest(self) -> None:
        loop = self.loop
        draining = [execution for executions in self._draining.values() for execution in executions]
        # Set again first: a defect that one execution brings to light must not end the sweep for all.
        self._sweep = loop.call_later(_SWEEP_S, self._cut_off_the_longest) if draining else None
        now_s = loop.time()
        for execution in draining:
            if execution.drains_until_s is not None and execution.drains_until_s < now_s:
                execution.cut_off()

    async def drain(self, timeout_s: float) -> None:
        """Wait for the running executions; end those that take longer, each with its record."""
        self._is_idle = asyncio.Event()
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._is_idle.wait()
        for execution in list(self._running):
            execution.cut_off()
        self.streams.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


def _ignore(_: int) -> None:
    pass
