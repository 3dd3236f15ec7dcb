"""`up --workers 2` as a whole: replaced and killed under load, no plain request lost, and exact books after it."""

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

from tests.e2e.stack import Stack, _url, ask, eventually, parse

CALLERS = 6


class Pair(Stack):
    """A stack whose gateways are two, under a supervisor."""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "up", "--port", "0", "--metrics-port", "0", "--workers", "2"),
            *("--data-dir", str(self.data_dir), "--database-url", _url(self.database)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        self._reading = asyncio.ensure_future(self._read_log(asyncio.get_running_loop().create_future()))
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        self.port = int(line.rpartition(b":")[2])


def events(stack: Stack, name: str) -> list[dict[str, Any]]:
    return [event for event in stack.log if event["event"] == name]


async def keep_asking(stack: Stack, statuses: list[int], stop: asyncio.Event) -> None:
    """Plain requests on a connection that is kept while the gateway does; a lost one counts as 0."""
    body = json.dumps(ask("sim: words=3")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {stack.key.text}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    while not stop.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        is_kept = True
        while is_kept and not stop.is_set():
            try:
                writer.write(head.encode() + body)
                answer = parse(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(int(answer.headers["content-length"]))
            except (OSError, asyncio.IncompleteReadError):
                statuses.append(0)
                break
            statuses.append(answer.status)
            is_kept = answer.headers.get("connection") != "close"
            await asyncio.sleep(0.005)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.slow
async def test_workers_are_replaced_and_killed_under_load_and_the_books_are_exact(
    database: str, tmp_path: Path
) -> None:
    statuses: list[int] = []
    stop = asyncio.Event()
    async with Pair(database, tmp_path) as stack:
        callers = [asyncio.ensure_future(keep_asking(stack, statuses, stop)) for _ in range(CALLERS)]

        async def are_replaced() -> bool:
            return len(events(stack, "WorkerReplaced")) == 2

        os.kill(stack.pid, signal.SIGUSR2)
        await eventually(are_replaced, 60)
        assert set(statuses) == {200}

        nodes = await stack.operator.list_nodes()
        assert len([node for node in nodes if node.is_alive]) >= 2

        newest = events(stack, "ProcessStarted")[-1]
        os.kill(int(newest["pid"]), signal.SIGKILL)

        async def is_back() -> bool:
            last = events(stack, "ProcessStarted")[-1]
            return bool(last["process"] == newest["process"] and last["pid"] != newest["pid"])

        await eventually(is_back, 60)
        seen = len(statuses)
        await eventually(lambda: _later(statuses, seen + CALLERS))
        stop.set()
        await asyncio.gather(*callers)

        assert statuses.count(0) <= CALLERS  # those that the killed process had on its hands
        assert await stack.stop() == 0
        assert (await stack.operator.check_ledger()).violations == ()
        rows = await stack.rows("SELECT outcome, count(*), sum(charge) FROM execution GROUP BY 1")
        served = sum(count for _, count, charge in rows if charge)
        assert served == statuses.count(200)
        assert sum(row["charge"] for row in await stack.settlements()) == sum(charge for _, _, charge in rows)


async def _later(statuses: list[int], count: int) -> bool:
    return len(statuses) >= count
