"""Jobs at providers on the whole product: supervisor, gateway, control, vault, file store, database, simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import _url, eventually
from tests.e2e.supervised import Supervised
from tests.ports import reserved_port
from tests.simulator.jobs_client import PLAIN
from waypost.kit.ids import parse
from waypost.simulator.job_callback import PLAIN_SECRET, WEBHOOK_SECRET
from waypost.storage.ledger_check import LedgerTotals, check_ledger
from waypost.storage.pool import Pool
from waypost.storage.roles import Role

CANARY = "canary-91c4-of-a-prompt"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "EXPIRED")
PRICE = {"image": "40000", "second": "60000"}
COST = {"image": "30000", "second": "2000"}
KINDS = {"replicate": "replicate", "fal": "fal", "plain": "http-job"}
MODELS = {"paint": "image", "clip": "video", "voice": "audio"}


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(each) for each in value) + "]"
    return json.dumps(value)


class Working(Supervised):
    """The product with a configuration file: one provider of jobs of the simulator, in one mode."""

    def __init__(self, database: str, directory: Path, style: str, mode: str, **options: Any) -> None:
        secrets = {"REPLICATE_SECRET": WEBHOOK_SECRET, "PLAIN_SECRET": PLAIN_SECRET}
        super().__init__(database, directory, workers=1, environment=secrets, **options)
        self._config = directory / "waypost.toml"
        self._style = style
        self._mode = mode
        self._reserved = contextlib.ExitStack()
        self._public_port = self._reserved.enter_context(reserved_port())

    async def __aexit__(self, *details: object) -> None:
        with self._reserved:
            await super().__aexit__(*details)

    async def apply(self, wanted: Any) -> None:
        """The file is the catalogue."""

    async def start(self) -> None:
        self.port = self._public_port
        self._config.write_text(self._written())
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "up", "--port", str(self.port), "--metrics-port", "0", "--config", str(self._config)),
            *("--data-dir", str(self.data_dir), "--database-url", _url(self.database)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        self._reading = asyncio.ensure_future(self._read_log(asyncio.get_running_loop().create_future()))
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            await self._process.stdout.readline()

        async def is_there() -> bool:
            return (await self.request("GET", "/v1/executions")).status == 200

        await eventually(is_there)

    def _written(self) -> str:
        style, sim = self._style, self.sim
        provider: dict[str, Any] = {
            "id": style,
            "kind": KINDS[style],
            "base_url": sim.base_url(style),
            "api_keys": ["env:TEST_PROVIDER_KEY"],
        }
        if style == "replicate":
            provider["webhook_secrets"] = ["env:REPLICATE_SECRET"]
        elif style == "fal":
            provider["jwks_url"] = f"{sim.url}/fal/.well-known/jwks.json"
        else:
            provider["webhook_secrets"] = ["env:PLAIN_SECRET"]
            fields = {name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__}
            provider["job"] = {name: value for name, value in fields.items() if value not in ("", {})}
        lines = ["[server]", f'public_url = "http://127.0.0.1:{self.port}"', "[egress]", 'allow = ["127.0.0.1"]']
        lines += ["[[providers]]", *(f"{name} = {toml(value)}" for name, value in provider.items())]
        for slug, modality in MODELS.items():
            model: dict[str, Any] = {"slug": slug, "modality": modality, "context_window": 1, "max_output": 1}
            deployment = {"provider": style, "upstream_model": f"acme/{slug}", "mode": self._mode, "cost": COST}
            lines += ["[[models]]", *(f"{name} = {toml(value)}" for name, value in model.items())]
            lines += [f"price = {toml(PRICE)}", f"deployments = [{toml(deployment)}]"]
        return "\n".join(lines) + "\n"

    async def create(self, model: str, prompt: str = CANARY, **fields: Any) -> str:
        body = {"model": model, "input": {"prompt": prompt, **fields}}
        answer = await self.request("POST", "/v1/executions", body)
        assert answer.status == 202, answer.body
        return str(answer.json["id"])

    async def shown(self, execution_id: str) -> Any:
        return (await self.request("GET", f"/v1/executions/{execution_id}")).json

    async def ended(self, execution_id: str) -> Any:
        shown: dict[str, Any] = {}

        async def has_ended() -> bool:
            shown.update(await self.shown(execution_id))
            return shown["status"] in ENDED

        await eventually(has_ended, timeout_s=60)
        return shown

    async def books_in_order(self) -> LedgerTotals:
        pool = Pool(self.database, Role.APP, size=1)
        checked = await check_ledger(pool)
        await pool.close()
        assert checked.violations == ()
        assert checked.totals.held_nanos == 0
        return checked.totals

    def kill_control(self) -> None:
        os.kill(self.running["control"], signal.SIGKILL)


async def nothing_was_told(stack: Working, *shown: Any) -> None:
    """No prompt, no address of the provider: not in the database, the log, or an answer."""
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    for canary in (CANARY, f"127.0.0.1:{stack.sim.port}/files"):
        for (table,) in await stack.rows(tables):
            assert canary not in str(await stack.rows(f"SELECT t::text FROM {table} AS t")), table
        assert canary.encode() not in stack.log_text
    for each in shown:
        assert str(stack.sim.port) not in json.dumps(each)
        assert "acme" not in json.dumps(each)


@pytest.mark.slow
@pytest.mark.parametrize(("style", "mode"), [("replicate", "callback"), ("fal", "poll"), ("plain", "callback")])
async def test_pictures_films_and_sound_are_made_kept_and_paid_for_once(
    database: str, tmp_path: Path, style: str, mode: str
) -> None:
    async with Working(database, tmp_path, style, mode) as stack:
        billed = {"second": COST["second"]} if style == "replicate" else COST  # by the time that it computes alone
        stack.sim.set_prices({f"acme/{slug}": billed for slug in MODELS})
        pictures = await stack.create("paint", n=2)
        film = await stack.create("clip", duration=3)
        sound = await stack.create("voice", duration=2)
        shown = [await stack.ended(each) for each in (pictures, film, sound)]

        assert [each["status"] for each in shown] == ["COMPLETED"] * 3, shown
        assert [each["cost"] for each in shown] == ["0.08", "0.18", "0.12"]
        assert len(stack.sim.jobs) == 3
        assert [each["format"] for each in shown[0]["output"]["images"]] == ["png", "png"]
        file_id = shown[1]["result"]["file_id"]
        loaded = await stack.request("GET", f"/v1/files/{file_id}/download")
        assert loaded.body[4:8] == b"ftyp"

        totals = await stack.books_in_order()
        assert totals.charged_nanos == 380_000_000
        assert totals.cogs_nanos == stack.sim.bill.nanos
        if mode == "callback":
            rows = await stack.rows("SELECT provider, signature FROM provider_callback")
            assert rows == [(style, "valid")] * 3
        await nothing_was_told(stack, *shown)


@pytest.mark.slow
async def test_a_job_is_cancelled_at_its_provider(database: str, tmp_path: Path) -> None:
    async with Working(database, tmp_path, "fal", "poll") as stack:
        waited_for = await stack.request("POST", "/v1/images/generations", {"model": "paint", "prompt": "hi"})
        assert (waited_for.status, waited_for.json["error"]["param"]) == (400, "model")
        execution_id = await stack.create("clip", "sim: stuck=1")

        async def is_processing() -> bool:
            return bool(stack.sim.jobs) and (await stack.shown(execution_id))["status"] == "PROCESSING"

        await eventually(is_processing)
        answer = await stack.request("POST", f"/v1/executions/{execution_id}/cancel")
        assert answer.status in (200, 202)
        shown = await stack.ended(execution_id)
        assert (shown["status"], shown["cost"]) == ("CANCELLED", "0.00")
        assert stack.sim.jobs[0].is_cancel_asked
        assert (await stack.books_in_order()).charged_nanos == 0


@pytest.mark.slow
async def test_the_control_process_may_die_at_any_moment(database: str, tmp_path: Path) -> None:
    async with Working(database, tmp_path, "plain", "poll") as stack:
        made = [await stack.create("paint", f"sim: run_ms=200 queue_ms=50\n{CANARY}") for _ in range(4)]
        await asyncio.sleep(0.3)
        stack.kill_control()

        async def is_back() -> bool:
            return (await stack.request("GET", "/v1/executions")).status == 200

        await eventually(is_back, timeout_s=30)
        shown = [await stack.ended(each) for each in made]
        assert [each["status"] for each in shown] == ["COMPLETED"] * 4
        tokens = [job.token for job in stack.sim.jobs]
        assert len(tokens) == len(set(tokens)) == 4
        totals = await stack.books_in_order()
        assert totals.charged_nanos == 4 * 40_000_000
        await nothing_was_told(stack, *shown)


@pytest.mark.slow
async def test_mixroutes_video_task_runs_on_it(database: str, tmp_path: Path) -> None:
    async with Working(database, tmp_path, "replicate", "poll") as stack:
        made = await stack.request("POST", "/v1/video/generations", {"model": "clip", "prompt": "hi", "seconds": 2})
        task_id = made.json["task_id"]
        assert parse("exec", task_id)
        await stack.ended(task_id)
        told = (await stack.request("GET", f"/v1/video/generations/{task_id}")).json
        assert (told["status"], told["data"]["status"]) == ("succeeded", "SUCCESS")
        path = "/v1/" + told["url"].partition("/v1/")[2]
        film = await stack.request("GET", path, headers={"authorization": ""}, key="")
        assert (film.status, film.body[4:8]) == (200, b"ftyp")
