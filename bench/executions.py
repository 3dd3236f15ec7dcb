"""What asynchronous executions take: `./run python -m bench.executions [--seconds 10] [--count 600] [--publish]`.

`waypost up` on a simulator of its own, everything on: gateway, control with its worker, vault, embedded PostgreSQL.
First executions are accepted at an even rate, then as many as fit are given at once. Times from acceptance to the first
step of the work, and to the end, are the database's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg

from bench.process import BenchError, Child, cpu_s_by_role, wait_until
from bench.product import answers, make_account
from bench.report import publish
from waypost.app.database import EMBEDDED_DIR
from waypost.storage.embedded import EmbeddedPostgres

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- executions:begin -->", "<!-- executions:end -->"
PORT, METRICS_PORT, SIM_PORT = 9380, 9381, 9382
RATE = 50  # executions a second while acceptance is timed
CALLERS = 32  # connections that give executions all at once
WORDS = 8  # of an answer
_PATIENCE_S = 180.0
_BODY = json.dumps(
    {
        "model": "swift-1",
        "input": {"messages": [{"role": "user", "content": f"sim: words={WORDS}"}], "max_tokens": 50},
    }
).encode()
_CONFIG = f"""
[[providers]]
id = "alpha"
kind = "openai"
base_url = "http://127.0.0.1:{SIM_PORT}/v1"
api_keys = ["plain:bench"]

[[models]]
slug = "swift-1"
modality = "chat"
context_window = 128000
max_output = 8192
price = {{ input = "2.50", output = "10.00" }}
[[models.deployments]]
provider = "alpha"
upstream_model = "bench-upstream"
cost = {{ input = "2.00", output = "8.00" }}
"""
_FIGURES = """
SELECT count(*), count(*) FILTER (WHERE state = 'SUCCEEDED'),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY started_at - accepted_at),
       percentile_cont(0.99) WITHIN GROUP (ORDER BY started_at - accepted_at),
       max(ended_at) - min(accepted_at), count(*) FILTER (WHERE ended_at IS NULL)
  FROM asynchronous_execution WHERE accepted_at >= %s
