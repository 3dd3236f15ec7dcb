"""Does the work of executions that are answered in a call, and ends whatever is not done in time.

    job ─▶ claimed (RUNNING, attempt n) ─▶ input, files ─▶ call, again where that may help ─▶ output kept ─▶ ended
     ▲ └─ no place in its share: put back    │               └─ no room at any provider: the claim and the job are
     └───────────────────────────────────────┼──────────────────────────────────────────── put back, until the deadline
                                             └─ somebody else took a step: the call is dropped

A claim is a step, so a job that runs twice works once: the later claim wins, and what the earlier one brings is
nobody's. A process that is lost in the middle leaves its job to another; the call is made again as attempt n + 1, and
what the lost one cost is the house's. Only a step to SUCCEEDED charges anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from waypost.executions import answer as answers
from waypost.executions.call import CALLED, Call, call_of, files_of
from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import RESULT_TTL_S, input_key, output_key
from waypost.executions.retries import RUNS_MAX, attempts_before, put_back_s, wait_s
from waypost.kit import ids
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.snapshot import View
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, Ending, Executions, Job
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.execution_news import ExecutionNews, Steps
from waypost.stores.vault import Vault, VaultError
from waypost.telemetry.events import report_bug
from waypost.telemetry.metrics import Counter, Histogram
from waypost.wire.canonical import Usage
from waypost.wire.model_call import ModelCall
from waypost.worker.gateways import InferenceAnswer
from waypost.worker.shares import Shares

PLACES = 192  # executions at work at one time: of the queue's places a part is left to polls, outputs and the rest
SWEEP_S = 1.0  # between looks for what is overdue
SWEPT_MAX = 100  # at one look
INLINED_BYTES_MAX = 256 << 20  # of files inside of calls, of all executions at work; some more are not waited for
_LOADING_MAX = 2  # executions whose files are being loaded
_AGAIN_S = 0.5  # between tries of what the database or the vault did not take
_AGAIN_MAX = 60
_LOOKS_MAX = 20  # into a vault that does not answer, as while it is replaced
# What a gateway says of a model that was there when the execution was accepted.
_GONE = (ErrorCode.NOT_FOUND, ErrorCode.NO_ELIGIBLE_ROUTE)

_decode = msgspec.json.Decoder().decode


class Calls(Protocol):
    """Gateways, as far as executions need them."""

    async def call(self, call: ModelCall, path: str, body: bytes, *, timeout_s: float) -> InferenceAnswer: ...


class StoredFiles(Protocol):
    """The file store, as far as executions need it."""

    async def as_data_url(self, org_id: bytes, file_id: bytes) -> str:
        """An input inside a request. Raises Refusal."""

    async def keep_output(self, execution: AsynchronousExecution, place: int, content: bytes) -> OutputFile:
        """What a model made, to be shown when the execution succeeds; once for each place. Raises Refusal."""


class ProviderJobs(Protocol):
    """What is done for models whose providers work asynchronously."""

    async def start(self, execution: AsynchronousExecution) -> None:
        """Begin, or go on after an interruption."""


class Done(msgspec.Struct, frozen=True):
    """What is delivered, and for how much."""

    charge_nanos: int
    usage: Usage
    files: tuple[OutputFile, ...] = ()
    has_text: bool = False  # in the vault


class Inlined(msgspec.Struct):
    """What one execution's call holds of files."""

    bytes: int = 0


class NoRoom(msgspec.Struct, frozen=True):
    """Not here and now: every provider is full, or rests, or there is no memory for its files, or this process leaves
    before it may be tried again."""

    asked_s: float | None  # that the gateway wanted to be left alone for
    refusal: Refusal  # what it ends with where it is not put back
    is_untouched: bool  # whether this run has asked no provider at all


