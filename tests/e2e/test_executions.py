"""Executions that nobody waits for, on the whole product: supervisor, gateways, control, vault, database, simulator."""

from __future__ import annotations

import asyncio
import os
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import COST, UPSTREAM_MODEL, deployment, eventually, model, provider
from tests.e2e.supervised import Supervised
from waypost.simulator import Simulator
from waypost.storage.api_keys import Limits
from waypost.storage.ledger_check import LedgerTotals, check_ledger
from waypost.storage.pool import Pool
from waypost.storage.roles import Role

CANARY = "canary-5e1f-of-a-prompt"
VECTORS, VECTORS_COST = "vectors-upstream-1", {"input": "0.05"}
PAINTER, PAINTER_COST = "painter-upstream-1", {"image": "10000"}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "EXPIRED")
TEXT = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 50}


class Executing(Supervised):
    async def _set_up(self) -> None:
        self._document = document(self.sim)
        await super()._set_up()
        self.sim.set_prices({UPSTREAM_MODEL: COST, VECTORS: VECTORS_COST, PAINTER: PAINTER_COST})

        async def is_there() -> bool:
            return (await self.request("GET", "/v1/executions")).status == 200

        await eventually(is_there)

    async def create(self, model_slug: str, body_input: Any, status: int = 202, **headers: str) -> Any:
        body = {"model": model_slug, "input": body_input, "metadata": {"note": CANARY}}
        answer = await self.request("POST", "/v1/executions", body, headers=headers)
        assert answer.status == status, answer.body
        return answer.json

    async def ended(self, execution_id: str) -> Any:
        shown: dict[str, Any] = {}

        async def has_ended() -> bool:
            shown.update((await self.request("GET", f"/v1/executions/{execution_id}")).json)
            return shown["status"] in ENDED

        await eventually(has_ended)
        return shown

    async def books_in_order(self) -> LedgerTotals:
        await eventually(self._is_settled)
        pool = Pool(self.database, Role.APP, size=1)
        checked = await check_ledger(pool)
        await pool.close()
        assert checked.violations == ()
        assert checked.totals.held_nanos == 0
        return checked.totals

    async def costs_are_booked(self) -> None:
        """The simulator's bill is in the books, which the gateway writes in batches. Raises TimeoutError."""

        async def are_booked() -> bool:
            return await self.rows("SELECT coalesce(sum(cogs), 0)::bigint FROM settlement") == [(self.sim.bill.nanos,)]

        await eventually(are_booked)

    async def _is_settled(self) -> bool:
        return not (await self.operator.balance(self.org_id)).held_nanos


def document(sim: Simulator) -> dict[str, Any]:
    styles = ("alpha", "beta")
    return {
        "providers": [provider(sim, f"{style}-provider", style) for style in styles],
        "models": [
            model("swift-1", *(deployment(f"{style}-provider") for style in styles)),
            model(
                "vectors-1",
                {**deployment("alpha-provider", VECTORS), "cost": VECTORS_COST},
                modality="embedding",
                price={"input": "0.10"},
                context_window=512,
            ),
            model(
                "painter-1",
                {**deployment("alpha-provider", PAINTER), "cost": PAINTER_COST},
                modality="image",
                price={"image": "20000"},
            ),
        ],
    }


async def test_texts_and_vectors_are_made_paid_for_and_nowhere_but_in_the_vault(database: str, tmp_path: Path) -> None:
    async with Executing(database, tmp_path, workers=1) as stack:
        made = [await stack.create("swift-1", TEXT) for _ in range(5)]
        vectors = await stack.create("vectors-1", {"input": [CANARY, "two"]})
        shown = [await stack.ended(each["id"]) for each in (*made, vectors)]

        assert [each["status"] for each in shown] == ["COMPLETED"] * 6
        for each in shown[:5]:
            assert each["output"]["text"]
            assert each["output"]["choices"][0]["message"]["role"] == "assistant"
            assert each["usage"]["output_tokens"] > 0
            assert each["metadata"] == {"note": CANARY}
        assert len(shown[5]["output"]["data"]) == 2
        result = (await stack.request("GET", f"/v1/executions/{vectors['id']}/result")).json
        assert result["output"] == shown[5]["output"]

        await stack.costs_are_booked()
        assert (await stack.books_in_order()).charged_nanos == paid(shown)
        usage = (await stack.request("GET", "/v1/usage")).json
        assert usage["total"]["charge_nanos"] == str(paid(shown))
        assert usage["total"]["requests"] == 6
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        for (table,) in await stack.rows(tables):
            assert CANARY not in str(await stack.rows(f"SELECT t::text FROM {table} AS t")), table
        assert CANARY.encode() not in stack.log_text


