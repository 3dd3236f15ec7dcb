"""Steps of executions at providers of jobs, and what goes on from each: one transaction, also when somebody wished to
cancel meanwhile, which changes nothing of where the execution is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import input_key
from waypost.executions.provider_job import poll_delay_s
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable
from waypost.providers.job import Job
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, QUEUE, Ending, Executions
from waypost.storage.asynchronous_executions import Job as QueuedJob
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.jobs import defer
from waypost.storage.transaction_outcome import number_of, was_committed
from waypost.stores.vault import Vault, VaultError
from waypost.telemetry.metrics import Counter
from waypost.worker.job_money import JobMoney

SUBMIT, LOOK_UP, POLL, REHOST = (f"provider_job.{each}" for each in ("submit", "look_up", "poll", "rehost"))
ORPHAN = "provider_job.orphan"
_TRIES_MAX = 10  # of a step, each lost to somebody else's
_AGAIN_MAX, AGAIN_S = 60, 0.5  # of a step that the database did not answer


class OutputNotKept(Exception):
    """An output could not be fetched, or is nothing that may be kept. A fresh address may help."""


class OutputUnfit(OutputNotKept):
    """It is nothing that may be kept, and most likely the same another time: `tries_max` are enough."""

    def __init__(self, tries_max: int = 1) -> None:
        super().__init__()
        self.tries_max = tries_max


class OutputsAway(Exception):
    """Nobody could be reached: where it is, or where it would be kept. Time may help."""


class Outputs(Protocol):
    """Where what jobs made is kept."""

    async def rehost(self, execution: AsynchronousExecution, index: int, address: str) -> OutputFile:
        """Fetch and keep an output, which the step that ends the execution shows or drops; the same index again is the
        same file. `address` was checked to be the provider's, or is a data URL. Raises OutputNotKept,
        OutputsAway."""


class Then(msgspec.Struct, frozen=True):
    """The queued job that goes on from a step. It carries the row's version: where the row has moved on, somebody else
    has queued what follows."""

    task: str
    after_s: float = 0.0
    arguments: dict[str, int | str] = {}


Change = Callable[[AsynchronousExecution], "AsynchronousExecution | None"]


class JobSteps:
    """One process's. `dice` gives 0 … 1."""

    def __init__(
        self,
        *,
        executions: Executions,
        money: JobMoney,
        vault: Vault,
        clock: Clock,
        dice: Callable[[], float],
        ended: Counter | None = None,
        again_s: float = AGAIN_S,
    ) -> None:
        self.money = money
        self.dice = dice
        self._executions = executions
        self._vault = vault
        self._clock = clock
        self._again_s = again_s
        self._ended = ended or Counter("", "", ("model", "outcome", "code"))

    async def find(self, execution: str) -> AsynchronousExecution | None:
        """By the 32 digits that queued jobs have."""
        return await self._executions.find(bytes.fromhex(execution))

    async def find_at(self, execution: str, version: int, *states: State) -> AsynchronousExecution | None:
        """The row, if it is still where the job was queued."""
        row = await self.find(execution)
        return row if row is not None and row.version == version and row.state in states else None

    async def step(
        self,
        row: AsynchronousExecution,
        after: AsynchronousExecution,
        then: Then | None = None,
        *,
        ending: Ending | None = None,
        jobs: tuple[QueuedJob, ...] = (),
    ) -> AsynchronousExecution | None:
        """None when the execution is elsewhere by now: whoever took it there goes on."""
        for _ in range(_TRIES_MAX):
            stepped = await self._step_or_own(row, after, then, ending, jobs)
            if stepped is not None:
                return stepped
            current = await self._executions.find(row.id)
            if current is None or current.state.has_ended or _place(current) != _place(row):
                return None
            after = replace(after, cancel_requested_at=current.cancel_requested_at)
            row = current
        return None

    async def change(
        self, row: AsynchronousExecution, change: Change, then: Then, jobs: tuple[QueuedJob, ...] = ()
    ) -> AsynchronousExecution | None:
        """A step from wherever the row is by now; None when there is none to take."""
        current: AsynchronousExecution | None = row
        for _ in range(_TRIES_MAX):
            after = None if current is None else change(current)
            if current is None or after is None:
                return None
            stepped = await self._step_or_own(current, after, then, None, jobs)
            if stepped is not None:
                return stepped
            current = await self._executions.find(row.id)
        return None

    async def end(
        self,
        row: AsynchronousExecution,
        state: State,
        code: ErrorCode | None = None,
        *,
        job: Job | None = None,
        jobs: tuple[QueuedJob, ...] = (),
    ) -> None:
        """Other than by success: its caller pays nothing. What a job that is over costs, the house bears; one that may
        not be over is cancelled, and booked when it is."""
        if row.provider_job is not None and (job is None or not job.state.is_terminal):
            jobs = (*jobs, QueuedJob(CANCEL_AT_PROVIDER))
            job = None
        ending = Ending() if job is None else await self.money.of_failure(row, job)
        name = "" if code is None else code.name
        after = replace(row, state=state, ended_at=self.now(), error_code=name)
        await self.finish(row, after, ending, jobs=jobs)

    async def finish(
        self,
        row: AsynchronousExecution,
        after: AsynchronousExecution,
        ending: Ending,
        *,
        jobs: tuple[QueuedJob, ...] = (),
    ) -> None:
        """The last step, and its input forgotten."""
        if await self.step(row, after, ending=ending, jobs=jobs) is None:
            return
        self._ended.add(after.model, after.state.public.lower(), after.error_code)
        try:
            await self._vault.delete(input_key(row.id))
        except VaultError:
            return  # its time is over soon

    async def queue(self, task: str, arguments: Mapping[str, str | int], *, after_s: float = 0.0) -> None:
        """A job that goes on from no step."""
        async with self._executions.pool.connection() as connection, connection.transaction():
            await defer(connection, task, arguments, queue=QUEUE, at=self.at(after_s) if after_s else None)

    def poll_delay_s(self, row: AsynchronousExecution, polls: int | None = None) -> float:
        calls_back = row.mode is Mode.CALLBACK and row.state is not State.SUBMIT_UNKNOWN
        return poll_delay_s(row.polls if polls is None else polls, calls_back=calls_back, dice=self.dice())

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC)

    def at(self, after_s: float) -> datetime:
        return self.now() + timedelta(seconds=after_s)

    async def _step_or_own(
        self,
        row: AsynchronousExecution,
        after: AsynchronousExecution,
        then: Then | None,
        ending: Ending | None,
        jobs: tuple[QueuedJob, ...],
    ) -> AsynchronousExecution | None:
        """The step; tried again while the database does not answer, since what is known here of a provider is known
        nowhere else. Of one whose outcome we were not told of, the server tells whether it was committed: that the row
        looks as we wanted it proves nothing, others want the same. Raises LedgerUnavailable in the end."""
        for _ in range(_AGAIN_MAX):
            taken = _Taken()
            try:
                return await self._step(row, after, then, ending, jobs, taken)
            except LedgerUnavailable:
                await asyncio.sleep(self._again_s)
            if await self._was_committed(taken):
                is_ours_to_go_on = then is None and ending is None
                return await self._still_there(taken) if is_ours_to_go_on else taken.stepped
        raise LedgerUnavailable

    async def _was_committed(self, taken: _Taken) -> bool:
        """Raises LedgerUnavailable when that cannot be told for long."""
        if not taken.number:
            return False
        for again in range(_AGAIN_MAX):
            try:
                return await was_committed(self._executions.pool, taken.number)
            except LedgerUnavailable:
                if again + 1 == _AGAIN_MAX:
                    raise
                await asyncio.sleep(self._again_s)
        return False

    async def _still_there(self, taken: _Taken) -> AsynchronousExecution | None:
        """Where nothing was queued with a step, whoever took it goes on at once: not after somebody else did."""
        if taken.stepped is None:
            return None
        current = await self._executions.find(taken.stepped.id)
        return current if current is not None and _place(current) == _place(taken.stepped) else None

    async def _step(
        self,
        row: AsynchronousExecution,
        after: AsynchronousExecution,
        then: Then | None,
        ending: Ending | None,
        jobs: tuple[QueuedJob, ...],
        taken: _Taken,
    ) -> AsynchronousExecution | None:
        async with self._executions.pool.connection() as connection, connection.transaction():
            taken.number = await number_of(connection)
            stepped = await self._executions.step_on(connection, row, after, ending=ending, jobs=jobs)
            if stepped is None:
                return None
            if then is not None:
                arguments = {"execution": row.id.hex(), "version": stepped.version, **then.arguments}
                at = self.at(then.after_s) if then.after_s else None
                await defer(connection, then.task, arguments, queue=QUEUE, at=at)
            taken.stepped = stepped
        return stepped


class _Taken:
    """What is known of a step while its transaction runs."""

    def __init__(self) -> None:
        self.number = ""  # the transaction's; "" = it was never begun
        self.stepped: AsynchronousExecution | None = None


def _place(row: AsynchronousExecution) -> tuple[object, ...]:
    """All that a step depends on: not whether its caller wished to cancel, nor how often was asked."""
    return row.state, row.attempt, row.provider, row.deployment, row.provider_job
