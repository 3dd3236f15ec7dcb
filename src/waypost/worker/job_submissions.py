"""Submitting a job to a provider, at most once for each attempt.

A submission is written down before it is sent: SUBMITTING with its provider. Who finds it written down and does not
know what came of it never sends a second one blindly: it is looked for by our token, sent again where the provider
makes one job of it, waited for where it calls back, or given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec

from waypost.executions.lifecycle import Mode, State
from waypost.executions.provider_job import ATTEMPTS_MAX, LOOK_UP_S, Next, backoff_s
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.values import replace
from waypost.providers.job import Job, JobState
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.stores.vault import VaultError
from waypost.telemetry.events import ProviderJobLost, emit
from waypost.worker.job_desk import JobDesk, Seat, Submitted, Unheard, Unsent
from waypost.worker.job_input import InputGone, JobInputs
from waypost.worker.job_steps import LOOK_UP, POLL, SUBMIT, JobSteps, Then

_WAIT_S = 2.0  # for a provider that nobody could reach


OnAccepted = Callable[[AsynchronousExecution], Awaitable[None]]
OnLate = Callable[[AsynchronousExecution, str], Awaitable[None]]


class Submissions:
    """One process's. `on_accepted` is told of a job whose caller wished to cancel, `on_late` of one that nobody waits
    for any more, with its id."""

    def __init__(
        self, steps: JobSteps, desk: JobDesk, inputs: JobInputs, *, on_accepted: OnAccepted, on_late: OnLate
    ) -> None:
        self._steps = steps
        self._desk = desk
        self._inputs = inputs
        self._on_accepted = on_accepted
        self._on_late = on_late

    async def start(self, execution: AsynchronousExecution) -> None:
        """Begin, or go on where this very job was interrupted."""
        if execution.state is State.RECEIVED:
            await self._submit(execution)
        elif execution.state is State.SUBMITTING:
            await self._go_on(execution)

    async def submit(self, execution: str, version: int, refused: str = "") -> None:
        """`refused`: the deployments that have refused it before, each on its line."""
        row = await self._steps.find(execution)
        if row is None or row.state is not State.SUBMITTING:
            return
        if row.version >= version:
            await self._go_on(row, frozenset(refused.splitlines()))

    async def _go_on(self, row: AsynchronousExecution, refused: frozenset[str] = frozenset()) -> None:
        """Where it is not known to be at a provider it is submitted; where it is written down, whoever did that was
        interrupted. If they are only slow, they find their step taken, and what they hear still counts."""
        if row.provider is None:
            await self._submit(row, refused)
        else:
            await self._lost(row)

    async def _submit(self, row: AsynchronousExecution, refused: frozenset[str] = frozenset()) -> None:
        """To one provider after another, as long as none of them has received it; not at once to those that
        have refused it."""
        without: set[str] = set()
        wait_s = _WAIT_S
        while True:
            if row.cancel_requested_at is not None:
                await self._steps.end(row, State.CANCELED)
                return
            if row.expires_at <= self._steps.now():
                await self._steps.end(row, State.EXPIRED, ErrorCode.GENERATION_TIMEOUT)
                return
            seat = self._desk.choose(row.model, without | refused)
            if seat is None and not without and not refused:
                await self._steps.end(row, State.FAILED, ErrorCode.MODEL_UNAVAILABLE)
                return
            if seat is None:
                await self._later(row, wait_s)
                return
            fields = await self._input(row, seat, wait_s)
            if fields is None:
                return
            written = await self._steps.step(row, self._written_down(row, seat))
            if written is None:
                return
            deadline_s = max(0, int((row.expires_at - self._steps.now()).total_seconds()))
            told = await self._desk.submit(seat, written, fields, deadline_s=deadline_s)
            if isinstance(told, Submitted):
                await self._told(written, told, refused)
                return
            without.add(seat.deployment.id)
            wait_s = max(wait_s, told.retry_after_s or 0.0)
            unsent = await self._steps.step(written, unplaced(written))
            if unsent is None:
                return
            row = unsent

    async def _input(self, row: AsynchronousExecution, seat: Seat, wait_s: float) -> dict[str, msgspec.Raw] | None:
        """None when it cannot be had, and the execution has ended or waits."""
        try:
            return await self._inputs.read(row, seat)
        except InputGone:
            await self._steps.end(row, State.FAILED, ErrorCode.SERVICE_UNAVAILABLE)
        except VaultError:
            await self._later(row, wait_s)
        except Refusal as refused:
            if refused.code is ErrorCode.SERVICE_UNAVAILABLE:
                await self._later(row, wait_s)
            else:
                await self._steps.end(row, State.FAILED, refused.code)
        return None

    async def _told(self, row: AsynchronousExecution, told: Submitted, refused: frozenset[str] = frozenset()) -> None:
        match told.next:
            case Next.ACCEPTED:
                assert told.job is not None
                await self._accepted(row, told.job, told.credential)
            case Next.UNKNOWN:
                await self._lost(replace(row, credential=told.credential))
            case Next.REFUSED:
                await self._steps.end(row, State.FAILED, told.code)
            case Next.ELSEWHERE if row.attempt >= ATTEMPTS_MAX:
                await self._steps.end(row, State.FAILED, told.code)
            case Next.ELSEWHERE:
                await self._elsewhere(row, told, refused | {row.deployment or ""})

    async def _elsewhere(self, row: AsynchronousExecution, told: Submitted, refused: frozenset[str]) -> None:
        """At once where another one takes jobs; else here again, after a while."""
        wait_s = 0.0
        if self._desk.choose(row.model, refused) is None:
            wait_s = max(backoff_s(row.attempt, dice=self._steps.dice()), told.retry_after_s or 0.0)
            refused = frozenset()
        if wait_s >= (row.expires_at - self._steps.now()).total_seconds():
            await self._steps.end(row, State.FAILED, told.code)
            return
        after = replace(unplaced(row), attempt=row.attempt + 1)
        await self._steps.step(row, after, Then(SUBMIT, wait_s, {"refused": "\n".join(sorted(refused))}))

    async def _accepted(self, row: AsynchronousExecution, job: Job, credential: bytes | None) -> None:
        """There is a job. While that was being heard of, the row may have moved on to not knowing, or to its end."""

        def change(now: AsynchronousExecution) -> AsynchronousExecution | None:
            is_same = (now.attempt, now.provider) == (row.attempt, row.provider)
            is_heard = is_same and now.provider_job == job.id and now.state in (State.SUBMITTED, State.RUNNING)
            if is_heard and credential and now.credential is None:  # by a callback, which does not tell of keys
                return replace(now, credential=credential)
            if not is_same or now.state not in (State.SUBMITTING, State.SUBMIT_UNKNOWN):
                return None
            credentials = credential or now.credential
            return replace(now, state=State.SUBMITTED, provider_job=job.id, credential=credentials)

        is_over = job.state.is_terminal
        wait_s = 0.0 if is_over else self._steps.poll_delay_s(row)
        stepped = await self._steps.change(row, change, Then(POLL, wait_s))
        if stepped is None:
            now = await self._steps.find(row.id.hex())
            if now is None or now.provider_job != job.id:  # else somebody else heard of it first
                await self._on_late(row, job.id)
        elif stepped.cancel_requested_at is not None:
            await self._on_accepted(stepped)

    async def _lost(self, row: AsynchronousExecution) -> None:
        """It was sent, and what came of it is unknown."""
        seat = await self._desk.seat_of(row)
        if seat is None:
            await self._steps.end(row, State.FAILED, ErrorCode.MODEL_UNAVAILABLE)
            return
        emit(ProviderJobLost(provider=seat.provider.id, deployment=seat.deployment.id))
        if not self._can_ask(seat, row) and not self._desk.calls_back(seat):
            await self._given_up(row)
            return
        after = replace(row, state=State.SUBMIT_UNKNOWN)
        await self._steps.step(row, after, self._first_look(seat, row))

    async def _given_up(self, row: AsynchronousExecution) -> None:
        """Nobody knows of a job. A callback that still comes leads to its booking."""
        is_wished = row.cancel_requested_at is not None
        state, code = (State.CANCELED, None) if is_wished else (State.FAILED, ErrorCode.GENERATION_FAILED)
        await self._steps.end(row, state, code)

    async def look_again(self, row: AsynchronousExecution) -> None:
        """A wish to cancel has taken the row on, past the look that was queued for it: what follows is queued anew."""
        seat = await self._desk.seat_of(row)
        if seat is None:
            await self._steps.end(row, State.FAILED, ErrorCode.MODEL_UNAVAILABLE)
            return

        def change(now: AsynchronousExecution) -> AsynchronousExecution | None:
            return replace(now, polls=now.polls + 1) if now.state is State.SUBMIT_UNKNOWN else None

        await self._steps.change(row, change, self._first_look(seat, row))

    def _first_look(self, seat: Seat, row: AsynchronousExecution) -> Then:
        """Where nothing can be asked, the callback is waited for."""
        until_s = int(self._steps.now().timestamp() + LOOK_UP_S)
        wait_s = self._steps.poll_delay_s(row, polls=0) / 2 if self._can_ask(seat, row) else LOOK_UP_S
        return Then(LOOK_UP, wait_s, {"until_s": until_s})

    def _can_ask(self, seat: Seat, row: AsynchronousExecution) -> bool:
        return seat.kind.repeats_safely(seat.target) or self._desk.can_look_up(seat, row)

    async def look_up(self, execution: str, version: int, until_s: int) -> None:
        row = await self._steps.find_at(execution, version, State.SUBMIT_UNKNOWN)
        if row is None:
            return
        seat = await self._desk.seat_of(row)
        if seat is None or self._steps.now().timestamp() >= until_s:
            await self._given_up(row)
            return
        if self._desk.can_look_up(seat, row):
            job = await self._desk.look_up(seat, row)
            if job is not None:
                await self._accepted(row, job, row.credential)
                return
        if seat.kind.repeats_safely(seat.target) and await self._sent_again(seat, row):
            return
        after = replace(row, polls=row.polls + 1)
        await self._steps.step(row, after, Then(LOOK_UP, self._steps.poll_delay_s(row), {"until_s": until_s}))

    async def _sent_again(self, seat: Seat, row: AsynchronousExecution) -> bool:
        """The same submission to a provider that makes one job of it. Whether that settled it."""
        try:
            fields = await self._inputs.read(row, seat)
        except (InputGone, Refusal, VaultError):
            return False
        deadline_s = max(0, int((row.expires_at - self._steps.now()).total_seconds()))
        told = await self._desk.submit(seat, row, fields, deadline_s=deadline_s)
        if isinstance(told, Unsent) or told.next in (Next.UNKNOWN, Next.ELSEWHERE):
            return False
        await self._told(row, told)
        return True

    async def heard_of(self, row: AsynchronousExecution, job_id: str) -> None:
        """A callback that is believed names the job of a submission whose answer was lost."""
        seat = await self._desk.seat_of(row)
        if seat is None:
            return
        told = await self._desk.ask(seat, row, job_id)
        if isinstance(told, Unheard):
            told = Job(job_id, JobState.QUEUED)  # it is believed; how it is will be told later
        if told.state is not JobState.GONE:
            await self._accepted(row, replace(told, id=job_id), row.credential)

    def _written_down(self, row: AsynchronousExecution, seat: Seat) -> AsynchronousExecution:
        return replace(
            row,
            state=State.SUBMITTING,
            attempt=max(1, row.attempt),
            mode=Mode.CALLBACK if self._desk.calls_back(seat) else Mode.POLL,
            provider=seat.provider.id,
            deployment=seat.deployment.id,
            catalogue_version=seat.version,
            started_at=row.started_at or self._steps.now(),
        )

    async def _later(self, row: AsynchronousExecution, wait_s: float) -> None:
        """Nobody received it: once more after a while, until its time is up."""
        if row.expires_at <= self._steps.now() + timedelta(seconds=wait_s):
            await self._steps.end(row, State.EXPIRED, ErrorCode.GENERATION_TIMEOUT)
            return
        after = replace(unplaced(row), state=State.SUBMITTING, attempt=max(1, row.attempt))
        await self._steps.step(row, after, Then(SUBMIT, wait_s))


def unplaced(row: AsynchronousExecution) -> AsynchronousExecution:
    """Nothing of it is, or may be, at a provider."""
    return replace(row, provider=None, deployment=None, mode=None, provider_job=None, credential=None)