async def test_images_become_files_of_the_organisation_and_can_be_worked_on(database: str, tmp_path: Path) -> None:
    async with Executing(database, tmp_path, workers=1) as stack:
        made = await stack.create("painter-1", {"prompt": CANARY, "n": 2})
        assert (made["estimated_cost"], made["hold_amount"]) == ("0.04", "0.048")
        shown = await stack.ended(made["id"])
        assert (shown["status"], shown["cost"]) == ("COMPLETED", "0.04"), shown
        images = shown["output"]["images"]
        assert len(images) == 2
        assert shown["result"]["file_id"] == images[0]["file_id"]
        assert all(each["width"] > 0 and each["format"] == "png" for each in images)
        got = await stack.request("GET", f"/v1/files/{images[1]['file_id']}/download")
        assert got.status == 200
        assert got.body.startswith(b"\x89PNG")

        part = {"type": "image_url", "image_url": {"url": images[0]["file_id"]}}
        seen = await stack.create("swift-1", {"messages": [{"role": "user", "content": [part]}]})
        assert (await stack.ended(seen["id"]))["status"] == "COMPLETED"
        foreign = {"messages": [{"role": "user", "content": [part | {"image_url": {"url": "file_" + made["id"][5:]}}]}]}
        assert (await stack.create("swift-1", foreign, 400))["error"]["code"] == "FILE_NOT_FOUND"
        await stack.costs_are_booked()
        await stack.books_in_order()


async def test_who_prefers_to_wait_gets_the_end_in_the_same_connection(database: str, tmp_path: Path) -> None:
    async with Executing(database, tmp_path, workers=1) as stack:
        shown = await stack.create("swift-1", TEXT, 200, prefer="wait=20")
        assert (shown["status"], shown["result"]) == ("COMPLETED", None)
        assert shown["output"]["text"]


async def test_states_are_streamed_through_the_gateway(database: str, tmp_path: Path) -> None:
    async with Executing(database, tmp_path, workers=1) as stack:
        made = await stack.create("swift-1", TEXT)
        answer = await asyncio.wait_for(stack.request("GET", f"/v1/executions/{made['id']}/events"), 30)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.chunks[-1]["status"] == "COMPLETED"


async def test_a_keys_limit_counts_executions_and_not_looks_at_them(database: str, tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=3)
    async with Executing(database, tmp_path, workers=1, limits=limits) as stack:
        remaining = []
        for _ in range(3):
            body = {"model": "swift-1", "input": TEXT}
            answer = await stack.request("POST", "/v1/executions", body)
            assert answer.status == 202
            remaining.append(answer.headers["x-ratelimit-remaining"])
        assert remaining == ["2", "1", "0"]
        refused = await stack.request("POST", "/v1/executions", body)
        assert (refused.status, refused.json["error"]["code"]) == (429, "RATE_LIMITED")
        assert "retry-after" in refused.headers
        for spelled in ("/v1/%65xecutions", "/%761/executions", "/v1/executions/", "//v1/executions"):
            assert (await stack.request("POST", spelled, body)).status == 404, spelled
        looked = await stack.request("GET", f"/v1/executions/{answer.json['id']}")
        assert (looked.status, looked.headers["x-ratelimit-remaining"]) == (200, "0")


@pytest.mark.slow
async def test_a_lost_control_process_loses_no_execution(database: str, tmp_path: Path) -> None:
    """Killed in the middle: what it had accepted is done by the next one, charged once."""
    async with Executing(database, tmp_path, workers=1) as stack:
        made = [await stack.create("swift-1", TEXT) for _ in range(20)]
        pid = [event["pid"] for event in stack.events("ProcessStarted") if event["process"] == "control"][-1]
        os.kill(int(pid), signal.SIGKILL)
        shown = [await patiently(stack, each["id"]) for each in made]
        assert [each["status"] for each in shown] == ["COMPLETED"] * 20
        assert (await stack.books_in_order()).charged_nanos == paid(shown)


def paid(shown: list[dict[str, Any]]) -> int:
    """Nano-USD, of what the executions say that they cost."""
    return int(sum(Decimal(each["cost"]) for each in shown) * 10**9)


async def patiently(stack: Executing, execution_id: str) -> Any:
    """A process that is gone is missed after fifteen seconds."""
    async with asyncio.timeout(60):
        while True:
            answer = await stack.request("GET", f"/v1/executions/{execution_id}")
            if answer.status == 200 and answer.json["status"] in ENDED:
                return answer.json
            await asyncio.sleep(0.2)
