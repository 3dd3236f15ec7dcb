"""One schedule of one execution, at a provider of jobs or by a call: the real handlers on a real database, with a
simulated provider, gateway, vault, queue and clock. What happens, and where it breaks, is drawn from a seed.

A queued job is run at its moment or, at times, twice. While it runs, any passage into or out of the database, the
provider or the vault may be where the process is lost, where the database does not answer, or where it has committed
and nobody was told. A lost process leaves its job to another one, which knows nothing; a slow one is overtaken.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec

from tests.simulation.calls import Calls, NoFiles
from tests.simulation.faults import Crash, Faults, FaultyPool, FaultyVault
from tests.simulation.job_provider import PREFIX, Habits, JobProvider
from tests.simulation.observer import Observer
from tests.simulator.jobs_client import PLAIN
from tests.storage.asynchronous import received
from tests.storage.books import IDS
from waypost.control.executions import _Actions
from waypost.executions.callback_address import CallbackAddresses
from waypost.executions.lifecycle import Cancelling, cancelling
from waypost.executions.payload_keys import input_key
from waypost.kit.errors import ErrorCode, Refusal
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import View, build_view
from waypost.storage.asynchronous_executions import START, Executions
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.pool import Pool
from waypost.storage.provider_callbacks import ProviderCallback, record_callback
from waypost.storage.webhooks import Announcer
from waypost.stores.vault import VaultUnavailable
from waypost.telemetry.metrics import Counter, Histogram
from waypost.webhooks.sealed import Sealed
from waypost.wire.errand import Errand, Sent
from waypost.worker.executions import ExecutionWork
from waypost.worker.job_desk import JobDesk
from waypost.worker.job_input import JobInputs
from waypost.worker.job_money import JobMoney
from waypost.worker.job_places import JobPlaces
from waypost.worker.job_steps import JobSteps, OutputNotKept
from waypost.worker.provider_jobs import ProviderJobs
from waypost.worker.queue import Handler

CANARY = "canary-of-a-prompt-7f3a"
WEBHOOK = "https://receiver.test/hook"
DEADLINE_S = 900.0
RESCUED_AFTER_S = 15.0
EVENTS_MAX = 400
_RETRIES_MAX = 10  # as worker.queue has it


class Shelf:
    """Outputs, kept by place; fetching fails at times."""

    def __init__(self, dice: Random, faults: Faults) -> None:
        self._dice = dice
        self._faults = faults
        self.kept: dict[int, OutputFile] = {}

    async def rehost(self, execution: AsynchronousExecution, index: int, address: str) -> OutputFile:
        self._faults.pass_by("while fetching", OutputNotKept)
        if self._dice.random() < 0.1:
            raise OutputNotKept
        return self.kept.setdefault(index, OutputFile(IDS.new(), "image/png", 100))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._base_ns = IDS._now_ns()

    def unix_ns(self) -> int:
        return self._base_ns + int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s

    def at(self) -> datetime:
        return datetime.fromtimestamp(self.unix_ns() / 1e9, UTC)


Task = tuple[str, dict[str, Any]]


class Schedule:
    """`run` it, then look at what is left."""

    def __init__(self, seed: int, pool: FaultyPool, app: Pool, observer: Observer, org_id: bytes) -> None:
        dice = self.dice = Random(seed)
        self.seed = seed
        self._org_id = org_id
        self._pool = pool
        self._app = app
        self._observer = observer
        self.faults = Faults(dice)
        self.clock = Clock()
        self.vault = FaultyVault(self.faults)
        self.shelf = Shelf(dice, self.faults)
        self.provider = JobProvider(_habits(dice), dice)
        self.executions = Executions(pool, IDS, Announcer(IDS, Sealed(b"k" * 32)))
        self._addresses = CallbackAddresses(b"s" * 32, lambda: "https://waypost.test")
        self._view = _view_of(self.provider.habits)
        self.model = dice.choice(("paint", "paint", "text"))
        self._calls = Calls(dice, self.faults, CANARY, self._overtake_call)
        self._desk = self._worker()
        self._agenda: list[tuple[float, int, str, dict[str, Any], int]] = []
        self._agreed = 0
        self._called_back: set[str] = set()
        self._nested = False
        self.execution_id = b""
        self.ends: list[AsynchronousExecution] = []
        self.events = 0

    async def run(self) -> AsynchronousExecution:
        """To the end of everything that was going to happen."""
        await self._create()
        while True:
            row = await self._look()
            if not self._agenda:
                break
            at_s, _, name, arguments, tries = heapq.heappop(self._agenda)
            self.clock.now_s = max(self.clock.now_s, at_s)
            self.vault.now_s = self.clock.now_s
            self.events += 1
            assert self.events < EVENTS_MAX, "it goes on and on"
            await self._happen(name, arguments, tries)
        self.clock.now_s += 2 * 86_400
        self.vault.now_s = self.clock.now_s
        return row

    # What happens.

    async def _create(self) -> None:
        now = self.clock.at()
        is_call = self.model == "text"
        execution = received(
            self._org_id,
            model=self.model,
            modality="chat" if is_call else "image",
            hold_nanos=1_000_000_000,
            accepted_at=now,
            expires_at=now + timedelta(seconds=DEADLINE_S),
            webhook_url=WEBHOOK,
        )
        self.execution_id = execution.id
        said = {"messages": [{"role": "user", "content": CANARY}]}
        body = msgspec.json.encode(said if is_call else {"prompt": CANARY})
        await self.vault.put(input_key(execution.id), body, DEADLINE_S + 60)
        await self.executions.create(execution)
        self._put("sweep", {}, DEADLINE_S + 1)
        if self.dice.random() < 0.3:
            self._put("wish to cancel", {}, self.dice.choice((0.0, 1.0, 5.0, 60.0, 300.0)))
        if self.dice.random() < 0.05:
            self._put("vault is restarted", {}, self.dice.choice((0.0, 10.0, 100.0)))

    async def _happen(self, name: str, arguments: dict[str, Any], tries: int) -> None:
        match name:
            case "sweep":
                await self._sweep()
            case "wish to cancel":
                await self._wish_to_cancel()
            case "callback":
                await self._record_callback(**arguments)
            case "vault is restarted":
                self.vault.values.clear()
            case _:
                await self._work(name, arguments, tries)

    async def _work(self, name: str, arguments: dict[str, Any], tries: int) -> None:
        """A job of the queue, as `worker.queue` runs it."""
        self.faults.begin()
        self._pool.faults = self.faults
        try:
            again_s = await self._handle(name, arguments)
        except Crash:
            self._desk = self._worker()
            self._put(name, arguments, RESCUED_AFTER_S, tries)
            return
        except (LedgerUnavailable, VaultUnavailable):
            assert tries < _RETRIES_MAX, f"{name} was given up"
            self._put(name, arguments, 2.0**tries, tries + 1)
            return
        finally:
            self._pool.faults = None
            self.faults.end()
        if again_s is not None:
            self._put(name, arguments, again_s, tries)
        if self.dice.random() < 0.05:
            self._put(name, arguments, self.dice.choice((0.0, 2.0, 20.0)), tries)  # it is run again

    async def _handle(self, name: str, arguments: dict[str, Any]) -> float | None:
        work, jobs = self._desk
        handlers: dict[str, Handler] = {START: work.start, **jobs.handlers()}
        return await handlers[name](**arguments)

    async def _sweep(self) -> None:
        """As the worker does for whoever's time is up."""
        await self._desk[0]._expire()

    async def _wish_to_cancel(self) -> None:
        """By the control plane's own action, without its HTTP."""
        actions = _Actions.__new__(_Actions)
        services: Any = SimpleNamespace(executions=self.executions, vault=self.vault, clock=self.clock)
        actions._services = services
        row = await self.executions.find(self.execution_id)
        assert row is not None
        if not row.state.has_ended and cancelling(row.state, row.mode) is not Cancelling.TOO_LATE:
            await actions._cancelled(row)

    async def send(self, errand: Errand) -> Sent:
        """A gateway's errand. At times it takes so long that others go on meanwhile."""
        self.faults.pass_by("before the provider", None)
        sent = self.provider.answer(errand, self.clock.now_s)
        self._call_back()
        if not self._nested and self.dice.random() < 0.04:
            await self._meanwhile()
        self.faults.pass_by("after the provider", None)
        return sent

    async def _meanwhile(self) -> None:
        """Whoever waits for that answer is taken for lost, and another one goes on with what is queued."""
        slow, self._desk = self._desk, self._worker()
        try:
            await self._undisturbed(self._run_again)
        finally:
            self._desk = slow

    async def _run_again(self) -> None:
        await self._desk[0].start(self.execution_id.hex())

    async def _overtake_call(self) -> None:
        """While a call is under way: another run of the same job, a wish to cancel, or the end of its time."""
        if self._nested:
            return
        match self.dice.choice(("run", "wish", "time")):
            case "run":
                await self._meanwhile()
            case "wish":
                await self._undisturbed(self._wish_to_cancel)
            case _:
                self.clock.now_s += DEADLINE_S
                await self._undisturbed(self._sweep)

    async def _undisturbed(self, action: Callable[[], Awaitable[None]]) -> None:
        """By another process, in which nothing breaks."""
        self._nested, kind = True, self.faults.kind
        self.faults.kind = ""
        try:
            await action()
            self.faults.happened["overtaken"] += 1
        finally:
            self._nested, self.faults.kind = False, kind

    def _call_back(self) -> None:
        """Each job once decides how often it calls: never, late, several times; and strangers call too."""
        if not self.provider.habits.calls_back:
            return
        for job in self.provider.jobs:
            if job.id in self._called_back:
                continue
            self._called_back.add(job.id)
            over_in_s = job.begun_s + self.provider.habits.run_s - self.clock.now_s
            attempt, event = self._attempt_of(job.token), self.dice.randbytes(32)
            for _ in range(self.dice.choice((0, 1, 1, 2, 3))):
                late_s = self.dice.choice((0.0, 0.5, 30.0, 1_000.0))
                self._hear(attempt, job.id, over_in_s + late_s, event, is_believed=self.dice.random() < 0.7)
            if self.dice.random() < 0.3:
                self._hear(attempt, "job-of-a-forger", 1.0, self.dice.randbytes(32), is_believed=False)
            if attempt > 1 and self.dice.random() < 0.7:
                self._hear(attempt - 1, job.id, 5.0, self.dice.randbytes(32), is_believed=True)  # of an old attempt

    def _hear(self, attempt: int, job: str, after_s: float, event: bytes, *, is_believed: bool) -> None:
        told = {"attempt": attempt, "job": job, "event": event, "is_believed": is_believed}
        self._put("callback", told, max(0.0, after_s))

    async def _record_callback(self, attempt: int, job: str, event: bytes, *, is_believed: bool) -> None:
        """As the control plane does with what came to the right address."""
        signature = "valid" if is_believed else "absent"
        heard = ProviderCallback("plain", event, self.execution_id, attempt, self.clock.at(), 100, signature)
        is_new = await record_callback(self._app, heard, job_id=job, is_believed=is_believed)
        self.faults.happened["callback" if is_new else "callback again"] += 1

    def _attempt_of(self, token: str) -> int:
        for attempt in range(1, 20):
            if self._addresses.token("plain", self.execution_id, attempt) == token:
                return attempt
        raise AssertionError("a token that nobody made")

    # Around it.

    def _put(self, name: str, arguments: dict[str, Any], after_s: float, tries: int = 0) -> None:
        self._agreed += 1
        heapq.heappush(self._agenda, (self.clock.now_s + after_s, self._agreed, name, arguments, tries))

    async def _look(self) -> AsynchronousExecution:
        """At what is there now. An end is remembered; what was queued since the look before goes to the agenda."""
        row, queued = await self._observer.look(self.execution_id)
        for each in queued:
            after_s = 0.0 if each.at is None else each.at.timestamp() - self.clock.unix_ns() / 1e9
            self._put(each.task, each.arguments, max(0.0, after_s))
        if row.state.has_ended and (not self.ends or self.ends[-1] != row):
            self.ends.append(row)
        return row

    def _worker(self) -> tuple[ExecutionWork, ProviderJobs]:
        """A process that knows nothing of those before."""
        places = JobPlaces(lambda: self._view, _no_other_version)
        desk = JobDesk(places=places, send=self.send, addresses=self._addresses, dice=self.dice.random)
        inputs = JobInputs(self.vault, _deliver_nothing, desk.upload)
        money = JobMoney(places=places, inputs=inputs, executions=self.executions)
        steps = JobSteps(
            executions=self.executions,
            money=money,
            vault=self.vault,
            clock=self.clock,
            dice=self.dice.random,
            again_s=0.0,  # a pause of the real clock, in which nothing happens here
        )
        jobs = ProviderJobs(steps, desk, inputs, self.shelf)
        work = ExecutionWork(
            executions=self.executions,
            news=ExecutionNews(""),
            vault=self.vault,
            view=lambda: self._view,
            calls=self._calls,
            files=NoFiles(),
            jobs=jobs,
            clock=self.clock,
            dice=self.dice.random,
            ended=Counter("", "", ("model", "outcome", "code")),
            started_after=Histogram("", ""),
        )
        return work, jobs


