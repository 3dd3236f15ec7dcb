"""A control plane with models of every kind and some money, for tests of executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.control.plane import Answer, Plane
from tests.policy.samples import minimal_model
from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import output_key
from waypost.kit import ids
from waypost.kit.values import replace
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import read_catalogue
from waypost.storage.asynchronous_executions import Ending
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.wire.canonical import Usage

CREDIT_NANOS = 10_000_000_000
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
TOLD = {"provider": "alpha", "upstream_model": "m", "mode": "stream", "cost": {"input": "1", "output": "1"}}
IMAGE_PRICE = {"image": "20000"}  # two cents each


def models() -> Catalogue:
    providers = [
        {"id": "alpha", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_keys": ["env:K"]},
        {"id": "repl", "kind": "replicate", "base_url": "http://127.0.0.1:1", "api_keys": ["env:K"]},
    ]
    films = [{"provider": "repl", "upstream_model": "acme/film", "mode": "callback", "cost": {"second": "50000"}}]
    drawn = [{"provider": "alpha", "upstream_model": "m", "cost": {"image": "10000"}}]
    own = {
        "type": "object",
        "required": ["scene"],
        "additionalProperties": False,
        "properties": {"scene": {"type": "string"}, "source": {"type": "string", "format": "waypost-file"}},
    }
    return read_catalogue(
        {
            "providers": providers,
            "models": [
                minimal_model("text-1", context_window=8_000, max_output=1_000, price={"input": "1", "output": "4"}),
                minimal_model("tale-1", deployments=[TOLD]),
                minimal_model("vectors-1", modality="embedding", price={"input": "1"}, deadline_s=30),
                minimal_model("painter-1", modality="image", price=IMAGE_PRICE, deployments=drawn),
                minimal_model("film-1", modality="video", price={"second": "100000"}, deployments=films),
                minimal_model("stage-1", modality="video", price={"second": "1"}, deployments=films, input_schema=own),
            ],
        }
    )


@asynccontextmanager
async def executing(database: str, directory: Path) -> AsyncIterator[Plane]:
    async with Plane(database, directory, models()) as plane:
        await plane.operator.add_credit(plane.org_id, CREDIT_NANOS, "credit")
        yield plane


async def created(plane: Plane, model: str = "text-1", body_input: Any = None, **fields: Any) -> Answer:
    """The answer to a creation."""
    headers = fields.pop("headers", {})
    key = fields.pop("key", None)
    body = {"model": model, "input": CHAT if body_input is None else body_input} | fields
    return await plane.ask("POST", "/v1/executions", body, headers=headers, key=key)


async def newest(plane: Plane) -> str:
    """The id of the newest one, as soon as there is one."""
    async with asyncio.timeout(20):
        while True:
            rows = await plane.rows("SELECT id FROM asynchronous_execution ORDER BY id DESC LIMIT 1")
            if rows:
                return ids.text("exec", rows[0][0].bytes)
            await asyncio.sleep(0.01)


async def row_of(plane: Plane, shown_id: str) -> AsynchronousExecution:
    found = await plane.executions.find(ids.parse("exec", shown_id))
    assert found is not None
    return found


async def step(plane: Plane, shown_id: str, state: State, mode: Mode = Mode.SYNC) -> None:
    """Let it go on as the worker would."""
    before = await row_of(plane, shown_id)
    after = replace(before, state=state, mode=mode, started_at=datetime.now(UTC), attempt=1)
    assert await plane.executions.step(before, after) is not None


async def finish(plane: Plane, shown_id: str, output: bytes | None = None, files: tuple[OutputFile, ...] = ()) -> None:
    """Let it succeed for 5,000 nano, with its result in the vault for an hour."""
    before = await row_of(plane, shown_id)
    now = datetime.now(UTC)
    if output is not None:
        await plane.vault.put(output_key(before.id, before.attempt), output, 3_600)
    after = replace(
        before,
        state=State.SUCCEEDED,
        mode=Mode.SYNC,
        ended_at=now,
        output_files=files,
        result_until=None if output is None else now.replace(year=now.year + 1),
    )
    ending = Ending(5_000, Usage(input_tokens=3, output_tokens=2))
    assert await plane.executions.step(before, after, ending=ending) is not None


async def fail(plane: Plane, shown_id: str, code: str) -> None:
    before = await row_of(plane, shown_id)
    after = replace(before, state=State.FAILED, ended_at=datetime.now(UTC), error_code=code)
    assert await plane.executions.step(before, after, ending=Ending()) is not None


async def is_untouched(plane: Plane) -> bool:
    """Nothing is stored of what was refused, and nothing is held."""
    balance = (await plane.ask("GET", "/v1/balance")).json
    counts = await plane.rows(
        "SELECT (SELECT count(*) FROM asynchronous_execution) + (SELECT count(*) FROM long_hold)"
        " + (SELECT count(*) FROM procrastinate_jobs) + (SELECT count(*) FROM idempotency_key)"
    )
    return (balance["available_nanos"], counts, plane.vault.values) == (str(CREDIT_NANOS), [(0,)], {})