class ExecutionWork:
    """One process's."""

    def __init__(
        self,
        *,
        executions: Executions,
        news: ExecutionNews,
        vault: Vault,
        view: Callable[[], View],
        calls: Calls,
        files: StoredFiles,
        jobs: ProviderJobs | None,
        clock: Clock,
        dice: Callable[[], float],
        ended: Counter,
        started_after: Histogram,
        result_ttl_s: float = RESULT_TTL_S,
        places: int = PLACES,
        inlined_bytes_max: int = INLINED_BYTES_MAX,
    ) -> None:
        """`ended` counts by model and outcome, `started_after` takes seconds from acceptance to the first step."""
        self._executions = executions
        self._news = news
        self._vault = vault
        self._view = view
        self._calls = calls
        self._files = files
        self._jobs = jobs
        self._clock = clock
        self._dice = dice
        self._ended = ended
        self._started_after = started_after
        self._result_ttl_s = result_ttl_s
        self._shares = Shares(places)
        self._inlined_bytes_max = inlined_bytes_max
        self._inlined_bytes = 0
        self._loading = asyncio.Semaphore(_LOADING_MAX)
        self._leaving = asyncio.Event()

    async def start(self, execution: str) -> float | None:
        """The job `execution.start`; its argument is the id's hexadecimal digits. Seconds when it is to be put back
        for so long: it has no place among those at work, or no provider has room."""
        found = await self._executions.find(bytes.fromhex(execution))
        if found is None or found.state.has_ended:
            return None
        again_s = self._shares.begin(found.org_id, found.model, now_s=self._clock.monotonic_s())
        if again_s is not None:
            return again_s
        try:
            return await self._work(found)
        finally:
            self._shares.end(found.org_id, found.model)

    def leave(self) -> None:
        """This process is to end: what only waits to be tried again is put back for the next one. Calls go on."""
        self._leaving.set()

    async def sweep(self) -> None:
        """End what is overdue, until cancelled."""
        while True:
            try:
                while await self._expire() == SWEPT_MAX:
                    pass
            except LedgerUnavailable:
                pass  # the next time
            await asyncio.sleep(SWEEP_S)

    # One execution.

    async def _work(self, found: AsynchronousExecution) -> float | None:
        if self._jobs is not None and self._is_for_jobs(found):
            await self._jobs.start(found)
            return None
        with self._news.of(found.id) as steps:
            claimed = await self._claimed(found)
            outcome = None if claimed is None else await self._outcome_unless_overtaken(claimed, steps)
        if claimed is None:
            return None
        if isinstance(outcome, NoRoom):
            if outcome.is_untouched or claimed.attempt < RUNS_MAX:
                return await self._let_go(claimed, outcome)
            outcome = outcome.refusal
        await self._finish(claimed, outcome)
        return None

    async def _let_go(self, claimed: AsynchronousExecution, no_room: NoRoom) -> float | None:
        """Put back: as if it had not been claimed, where no provider was asked. None when somebody else has it now."""
        after = replace(claimed, attempt=claimed.attempt - no_room.is_untouched)
        if await self._executions.step(claimed, after) is None:
            return None
        waited_s = (self._now() - (claimed.started_at or claimed.accepted_at)).total_seconds()
        pause_s = put_back_s(waited_s, asked_s=no_room.asked_s, dice=self._dice())
        return max(0.0, min(pause_s, self._left_s(claimed)))

    def _is_for_jobs(self, execution: AsynchronousExecution) -> bool:
        """The best route decides: calls and jobs are not mixed within one execution."""
        mode = execution.mode or self._best_mode(execution)
        return execution.modality not in CALLED or (mode is not None and mode.is_job)

    def _best_mode(self, execution: AsynchronousExecution) -> Mode | None:
        found = self._view().find(execution.model)
        return None if found is None else Mode(found.routes[0].deployment.mode)

    async def _claimed(self, found: AsynchronousExecution) -> AsynchronousExecution | None:
        """None when there is nothing to do here: somebody else has it, or it has ended now."""
        now = self._now()
        if now >= found.expires_at:
            await self._fail(found, State.EXPIRED, ErrorCode.GENERATION_TIMEOUT.name)
            return None
        if found.attempt >= RUNS_MAX:
            await self._fail(found, State.FAILED, ErrorCode.GENERATION_FAILED.name)
            return None
        if found.modality not in CALLED:
            await self._fail(found, State.FAILED, ErrorCode.MODEL_UNAVAILABLE.name)
            return None
        if found.state is State.RECEIVED:
            self._started_after.observe(max(0.0, (now - found.accepted_at).total_seconds()))
        claim = replace(
            found,
            state=State.RUNNING,
            mode=Mode.STREAM if self._best_mode(found) is Mode.STREAM else Mode.SYNC,
            attempt=found.attempt + 1,
            started_at=found.started_at or now,
        )
        return await self._executions.step(found, claim)

    async def _outcome_unless_overtaken(
        self, claimed: AsynchronousExecution, steps: Steps
    ) -> Done | NoRoom | Refusal | None:
        """None when somebody else took a step: then whatever was under way is dropped."""
        work = asyncio.ensure_future(self._outcome(claimed))
        try:
            while not work.done():
                stepping = asyncio.ensure_future(steps.wait())
                await asyncio.wait((work, stepping), return_when=asyncio.FIRST_COMPLETED)
                if not stepping.done():
                    stepping.cancel()
                elif not work.done() and await self._is_overtaken(claimed, steps):
                    return None
            return work.result()
        except Refusal as refusal:
            return refusal
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def _is_overtaken(self, claimed: AsynchronousExecution, steps: Steps) -> bool:
        if steps.version:
            return steps.version > claimed.version
        found = await self._executions.find(claimed.id)
        return found is None or found.version > claimed.version

    async def _finish(self, claimed: AsynchronousExecution, outcome: Done | Refusal | None) -> None:
        has_succeeded = False
        if isinstance(outcome, Refusal):
            await self._fail(claimed, State.FAILED, outcome.code.name)
        elif outcome is not None:
            now = self._now()
            after = replace(
                claimed,
                state=State.SUCCEEDED,
                ended_at=now,
                output_files=outcome.files,
                result_until=now + timedelta(seconds=self._result_ttl_s) if outcome.has_text else None,
            )
            charge_nanos = min(outcome.charge_nanos, claimed.hold_nanos)
            has_succeeded = await self._end(claimed, after, Ending(charge_nanos, outcome.usage))
        if not has_succeeded:
            await self._forget(output_key(claimed.id, claimed.attempt))

    async def _outcome(self, claimed: AsynchronousExecution) -> Done | NoRoom:
        """Raises Refusal with what it ends with instead."""
        inlined = Inlined()
        try:
            call = await self._call(claimed, inlined)
            if call is None:
                return NoRoom(None, Refusal(ErrorCode.SERVICE_UNAVAILABLE), is_untouched=True)
            answer = await self._answer(claimed, call)
        finally:
            self._inlined_bytes -= inlined.bytes
        if answer.status != 200:
            refusal = Refusal(_told(answer.code))
            if not _is_no_room(answer) and not (answer.is_retryable and self._leaving.is_set()):
                raise refusal
            is_untouched = answer.attempts == attempts_before(claimed.attempt)
            return NoRoom(answer.retry_after_s, refusal, is_untouched)
        try:
            if claimed.modality == "image":
                files = await self._kept_images(claimed, answer.body)
                return Done(answer.charge_nanos, answer.usage or Usage(), files)
            output = answers.OUTPUTS[claimed.modality](answer.body)
        except (msgspec.DecodeError, answers.BadAnswer) as error:
            report_bug(error)  # the gateway answers in a closed form
            raise Refusal(ErrorCode.GENERATION_FAILED) from None
        try:
            key = output_key(claimed.id, claimed.attempt)
            await self._vault.put(key, output, self._result_ttl_s, owner=claimed.org_id)
        except VaultError:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE) from None
        return Done(answer.charge_nanos, answer.usage or Usage(), has_text=True)

    async def _call(self, claimed: AsynchronousExecution, inlined: Inlined) -> Call | None:
        """None when as much is inlined in others as may be, or the input is not had before this process leaves. Raises
        Refusal, 503 when the input is gone."""
        kept = await self._input(claimed)
        if kept is None:
            if self._leaving.is_set():
                return None
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE)
        body_input: Mapping[str, Any] = _decode(kept)
        names = dict.fromkeys(files_of(claimed.modality, body_input))
        files: dict[str, str] = {}
        if names:
            async with self._loading:
                if self._inlined_bytes >= self._inlined_bytes_max:
                    return None
                for name in names:
                    url = files[name] = await self._files.as_data_url(claimed.org_id, ids.parse("file", name))
                    inlined.bytes += len(url)
                    self._inlined_bytes += len(url)
        return call_of(claimed.modality, claimed.model, body_input, files, is_stream=claimed.mode is Mode.STREAM)

    async def _input(self, claimed: AsynchronousExecution) -> bytes | None:
        for _ in range(_LOOKS_MAX):
            try:
                return await self._vault.get(input_key(claimed.id))
            except VaultError:
                if not await self._pause(_AGAIN_S):
                    break
        return None

    async def _answer(self, claimed: AsynchronousExecution, call: Call) -> InferenceAnswer:
        """The last answer: an answer proper, or a refusal that trying again did not help against."""
        asked = ModelCall(
            execution_id=claimed.id,
            org_id=claimed.org_id,
            api_key_id=claimed.api_key_id,
            hold_nanos=claimed.hold_nanos,
            accepted_at_ms=int(claimed.accepted_at.timestamp() * 1000),
            price_version=claimed.price_version,
            attempts_before=attempts_before(claimed.attempt),
        )
        tries = 0
        while True:
            tries += 1
            left_s = max(0.001, self._left_s(claimed))
            answer = await self._calls.call(asked, call.path, call.body, timeout_s=left_s)
            if answer.status == 200 or not answer.is_retryable or _is_no_room(answer):
                return answer
            pause_s = wait_s(tries, asked_s=answer.retry_after_s, dice=self._dice())
            if pause_s is None or pause_s >= self._left_s(claimed):
                return answer
            asked = replace(asked, attempts_before=answer.attempts)
            if not await self._pause(pause_s):
                return answer

    async def _pause(self, pause_s: float) -> bool:
        """Before the next try; False when this process leaves instead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._leaving.wait()
        return not self._leaving.is_set()

    async def _kept_images(self, claimed: AsynchronousExecution, body: bytes) -> tuple[OutputFile, ...]:
        images = await asyncio.to_thread(answers.images_of, body)
        return tuple([await self._files.keep_output(claimed, place, each) for place, each in enumerate(images)])

    # Ends.

    async def _fail(self, before: AsynchronousExecution, state: State, code: str, jobs: Sequence[Job] = ()) -> None:
        after = replace(before, state=state, ended_at=self._now(), error_code=code)
        await self._end(before, after, Ending(), jobs)

    async def _end(
        self, before: AsynchronousExecution, after: AsynchronousExecution, ending: Ending, jobs: Sequence[Job] = ()
    ) -> bool:
        """Whether it ended so. What the database does not take now is given to it again: an answer is not called for
        twice because of that."""
        tries = 0
        while True:
            tries += 1
            try:
                has_ended = await self._executions.step(before, after, ending=ending, jobs=jobs) is not None
                break
            except LedgerUnavailable:
                if tries == _AGAIN_MAX:
                    raise
                await asyncio.sleep(_AGAIN_S)
        if not has_ended and tries > 1:
            # It may have been our own step, of which we were not told.
            found = await self._executions.find(before.id)
            has_ended = found is not None and found.version == before.version + 1 and found.state is after.state
        if has_ended:
            self._ended.add(after.model, after.state.public.lower(), after.error_code)
            await self._forget(input_key(before.id))
        return has_ended

    async def _expire(self) -> int:
        """How many there were, 0 when one of them could not be ended: then the next look waits its time."""
        failed = 0
        overdue = await self._executions.overdue(self._now(), limit=SWEPT_MAX)
        for execution in overdue:
            is_job = execution.mode is not None and execution.mode.is_job
            jobs = (Job(CANCEL_AT_PROVIDER),) if is_job else ()
            try:
                await self._fail(execution, State.EXPIRED, ErrorCode.GENERATION_TIMEOUT.name, jobs)
            except LedgerUnavailable:
                raise
            except Exception as bug:  # noqa: BLE001  one that cannot end must not keep those after it from ending
                report_bug(bug)
                failed += 1
        return 0 if failed else len(overdue)

    async def _forget(self, *keys: str) -> None:
        try:
            await self._vault.delete(*keys)
        except VaultError:
            return  # their time is over soon

    def _left_s(self, execution: AsynchronousExecution) -> float:
        return (execution.expires_at - self._now()).total_seconds()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC)


def _is_no_room(answer: InferenceAnswer) -> bool:
    """Whether it was refused before anything was sent, and may be taken later."""
    return answer.status != 200 and answer.is_retryable and not answer.is_sent


def _told(code: str) -> ErrorCode:
    """What its caller is told of a gateway's refusal."""
    known = ErrorCode.__members__.get(code, ErrorCode.INTERNAL_ERROR)
    return ErrorCode.MODEL_UNAVAILABLE if known in _GONE else known