def _habits(dice: Random) -> Habits:
    return Habits(
        repeats_safely=dice.random() < 0.5,
        looks_up=dice.random() < 0.5,
        calls_back=dice.random() < 0.6,
        run_s=dice.choice((0.0, 1.0, 4.0, 40.0, 200.0, 2_000.0)),
        outcome=dice.choice(("done", "done", "done", "failed", "empty", "stuck")),
        trouble=dice.choice((0.0, 0.0, 0.2, 0.5)),
    )


def _view_of(habits: Habits) -> View:
    """The model `paint` at this provider, and `text`."""
    return _view(habits.repeats_safely, habits.looks_up, habits.calls_back)


@functools.cache
def _view(repeats_safely: bool, looks_up: bool, calls_back: bool) -> View:
    default = PLAIN.__class__(submit_path="", status_path="")
    told = {name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__}
    told = {name: value for name, value in told.items() if value != getattr(default, name)}
    for name, has_it in (
        ("idempotency_header", repeats_safely),
        ("look_up_path", looks_up),
        ("callback_field", calls_back),
    ):
        if not has_it:
            told.pop(name)
    provider = {"id": "plain", "kind": "http-job", "base_url": f"https://provider.test{PREFIX}"}
    deployment = {"provider": "plain", "mode": "callback" if calls_back else "poll", "cost": {"image": "30000"}}
    model = {
        "slug": "paint",
        "modality": "image",
        "context_window": 1,
        "max_output": 1,
        "price": {"image": "40000"},
        "deployments": [deployment | {"upstream_model": "acme/paint"}],
    }
    text: dict[str, Any] = {"slug": "text", "modality": "chat", "context_window": 8_000, "max_output": 1_000}
    price = {"input": "1", "output": "4"}
    text |= {"price": price, "deployments": [{"provider": "alpha", "upstream_model": "m", "cost": price}]}
    alpha = {"id": "alpha", "kind": "openai", "base_url": "https://alpha.test/v1", "api_keys": ["env:KEY"]}
    providers = [provider | {"api_keys": ["env:KEY"], "job": told}, alpha]
    document: dict[str, Any] = {"providers": providers, "models": [model, text]}
    return build_view(read_catalogue(document), 1)


async def _deliver_nothing(org_id: bytes, file_id: bytes, how: str, until_s: int) -> str:
    raise Refusal(ErrorCode.FILE_NOT_FOUND)


async def _no_other_version(version: int) -> View | None:
    return None
