"""Executions whose provider works asynchronously, from submission to files: the handlers of their queued jobs.

Of the queue's jobs those with a `version` belong to the row as it was when they were queued, by the same transaction:
where it has moved on, somebody else has queued what follows. What counts is what the provider answers when it is
asked: a callback is a reason to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from waypost.executions.lifecycle import State
from waypost.executions.provider_job import (
    GONE_POLLS_MAX,
    REHOST_FIRST_S,
    REHOST_S_MAX,
    REHOST_TRIES_MAX,
    backoff_s,
    end_of,
)
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.job_document import may_serve_outputs
from waypost.providers.job import Job, JobState
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, FETCHING_S
from waypost.storage.asynchronous_executions import Job as QueuedJob
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.provider_callbacks import HEAR
from waypost.telemetry.events import ProviderJobOutputLost, ProviderJobUnbooked, emit
from waypost.worker.job_desk import JobDesk, Seat, Unheard
from waypost.worker.job_input import JobInputs
from waypost.worker.job_steps import (
    LOOK_UP,
    ORPHAN,
    POLL,
    REHOST,
    SUBMIT,
    JobSteps,
    OutputNotKept,
    Outputs,
    OutputsAway,
    OutputUnfit,
    Then,
)
from waypost.worker.job_submissions import Submissions

ORPHAN_AFTER_S, ORPHAN_S_MAX = 3_600.0, 300.0
_CANCEL_AGAIN_S = 5.0
_HEAR_AGAIN_S = 30.0  # of an earlier attempt's job, while the later one's is not known
_AFTER_CANCEL_S = 1.0  # until its status is asked for


class ProviderJobs:
    """One process's."""

    def __init__(self, steps: JobSteps, desk: JobDesk, inputs: JobInputs, outputs: Outputs) -> None:
        self._steps = steps
        self._desk = desk
        self._outputs = outputs
        self._submissions = Submissions(steps, desk, inputs, on_accepted=self._cancel, on_late=self._found_too_late)

    def handlers(self) -> dict[str, Callable[..., Awaitable[None]]]:
        """Of the queue's jobs, by name."""
        return {
            SUBMIT: self._submissions.submit,
            LOOK_UP: self._submissions.look_up,
            POLL: self.poll,
            REHOST: self.rehost,
            CANCEL_AT_PROVIDER: self.cancel,
            HEAR: self.hear,
            ORPHAN: self.orphan,
        }

    async def start(self, execution: AsynchronousExecution) -> None:
        """Begin at a provider of jobs, or go on where this very job was interrupted."""
        await self._submissions.start(execution)

    # While it runs

    async def poll(self, execution: str, version: int) -> None:
        row = await self._steps.find_at(execution, version, State.SUBMITTED, State.RUNNING)
        if row is not None:
            await self._ask(row)

    async def hear(self, execution: str, attempt: int, job: str, is_believed: int, provider: str = "") -> None:
        """A callback came. `job` is the id that it names, and `is_believed` whether that is the provider's word."""
        row = await self._steps.find(execution)
        if row is None:
            return
        if attempt < row.attempt and job and is_believed:
            await self._heard_of_earlier(row, attempt, job, provider)
        if row.attempt != attempt or row.provider is None:
            return
        if row.state in (State.SUBMITTED, State.RUNNING):
            await self._ask(row)
        elif not job or not is_believed or row.provider_job == job:
            return
        elif row.state in (State.SUBMITTING, State.SUBMIT_UNKNOWN):
            await self._submissions.heard_of(row, job)
        elif row.state.has_ended:
            await self._found_too_late(row, job)

    async def _ask(self, row: AsynchronousExecution) -> None:
        seat = await self._desk.seat_of(row)
        if seat is None:
            await self._steps.end(row, State.FAILED, ErrorCode.MODEL_UNAVAILABLE)
            return
        assert row.provider_job is not None
        if row.expires_at <= self._steps.now():
            await self._steps.end(row, State.EXPIRED, ErrorCode.GENERATION_TIMEOUT)
            return
        told = await self._desk.ask(seat, row, row.provider_job)
        job = told if isinstance(told, Job) else None
        is_cancel_asked = row.cancel_requested_at is not None
        if job is not None and job.state is JobState.GONE and not is_cancel_asked and row.polls < GONE_POLLS_MAX:
            job = None
        if job is None or not job.state.is_terminal:
            is_running = job is not None and job.state is JobState.RUNNING
            state = State.RUNNING if is_running or row.state is State.RUNNING else row.state
            after = replace(row, state=state, polls=row.polls + 1)
            wait_s = self._steps.poll_delay_s(row)
            if isinstance(told, Unheard):
                wait_s = max(wait_s, min(told.retry_after_s, self._left_s(row)))
            await self._steps.step(row, after, Then(POLL, wait_s))
        elif job.state is JobState.SUCCEEDED and job.outputs:
            after = replace(row, state=State.REHOSTING, polls=row.polls + 1)
            await self._steps.step(row, after, Then(REHOST, 0.0, {"tries": 0}))
        elif job.state is JobState.SUCCEEDED:
            await self._steps.end(row, State.FAILED, ErrorCode.GENERATION_FAILED, job=job)  # of nothing
        else:
            state, code = end_of(job, is_cancel_asked=is_cancel_asked)
            await self._steps.end(row, state, code, job=job)

    # Its outputs

    async def rehost(self, execution: str, version: int, tries: int) -> None:
        """Fetch what it made. Addresses are asked for anew each time: they are never kept, and expire."""
        row = await self._steps.find_at(execution, version, State.REHOSTING)
        if row is None:
            return
        seat = await self._desk.seat_of(row)
        assert row.provider_job is not None
        told = Unheard() if seat is None else await self._desk.ask(seat, row, row.provider_job)
        job = told if isinstance(told, Job) else None
        is_away = job is None
        files: list[OutputFile] = []
        tries_max = REHOST_TRIES_MAX
        if seat is not None and job is not None and job.state is JobState.SUCCEEDED:
            try:
                for index, output in enumerate(job.outputs):
                    files.append(await self._kept(row, seat, index, output.url))
            except OutputUnfit as unfit:
                files, tries_max = [], unfit.tries_max
            except OutputNotKept:
                files = []
            except OutputsAway:
                files, is_away = [], True
        if files and job is not None:
            await self._succeed(row, job, tuple(files))
            return
        tries += not is_away
        left_s = self._left_s(row) + FETCHING_S
        if tries >= tries_max or left_s <= 0:
            emit(ProviderJobOutputLost(provider=row.provider or "", deployment=row.deployment or ""))
            await self._steps.end(row, State.FAILED, ErrorCode.GENERATION_FAILED, job=job)
            return
        rounds = row.polls if is_away else tries
        wait_s = backoff_s(max(1, rounds), first_s=REHOST_FIRST_S, most_s=REHOST_S_MAX, dice=self._steps.dice())
        if isinstance(told, Unheard):
            wait_s = max(wait_s, told.retry_after_s)
        after = replace(row, polls=row.polls + 1)
        await self._steps.step(row, after, Then(REHOST, min(wait_s, left_s), {"tries": tries}))

    def _left_s(self, row: AsynchronousExecution) -> float:
        """Until its time is up."""
        return (row.expires_at - self._steps.now()).total_seconds()

    async def _kept(self, row: AsynchronousExecution, seat: Seat, index: int, address: str) -> OutputFile:
        is_inline = address.startswith("data:")
        if not is_inline and not may_serve_outputs(seat.provider.jobs, seat.provider.base_url, address):
            raise OutputNotKept
        return await self._outputs.rehost(row, index, address)

    async def _succeed(self, row: AsynchronousExecution, job: Job, files: tuple[OutputFile, ...]) -> None:
        ending = await self._steps.money.of_success(row, job, files)
        after = replace(row, state=State.SUCCEEDED, ended_at=self._steps.now(), output_files=files)
        await self._steps.finish(row, after, ending)

    # Its end

    async def cancel(self, execution: str) -> None:
        """Asked for by its caller, or because its time was up."""
        row = await self._steps.find(execution)
        if row is not None:
            await self._cancel(row)

    async def _cancel(self, row: AsynchronousExecution) -> None:
        if row.state is State.SUBMITTING and row.provider is None:
            await self._steps.end(row, State.CANCELED)
            return
        if row.state is State.SUBMIT_UNKNOWN:
            await self._submissions.look_again(row)
        if row.provider_job is None:
            return  # when it is known, it is cancelled
        if row.state.has_ended:
            await self._found_too_late(row, row.provider_job)
            return
        if row.state not in (State.SUBMITTED, State.RUNNING):
            return
        seat = await self._desk.seat_of(row)
        is_told = seat is None or await self._desk.cancel(seat, row, row.provider_job)

        def change(now: AsynchronousExecution) -> AsynchronousExecution | None:
            is_running = now.state in (State.SUBMITTED, State.RUNNING)
            return replace(now, polls=now.polls + 1) if is_running else None

        jobs = () if is_told else (QueuedJob(CANCEL_AT_PROVIDER, self._steps.at(_CANCEL_AGAIN_S)),)
        await self._steps.change(row, change, Then(POLL, _AFTER_CANCEL_S), jobs=jobs)

    async def _found_too_late(self, row: AsynchronousExecution, job_id: str) -> None:
        """A job of an execution that has ended: nobody waits for it, and the house pays what it costs."""
        await self._steps.queue(ORPHAN, _orphan(row, job_id, 0))

    async def _heard_of_earlier(self, row: AsynchronousExecution, attempt: int, job_id: str, provider: str) -> None:
        """An attempt that was believed to have come to nothing has made a job, if it is another than the one that is
        worked on: before that is known, nothing may be cancelled. Which deployment had it is not written down any more,
        so the provider is asked who knows the job."""
        if row.provider_job is None and not row.state.has_ended:
            again: dict[str, str | int] = {"execution": row.id.hex(), "attempt": attempt, "job": job_id}
            again |= {"is_believed": 1, "provider": provider}
            await self._steps.queue(HEAR, again, after_s=_HEAR_AGAIN_S)
            return
        if row.provider_job == job_id:
            return
        candidates = await self._desk.earlier_rows(row, provider)
        known = candidates[:1]
        for candidate in candidates if len(candidates) > 1 else ():
            seat = await self._desk.seat_of(candidate)
            told = Unheard() if seat is None else await self._desk.ask(seat, candidate, job_id)
            if isinstance(told, Job) and told.state is not JobState.GONE:
                known = [candidate]
                break
        for each in known:
            await self._found_too_late(replace(each, attempt=attempt), job_id)

    async def orphan(
        self,
        execution: str,
        attempt: int,
        job: str,
        provider: str,
        deployment: str,
        credential: str,
        tries: int,
        is_told: int = 0,
    ) -> None:
        """Cancel it, and book what it cost once that is known. It is asked for an hour after the time that its
        provider was given, and that time is all of the execution's; then somebody has to look at the bill."""
        row = await self._steps.find(execution)
        if row is None:
            return
        row = replace(
            row, attempt=attempt, provider=provider, deployment=deployment, credential=credential.encode() or None
        )
        seat = await self._desk.seat_of(row)
        told: Job | Unheard = Unheard()
        if seat is not None:
            is_told = is_told or await self._desk.cancel(seat, row, job)
            told = await self._desk.ask(seat, row, job)
        if isinstance(told, Job) and told.state.is_terminal:
            await self._steps.money.book_orphan(row, replace(told, id=job))
            return
        left_s = self._left_s(row) + ORPHAN_AFTER_S
        if left_s <= 0:
            emit(ProviderJobUnbooked(execution_id=row.id.hex(), provider=provider, deployment=deployment))
            return
        wait_s = backoff_s(tries + 1, most_s=ORPHAN_S_MAX, dice=self._steps.dice())
        if isinstance(told, Unheard):
            wait_s = max(wait_s, told.retry_after_s)
        again = _orphan(row, job, tries + 1) | {"is_told": int(is_told)}
        await self._steps.queue(ORPHAN, again, after_s=min(wait_s, left_s))


def _orphan(row: AsynchronousExecution, job_id: str, tries: int) -> dict[str, str | int]:
    return {
        "execution": row.id.hex(),
        "attempt": row.attempt,
        "job": job_id,
        "provider": row.provider or "",
        "deployment": row.deployment or "",
        "credential": (row.credential or b"").decode(),
        "tries": tries,
    }
