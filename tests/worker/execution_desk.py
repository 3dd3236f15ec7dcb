"""Executions with a worker on a real database: its gateway, vault and file store are fakes that a test directs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.control.execution_plane import models
from tests.storage.asynchronous import received
from tests.storage.books import IDS, Books, open_books
from tests.stores.vaults import FakeVault
from waypost.executions.lifecycle import State
from waypost.executions.payload_keys import input_key, output_key
from waypost.kit.clock import SystemClock
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.snapshot import build_view
from waypost.storage.asynchronous_executions import Ending, Executions
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.telemetry.metrics import Counter, Histogram
from waypost.wire.canonical import Usage
from waypost.wire.model_call import ModelCall
from waypost.worker.executions import ExecutionWork
from waypost.worker.gateways import InferenceAnswer

CREDIT = 1_000_000_000
PRICE = 5_000
INPUTS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "embedding": {"input": "some words"},
    "image": {"prompt": "a cat", "n": 2},
    "video": {"prompt": "waves"},
}
ANSWERS: dict[str, Any] = {
    "chat": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}], "usage": {}},
    "embedding": {"data": [{"index": 0, "embedding": [0.5, 0.25]}]},
    "image": {"data": [{"b64_json": "aW1hZ2Uw"}, {"b64_json": "aW1hZ2Ux"}]},
}
MODELS = {"chat": "text-1", "embedding": "vectors-1", "image": "painter-1", "video": "film-1"}


def answered(modality: str, charge_nanos: int = PRICE) -> InferenceAnswer:
    body = json.dumps(ANSWERS[modality]).encode()
    return InferenceAnswer(200, body, 1, True, usage=Usage(input_tokens=3), charge_nanos=charge_nanos)


def refused(code: ErrorCode, attempts: int = 1) -> InferenceAnswer:
    return InferenceAnswer(code.status, b"{}", attempts, True, code=code.name, is_retryable=code.is_retryable)


def full(attempts: int = 0, asked_s: float | None = None) -> InferenceAnswer:
    """Every provider is full or rests: nothing was sent."""
    code = ErrorCode.MODEL_OVERLOADED
    return InferenceAnswer(
        code.status, b"{}", attempts, False, code=code.name, is_retryable=True, retry_after_s=asked_s
    )


class FakeGateway:
    """Answers with what `answer` gives for the how-manieth call it is."""

    def __init__(self) -> None:
        self.calls: list[tuple[ModelCall, str, dict[str, Any]]] = []
        self.dropped = 0
        self.answer: Callable[[int], Awaitable[InferenceAnswer]] | None = None
        self.is_called = asyncio.Event()

    async def call(self, call: ModelCall, path: str, body: bytes, *, timeout_s: float) -> InferenceAnswer:
        assert timeout_s > 0
        self.calls.append((call, path, json.loads(body)))
        self.is_called.set()
        try:
            assert self.answer is not None
            return await self.answer(len(self.calls))
        except asyncio.CancelledError:
            self.dropped += 1
            raise

    def answers(self, *given: InferenceAnswer) -> None:
        """These one after the other, and the last one ever after."""

        async def answer(number: int) -> InferenceAnswer:
            return given[min(number, len(given)) - 1]

        self.answer = answer

    def hangs(self) -> None:
        async def answer(_: int) -> InferenceAnswer:
            await asyncio.Event().wait()
            raise AssertionError

        self.answer = answer


class FakeFiles:
    """`worker.executions.StoredFiles` in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[bytes, int], bytes] = {}

    async def as_data_url(self, org_id: bytes, file_id: bytes) -> str:
        return f"data:image/png;base64,{file_id.hex()}"

    async def keep_output(self, execution: AsynchronousExecution, place: int, content: bytes) -> OutputFile:
        self.kept[execution.id, place] = content
        return OutputFile(bytes(15) + bytes((place,)), "image/png", len(content), 8, 8)


class Desk:
    def __init__(self, database: str, books: Books, **settings: Any) -> None:
        self.books = books
        self.gateway = FakeGateway()
        self.vault = FakeVault()
        self.files = FakeFiles()
        self.pool = Pool(database, Role.SETTLE, size=8)
        self.executions = Executions(self.pool, IDS)
        self.news = ExecutionNews(database)
        self.ended = Counter("", "", ("model", "outcome", "code"))
        view = build_view(models(), 1)
        self.work = ExecutionWork(
            executions=self.executions,
            news=self.news,
            vault=self.vault,
            view=lambda: view,
            calls=self.gateway,
            files=self.files,
            jobs=None,
            clock=SystemClock(),
            dice=lambda: 0.0,
            ended=self.ended,
            started_after=Histogram("", ""),
            **settings,
        )

    async def created(self, modality: str = "chat", **changes: Any) -> AsynchronousExecution:
        org_id = changes.pop("org_id", None) or await self.books.org(CREDIT)
        body_input = changes.pop("body_input", INPUTS[modality])
        now = datetime.now(UTC)
        times = {"accepted_at": now, "expires_at": now + timedelta(minutes=5)}
        asked = received(org_id, **({"model": MODELS[modality], "modality": modality} | times | changes))
        await self.vault.put(input_key(asked.id), json.dumps(body_input).encode(), 300)
        made, _ = await self.executions.create(asked)
        return made

    async def run(self, execution: AsynchronousExecution) -> AsynchronousExecution:
        """Its job, to the end; how it is then."""
        async with asyncio.timeout(30):
            await self.work.start(execution.id.hex())
        return await self.now(execution)

    async def now(self, execution: AsynchronousExecution) -> AsynchronousExecution:
        found = await self.executions.find(execution.id)
        assert found is not None
        return found

    async def charged(self) -> int:
        """In books that are in order, where nothing is held any more."""
        totals = await self.books.totals()
        assert totals.held_nanos == 0
        return totals.charged_nanos

    def output(self, execution: AsynchronousExecution) -> Any:
        kept = self.vault.values.get(output_key(execution.id, execution.attempt))
        return None if kept is None else json.loads(kept[0])

    def has_input(self, execution: AsynchronousExecution) -> bool:
        return input_key(execution.id) in self.vault.values


@asynccontextmanager
async def open_desk(database: str, **settings: Any) -> AsyncIterator[Desk]:
    async with open_books(database) as books:
        desk = Desk(database, books, **settings)
        listening = asyncio.ensure_future(desk.news.run())
        await asyncio.sleep(0.05)
        try:
            yield desk
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await desk.pool.close()


async def cancel(desk: Desk, execution: AsynchronousExecution) -> bool:
    """As its caller does; whether it was in time."""
    before = await desk.now(execution)
    if before.state.has_ended:
        return False
    after = replace(before, state=State.CANCELED, ended_at=datetime.now(UTC))
    return await desk.executions.step(before, after, ending=Ending()) is not None