"""


class Figures(msgspec.Struct):
    accept_p50_ms: float  # at RATE a second
    accept_p99_ms: float
    start_p50_ms: float  # from acceptance to the first step of the work, at RATE a second
    start_p99_ms: float
    per_s: float  # accepted, done and booked, of those given at once
    completed: int
    count: int
    cpu_ms: dict[str, float]  # of each of those, by process
    load: float  # of the machine in the minute before: figures of a busy one are upper bounds


class Deployment(msgspec.Struct):
    roots: list[int]
    conninfo: str
    api_key: str


@contextlib.contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    config, data_dir = folder / "waypost.toml", folder / "data"
    config.write_text(_CONFIG)
    cores = range(2)
    waypost = [sys.executable, "-m", "waypost"]
    up = [*waypost, "up", "--config", str(config), "--data-dir", str(data_dir)]
    up += ["--port", str(PORT), "--metrics-port", str(METRICS_PORT)]
    postgres = EmbeddedPostgres(data_dir / EMBEDDED_DIR)
    try:
        with (
            Child([*waypost, "sim", "--port", str(SIM_PORT)], cores=cores, log=folder / "sim.log"),
            Child(up, cores=cores, log=folder / "waypost.log") as child,
        ):

            def is_ready() -> bool:
                child.require_alive()
                return answers(f"http://127.0.0.1:{PORT}/readyz")

            wait_until(is_ready, "waypost getting ready", timeout_s=90)
            api_key = make_account(data_dir, sys.executable, {})
            listed = f"http://127.0.0.1:{PORT}/v1/executions"
            wait_until(lambda: answers(listed, f"Bearer {api_key}"), "control accepting the new key", timeout_s=20)
            assert postgres.pid is not None
            yield Deployment([child.pid, postgres.pid], postgres.conninfo(), api_key)
    finally:
        if postgres.is_running:
            postgres.start()
        postgres.stop()


class Caller:
    """One kept connection."""

    def __init__(self, api_key: str) -> None:
        lines = f"authorization: Bearer {api_key}\r\ncontent-type: application/json\r\ncontent-length: {len(_BODY)}"
        self._request = f"POST /v1/executions HTTP/1.1\r\nhost: bench\r\n{lines}\r\n\r\n".encode() + _BODY
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def create(self) -> float:
        """Seconds to the 202."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", PORT)
        reader, writer = self._streams
        began_s = time.perf_counter()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        took_s = time.perf_counter() - began_s
        if not head.startswith(b"HTTP/1.1 202"):
            raise BenchError(f"an execution was answered {head[:40]!r}")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        return took_s

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def measure(running: Deployment, *, seconds: float, count: int) -> Figures:
    load = os.getloadavg()[0]
    callers = [Caller(running.api_key) for _ in range(CALLERS)]
    await asyncio.gather(*(caller.create() for caller in callers))  # connections are made, and everything is warm
    await _ended(running, 0.0)
    began_s = time.time()
    accepted = sorted(await _at_even_rate(callers, seconds))
    evenly = await _ended(running, began_s)
    cpu_before = cpu_s_by_role(running.roots)
    began_s = time.time()
    left = iter(range(count))
    await asyncio.gather(*(_all_of(caller, left) for caller in callers))
    at_once = await _ended(running, began_s)
    cpu = cpu_s_by_role(running.roots)
    for caller in callers:
        caller.close()
    return Figures(
        accept_p50_ms=accepted[len(accepted) // 2] * 1000,
        accept_p99_ms=accepted[math.ceil(len(accepted) * 0.99) - 1] * 1000,
        start_p50_ms=evenly[2].total_seconds() * 1000,
        start_p99_ms=evenly[3].total_seconds() * 1000,
        per_s=at_once[0] / at_once[4].total_seconds(),
        completed=at_once[1],
        count=at_once[0],
        load=load,
        cpu_ms={role: (cpu[role] - cpu_before.get(role, 0.0)) * 1000 / count for role in sorted(cpu)},
    )


async def _at_even_rate(callers: list[Caller], seconds: float) -> list[float]:
    """Started whether or not earlier ones were answered, as far as there are connections."""
    free = list(callers)
    took: list[float] = []

    async def create(caller: Caller) -> None:
        took.append(await caller.create())
        free.append(caller)

    tasks = []
    began_s = time.perf_counter()
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(max(0.0, began_s + number / RATE - time.perf_counter()))
        while not free:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        tasks.append(asyncio.ensure_future(create(free.pop())))
    await asyncio.gather(*tasks)
    return took


async def _all_of(caller: Caller, left: Iterator[int]) -> None:
    for _ in left:
        await caller.create()


async def _ended(running: Deployment, since_s: float) -> tuple:  # type: ignore[type-arg]  # as `_FIGURES` selects
    """The figures of all accepted since, once all have ended."""
    until_s = time.monotonic() + _PATIENCE_S
    async with await psycopg.AsyncConnection.connect(running.conninfo, autocommit=True) as connection:
        await connection.execute("SET waypost.scope = 'system'")
        while True:
            since = await connection.execute(_FIGURES.replace("%s", "to_timestamp(%s)"), (since_s,))
            row = await since.fetchone()
            assert row is not None
            if not row[5]:
                return row
            if time.monotonic() > until_s:
                raise BenchError(f"{row[5]} executions have not ended after {_PATIENCE_S:.0f} s")
            await asyncio.sleep(0.2)


def table(figures: Figures) -> str:
    cpu = ", ".join(f"{role} {ms:.1f}" for role, ms in sorted(figures.cpu_ms.items(), key=lambda each: -each[1]))
    return f"""| what | aim | measured |
|---|---|---|
| executions a second, end to end, given at once | ≥ 60 | {figures.per_s:.1f} |
| accepted at {RATE} a second, p50 / p99 ms | p99 ≤ 50 | {figures.accept_p50_ms:.1f} / {figures.accept_p99_ms:.1f} |
| from acceptance to the first step, p50 / p99 ms | p50 ≤ 20 | {figures.start_p50_ms:.1f} / {figures.start_p99_ms:.1f} |
| completed | all | {figures.completed} of {figures.count} |

CPU ms an execution by process: {cpu}; {sum(figures.cpu_ms.values()):.1f} in all.
Load of the machine in the minute before: {figures.load:.1f}."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="at an even rate (10)")
    parser.add_argument("--count", type=int, default=600, help="given at once (600)")
    parser.add_argument("--publish", action="store_true", help="write the table into bench/README.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wb") as folder, deployment(Path(folder)) as running:
        figures = asyncio.run(measure(running, seconds=chosen.seconds, count=chosen.count))
    print(table(figures))
    if chosen.publish:
        README.write_text(publish(README.read_text(), table(figures), begin=BEGIN, end=END))


if __name__ == "__main__":
    main()
