"""Limits that several gateways count together: workers of one machine, and machines that share a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.stack import COUNTS, PROVIDER_KEY, Answer, Stack, _url, ask, eventually, exchange
from tests.e2e.supervised import Supervised
from tests.stores.vaults import valkey
from waypost.gateway.callers import FAILED_KEYS_PER_MINUTE
from waypost.storage.api_keys import Limits

INVALID = "sk_" + "0" * 64 + "_00000000"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 5])
async def test_workers_let_through_the_limit_exactly_even_one_below_their_number(
    database: str, tmp_path: Path, limit: int
) -> None:
    async with Supervised(database, tmp_path, workers=3, limits=Limits(requests_per_minute=limit)) as stack:
        answers = await asyncio.gather(*(stack.chat(ask(max_tokens=8)) for _ in range(24)))
        assert sorted(answer.status for answer in answers) == [200] * limit + [429] * (24 - limit)
        assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {str(limit)}
        # A worker that dies and comes back has forgotten nothing.
        for pid in [pid for name, pid in stack.running.items() if name.startswith("gateway")]:
            os.kill(pid, 9)
        await eventually(lambda: _is_answered(stack))
        answers = await asyncio.gather(*(stack.chat(ask(max_tokens=8)) for _ in range(8)))
        assert {answer.status for answer in answers} == {429}


async def _is_answered(stack: Stack) -> bool:
    try:
        return (await stack.request("GET", "/readyz")).status == 200
    except OSError:
        return False


class Machine:
    """One gateway of a cluster, with a data directory of its own."""

    def __init__(self, stack: Stack, directory: Path, url: str) -> None:
        self._stack = stack
        self.config = directory / "waypost.toml"
        directory.mkdir()
        secrets = stack.settings.secrets_dir
        # On a machine that is busy with other tests nothing answers in 20 ms for sure.
        waits = f'valkey_url = "{url}"\nvalkey_wait_s = 5'
        self.config.write_text(f'[server]\n{waits}\nsecrets_dir = "{secrets}"\n')
        self._words = ("--data-dir", str(directory / "data"), "--database-url", _url(stack.database))
        self.events: list[str] = []
        self.port = 0

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "waypost", "gateway", "--port", "0", "--config", str(self.config), *self._words),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "TEST_PROVIDER_KEY": PROVIDER_KEY},
        )
        self._reading = asyncio.ensure_future(self._read())
        await eventually(lambda: self.has_said("LimitServerFound"), 30)
        await eventually(lambda: self.has_said("ProcessStarted"), 30)

    async def has_said(self, event: str) -> bool:
        return event in self.events

    async def ask(self, path: str = "/v1/chat/completions", body: object = None, key: str = "") -> Answer:
        headers = {"authorization": f"Bearer {key or self._stack.key.text}"}
        sent = ask(max_tokens=8) if body is None else body
        return await exchange(self.port, "POST", path, sent, headers=headers)  # type: ignore[arg-type]

    async def end(self) -> None:
        self.process.terminate()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                event = json.loads(line)
                self.port = event.get("port") or self.port
                self.events.append(event["event"])


@contextlib.asynccontextmanager
async def cluster(database: str, tmp_path: Path, limits: Limits, url: str) -> AsyncIterator[list[Machine]]:
    async with Stack(database, tmp_path, limits=limits) as stack:
        machines = [Machine(stack, tmp_path / f"machine-{n}", url) for n in range(2)]
        await asyncio.gather(*(machine.start() for machine in machines))
        try:
            yield machines
        finally:
            await asyncio.gather(*(machine.end() for machine in machines))


@pytest.mark.slow
async def test_machines_share_every_limit_on_a_server_and_go_on_without_it(database: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = contextlib.AsyncExitStack()
        url = await server.enter_async_context(valkey())
        stack.push_async_callback(server.aclose)
        limits = Limits(requests_per_minute=9)
        machines = await stack.enter_async_context(cluster(database, tmp_path, limits, url))

        path, body = COUNTS[0]
        counted = await machines[0].ask(path, body)
        assert (counted.status, counted.headers["x-ratelimit-remaining"]) == (200, "8")
        answers = await asyncio.gather(*(machines[n % 2].ask() for n in range(16)))
        assert sorted(answer.status for answer in answers) == [200] * 8 + [429] * 8
        assert (await machines[1].ask(path, body)).status == 429

        guesses = [await machines[n % 2].ask(key=INVALID) for n in range(FAILED_KEYS_PER_MINUTE + 4)]
        assert [guess.status for guess in guesses] == [401] * FAILED_KEYS_PER_MINUTE + [429] * 4

        await asyncio.sleep(2.5)  # two heartbeats: each has heard of the others
        await server.aclose()
        # Nobody waits for it. Of three gateways on this database each has a third, less what it had let through: of the
        # nine requests each of the two may have had none.
        answers = await asyncio.gather(*(machines[n % 2].ask() for n in range(16)))
        allowed = [answer.status for answer in answers].count(200)
        assert allowed <= 3
        assert {answer.status for answer in answers} <= {200, 429}
        for machine in machines:
            await eventually(lambda machine=machine: machine.has_said("LimitServerLost"))  # type: ignore[misc]
        assert (await machines[0].ask(key=INVALID)).status == 401
