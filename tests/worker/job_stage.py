"""Executions at the simulator's providers of jobs, with a database, a vault in memory, and a clock turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from psycopg import AsyncConnection

from tests.simulator.jobs_client import PLAIN, asked
from tests.storage.asynchronous import received
from tests.storage.books import IDS, Books, open_books
from tests.stores.vaults import FakeVault
from waypost.executions.callback_address import CallbackAddresses
from waypost.executions.payload_keys import input_key
from waypost.executions.provider_job import WRONG_TYPE_TRIES_MAX
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import View, build_view
from waypost.simulator import Simulator
from waypost.storage.asynchronous_executions import START, Ending, Executions
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent, Sent
from waypost.worker.job_desk import JobDesk
from waypost.worker.job_input import Content, JobInputs
from waypost.worker.job_money import JobMoney
from waypost.worker.job_places import JobPlaces
from waypost.worker.job_steps import JobSteps, OutputNotKept, OutputsAway, OutputUnfit
from waypost.worker.provider_jobs import ProviderJobs

CREDIT = 10_000_000_000
KINDS = {"replicate": "replicate", "fal": "fal", "plain": "http-job"}
PRICES = {"image": "40000", "second": "60000", "request": "1000"}
COSTS = {"image": "30000", "second": "2000", "request": "0"}


def catalogue(sim: Simulator, *styles: str, mode: str = "poll", **deployment: Any) -> Catalogue:
    """The models `paint` and `clip` at these providers, the first of the best priority."""
    providers, deployments = [], []
    for number, style in enumerate(styles, 1):
        provider: dict[str, Any] = {"id": style, "kind": KINDS[style], "base_url": sim.base_url(style)}
        provider["api_keys"] = ["env:KEY"]
        if style == "plain":
            default = PLAIN.__class__(submit_path="", status_path="")
            fields = {name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__}
            provider["job"] = {name: value for name, value in fields.items() if value != getattr(default, name)}
        providers.append(provider)
        deployments.append({"provider": style, "priority": number, "mode": mode, "cost": COSTS} | deployment)
    models = [
        {
            "slug": slug,
            "modality": modality,
            "context_window": 1,
            "max_output": 1,
            "price": PRICES,
            "deployments": [each | {"upstream_model": f"acme/{slug}"} for each in deployments],
        }
        for slug, modality in (("paint", "image"), ("clip", "video"))
        if deployments
    ]
    return read_catalogue({"providers": providers, "models": models})


class Turned:
    """A clock that is set on by hand."""

    def __init__(self) -> None:
        self.on_s = 0.0

    def unix_ns(self) -> int:
        return IDS._now_ns() + int(self.on_s * 1e9)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time() + self.on_s


class Shelf:
    """Keeps outputs by fetching them from the simulator; `fails` so often."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self.kept: dict[tuple[bytes, int], OutputFile] = {}
        self.fails = 0
        self.is_away: Callable[[], bool] = lambda: False
        self.tries = 0
        self.duration_ms = 0  # that each output measures

    async def rehost(self, execution: AsynchronousExecution, index: int, address: str) -> OutputFile:
        self.tries += 1
        if self.is_away():
            raise OutputsAway
        if self.fails:
            self.fails -= 1
            raise OutputNotKept
        heard = await asked(self._sim, "GET", address.removeprefix(self._sim.url))
        if heard.status != 200:
            raise OutputNotKept
        if heard.body.startswith(b"<"):
            raise OutputUnfit(WRONG_TYPE_TRIES_MAX)
        measured = {"duration_ms": self.duration_ms}
        file = OutputFile(IDS.new(), heard.headers["content-type"], len(heard.body), **measured)
        return self.kept.setdefault((execution.id, index), file)


