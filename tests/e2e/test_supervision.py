"""`up` with its own PostgreSQL and two gateways: whoever is killed comes back, and `doctor` names what happened."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.e2e.stack import COST, PRICE, PROVIDER_KEY, UPSTREAM_MODEL, ask, eventually, exchange
from waypost.app.operator import Operator
from waypost.app.settings import read_settings
from waypost.kit.clock import SystemClock
from waypost.simulator import Simulator
from waypost.storage.api_keys import Limits
from waypost.storage.embedded import EmbeddedPostgres
from waypost.stores.socket_vault import SocketVault
from waypost.supervisor.internal_http import get
from waypost.tenancy.api_key import Scope

KILLS = int(os.environ.get("WAYPOST_TEST_KILLS", "2"))
PATIENCE_S = 60.0
CATALOGUE = """
[[providers]]
id = "alpha"
kind = "openai"
base_url = "{url}"
api_keys = ["env:TEST_PROVIDER_KEY"]

[[models]]
slug = "swift-1"
modality = "chat"
context_window = 128000
max_output = 8192
price = {{ input = "{price[input]}", output = "{price[output]}" }}
[[models.deployments]]
provider = "alpha"
upstream_model = "{model}"
cost = {{ input = "{cost[input]}", output = "{cost[output]}" }}
"""


class Deployment:
    """A running `up`."""

    def __init__(self, base: Path, sim: Simulator) -> None:
        self.data_dir = base / "d"
        self.postgres = EmbeddedPostgres(self.data_dir / "postgres")
        self.config = base / "waypost.toml"
        self.config.write_text(
            CATALOGUE.format(url=sim.base_url("alpha"), price=PRICE, cost=COST, model=UPSTREAM_MODEL)
        )
        self.environment = {**os.environ, "TEST_PROVIDER_KEY": PROVIDER_KEY}
        self.log: list[dict[str, Any]] = []
        self.key = ""
        self.port = 0

    async def start(self) -> None:
        words = ("up", "--port", "0", "--metrics-port", "0", "--workers", "2")
        self.process = await self._run(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        self._reading = asyncio.ensure_future(self._read_log())
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            self.port = int((await self.process.stdout.readline()).rpartition(b":")[2])
        settings = read_settings(environment={}, data_dir=self.data_dir, config_path=self.config)
        operator = Operator(settings, self.postgres.conninfo(), SystemClock())
        org_id = await operator.create_org("tests", is_unlimited=True)
        key = await operator.create_key(org_id, name="tests", scope=Scope.FULL, limits=Limits())
        self.key = key.text
        await operator.close()

    async def _run(self, *words: str, **pipes: Any) -> asyncio.subprocess.Process:
        options = ("--data-dir", str(self.data_dir), "--config", str(self.config))
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "waypost", *words, *options, env=self.environment, **pipes
        )

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.log.append(json.loads(line))

    def gateways(self) -> dict[str, int]:
        """The newest pid by name."""
        return {str(each["process"]): int(each["pid"]) for each in self.log if each["event"] == "ProcessStarted"}

    async def answers(self) -> bool:
        headers = {"authorization": f"Bearer {self.key}"}
        try:
            answer = await exchange(self.port, "POST", "/v1/chat/completions", ask(max_tokens=16), headers=headers)
        except OSError:
            return False
        return answer.status == 200

    async def is_whole(self) -> bool:
        """Every process runs and misses nothing, and requests are answered."""
        for name, pid in self.gateways().items():
            socket = "vault-up" if name == "vault" else name
            try:
                status, body = await get(self.data_dir / "run" / f"{socket}.sock", "/readyz", timeout_s=5)
            except OSError:
                return False
            if status != 200 or json.loads(body).get("degraded") or not _is_alive(pid):
                return False
        return self.postgres.is_running and await self.answers()

    async def say(self, *words: str) -> str:
        """What a command prints."""
        done = await self._run(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await done.communicate()
        return re.sub(" +", " ", said.decode())

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._reading
        return code


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@asynccontextmanager
async def deployed() -> AsyncIterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="wp") as base:  # short: it holds Unix sockets
        async with Simulator() as sim:
            deployment = Deployment(Path(base), sim)
            try:
                await deployment.start()
                yield deployment
                assert await deployment.stop() == 0
            finally:
                if deployment.process.returncode is None:
                    deployment.process.kill()
                    await deployment.process.wait()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    await eventually(is_so, PATIENCE_S)


@pytest.mark.slow
async def test_payloads_outlive_the_control_process_and_the_gateways() -> None:
    async with deployed() as up:
        await until(up.is_whole)
        vault = SocketVault(up.data_dir / "run" / "vault.sock")
        await vault.put("exec_1/input", b"a prompt", 600)
        before = up.gateways()
        for name in ("control", "gateway-0"):
            os.kill(before[name], signal.SIGKILL)
        await until(up.is_whole)
        assert await vault.get("exec_1/input") == b"a prompt"
        assert up.gateways()["vault"] == before["vault"]
        assert up.gateways()["control"] != before["control"]
        await vault.close()


@pytest.mark.slow
async def test_whoever_is_killed_comes_back_and_the_doctor_names_the_cause() -> None:
    dice = Random(5)
    async with deployed() as up:
        await until(up.is_whole)
        for _ in range(KILLS):
            victims = [*up.gateways().values(), up.postgres.pid]
            victim = dice.choice([pid for pid in victims if pid is not None])
            os.kill(victim, signal.SIGKILL)
            await until(up.is_whole)
            assert victim not in up.gateways().values()

        # While the supervisor is held up, what it would repair stays as it is for somebody to look at.
        os.kill(up.process.pid, signal.SIGSTOP)
        killed = up.gateways()["gateway-1"]
        postmaster = up.postgres.pid
        assert postmaster is not None
        for pid in (killed, postmaster):
            os.kill(pid, signal.SIGKILL)
        said = await up.say("doctor")
        assert f"ok up runs as process {up.process.pid}" in said
        assert f"warn postgres process {postmaster} has ended and nobody took note of it (a zombie)" in said
        assert "ok vault 0 payloads, 0 of 512 MiB, in memory only" in said or "warn vault 0 payloads" in said  # swaps
        assert "FAIL gateway-1 does not answer: it was killed or it hangs" in said
        assert "gateway-0" in said
        os.kill(up.process.pid, signal.SIGCONT)
        await until(up.is_whole)
        assert "every rule holds" in await up.say("ledger", "check")