class Carrier:
    """A gateway's errands, without a gateway. `before` may answer in its place."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self.errands: list[Errand] = []
        self.before: Callable[[Errand], Sent | None] = lambda _: None
        self.after: Callable[[Errand, Sent], Sent] = lambda _, sent: sent

    async def send(self, errand: Errand) -> Sent:
        self.errands.append(errand)
        answer = self.before(errand)
        if answer is not None:
            return answer
        lines = f"Authorization: {errand.credential_scheme} k\r\nConnection: close\r\n"
        lines += "".join(f"{name}: {value}\r\n" for name, value in errand.headers)
        try:
            heard = await asked(self._sim, errand.method, errand.url, errand.body, lines)
        except ConnectionRefusedError:
            return NotSent("connect_refused")
        if not heard.raw:
            return Ambiguous("reset", credential="key")
        headers = {name.encode(): value.encode() for name, value in heard.headers.items()}
        return self.after(errand, Answered(heard.status, headers, heard.body, "key"))

    def sent_to(self, style: str) -> list[str]:
        return [f"{each.method} {each.url}" for each in self.errands if each.provider == style]


class Stage:
    def __init__(self, sim: Simulator, books: Books, settling: Pool, public_url: str | None) -> None:
        self.sim = sim
        self.books = books
        self.clock = Turned()
        self.vault = FakeVault()
        self.shelf = Shelf(sim)
        self.carrier = Carrier(sim)
        self.announced: list[str] = []
        self.executions = Executions(settling, IDS, self._announce)
        self.files: dict[str, str] = {}
        self.needed_until_s = 0
        self.versions: dict[int, Catalogue] = {}
        self.view = build_view(Catalogue(), 1)
        self.addresses = CallbackAddresses(b"s" * 32, lambda: public_url)
        self.jobs = self.worker()
        self.org_id = b""

    def worker(self) -> ProviderJobs:
        """Another one knows nothing that this one knew."""
        places = JobPlaces(self._view, self._earlier_view)
        desk = JobDesk(places=places, send=self.carrier.send, addresses=self.addresses, dice=lambda: 0.5)
        inputs = JobInputs(self.vault, self._deliver, desk.upload)
        money = JobMoney(places=places, inputs=inputs, executions=self.executions)
        steps = JobSteps(
            executions=self.executions,
            money=money,
            vault=self.vault,
            clock=self.clock,
            dice=lambda: 0.5,
            again_s=0.0,
        )
        self.steps = steps
        return ProviderJobs(steps, desk, inputs, self.shelf)

    def offer(self, *styles: str, **fields: Any) -> None:
        self.view = build_view(catalogue(self.sim, *styles, **fields), 1)

    async def execute(self, model: str = "paint", prompt: str = "hi", **fields: Any) -> bytes:
        """A new execution; its id."""
        changes = fields.pop("changes", {})
        now = datetime.fromtimestamp(self.clock.unix_ns() / 1e9, UTC)
        asked_for = received(
            self.org_id,
            model=model,
            modality="image" if model == "paint" else "video",
            hold_nanos=1_000_000_000,
            accepted_at=now,
            expires_at=now + timedelta(hours=1),
            **changes,
        )
        await self.vault.put(input_key(asked_for.id), msgspec.json.encode({"prompt": prompt, **fields}), 3600)
        made, _ = await self.executions.create(asked_for)
        return made.id

    async def row(self, execution_id: bytes) -> AsynchronousExecution:
        found = await self.executions.find(execution_id)
        assert found is not None
        return found

    async def queued(self) -> list[tuple[str, dict[str, Any]]]:
        async with self.books.app.system() as connection:
            rows = await connection.execute("SELECT task_name, args FROM procrastinate_jobs ORDER BY id")
            return [(row[0], row[1]) for row in await rows.fetchall()]

    async def work(self, *, until: Callable[[AsynchronousExecution], bool] | None = None, jobs_max: int = 60) -> None:
        """Run the queue's jobs, the earliest first, turning the clock to each; until the row is so, or none is left."""
        for _ in range(jobs_max):
            task = await self.next_job()
            if task is None:
                return
            name, arguments = task
            await self.run(name, arguments)
            if until is not None and until(await self.row(bytes.fromhex(arguments["execution"]))):
                return
        raise AssertionError("it goes on and on")

    async def next_job(self) -> tuple[str, dict[str, Any]] | None:
        async with self.books.app.system() as connection:
            found = await (
                await connection.execute(
                    "DELETE FROM procrastinate_jobs WHERE id = (SELECT id FROM procrastinate_jobs"
                    " ORDER BY coalesce(scheduled_at, '-infinity'), id LIMIT 1) RETURNING task_name, args, scheduled_at"
                )
            ).fetchone()
        if found is None:
            return None
        if found[2] is not None:
            ahead_s = found[2].timestamp() - self.clock.unix_ns() / 1e9
            self.clock.on_s += max(0.0, ahead_s)
        await self._settled()
        return found[0], found[1]

    async def run(self, name: str, arguments: Mapping[str, Any]) -> None:
        if name == START:
            await self.jobs.start(await self.row(bytes.fromhex(arguments["execution"])))
        else:
            await self.jobs.handlers()[name](**arguments)

    async def ended(self, execution_id: bytes) -> AsynchronousExecution:
        await self.work()
        row = await self.row(execution_id)
        assert row.state.has_ended, row.state
        return row

    async def charge(self, execution_id: bytes) -> int:
        return (await self.books.one("SELECT charge FROM execution WHERE id = %s", _uuid(execution_id)))[0]  # type: ignore[return-value]

    async def costs(self) -> list[tuple[int, int]]:
        """(attempt's outcome, cogs) of every settlement."""
        async with self.books.app.system() as connection:
            rows = await connection.execute("SELECT outcome, cogs FROM settlement ORDER BY attempt_id")
            return [(row[0], row[1]) for row in await rows.fetchall()]

    async def _settled(self) -> None:
        """Until every job at the simulator that will end has: queue and run are short."""
        for _ in range(200):
            if all(job.has_ended or job.directives.stuck for job in self.sim.jobs):
                return
            await asyncio.sleep(0.005)

    async def _announce(
        self, connection: AsyncConnection, execution: AsynchronousExecution, event: str, ending: Ending | None
    ) -> None:
        self.announced.append(event)

    async def _deliver(self, org_id: bytes, file_id: bytes, how: str, until_s: int) -> str | Content:
        self.needed_until_s = until_s
        name = file_id.hex()
        if name not in self.files:
            raise Refusal(ErrorCode.FILE_NOT_FOUND)
        if how == "passthrough":
            return Content(self.files[name].encode(), "image/png")
        return f"{how}:{self.files[name]}"

    def _view(self) -> View:
        return self.view

    async def _earlier_view(self, version: int) -> View | None:
        catalogue = self.versions.get(version)
        return None if catalogue is None else build_view(catalogue, version)


def _uuid(raw: bytes) -> str:
    return raw.hex()


@asynccontextmanager
async def open_stage(conninfo: str, *styles: str, public_url: str | None = None, **fields: Any) -> AsyncIterator[Stage]:
    settling = Pool(conninfo, Role.SETTLE, size=4)
    async with Simulator() as sim, open_books(conninfo) as books:
        stage = Stage(sim, books, settling, public_url)
        stage.offer(*styles, **fields)
        stage.org_id = await books.org(CREDIT)
        try:
            yield stage
        finally:
            await settling.close()
