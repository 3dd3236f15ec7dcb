"""Callers who leave at every moment, many of them: afterwards nothing of them is left, and everybody is served.

`CANCELS=100000 ./run test tests/e2e/test_cancel_storm.py -n 0` is the large one, and tells how far it is.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import psutil  # type: ignore[import-untyped]  # it ships without types
import pytest

from tests.e2e.inside import InsideStack
from tests.e2e.stack import ask, deployment, model, provider
from waypost.ledger.record import Outcome

CANCELS = int(os.environ.get("CANCELS", "1500"))
AT_ONCE = 64
# Who left stands in the port's queue until the loop comes to it; more than so many is overload, and most of them would
# be gone before anything was done for them.
QUEUE_MAX = 8
COME_AGAIN_MAX = 20
TOLD_EVERY = 2000
PATIENT_EVERY = 17  # one caller of so many stays to the end; the port's queue would fill with those who have left
DATABASE_CONNECTIONS = 16  # made when needed, and kept
SLUGS = ("stops", "goes-on", "falls-over")


class Caller(asyncio.Protocol):
    """Sends one request, and breaks the connection off after so many bytes of the answer, or after a time."""

    def __init__(self, request: bytes, bytes_max: int, *, is_reset: bool) -> None:
        self._request = request
        self._bytes_left = bytes_max
        self._is_reset = is_reset
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left <= 0:
            self.leave()

    def leave(self) -> None:
        self._transport.abort() if self._is_reset else self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_over.done():
            self.is_over.set_result(None)


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Writes a line to the terminal, for who waits for the large one."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    return lambda line: None if reporter is None else reporter.write_line(line, flush=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_nothing_is_left_of_callers_who_left(database: str, tmp_path: Path, tell: Callable[[str], None]) -> None:
    async with InsideStack(database, tmp_path, credit_usd=100_000) as stack:
        sim = stack.sim
        await stack.adopt(
            {
                "providers": [
                    provider(sim, "alpha", cancel_stops_billing="yes"),
                    provider(sim, "beta", "beta", cancel_stops_billing="no"),
                ],
                "models": [
                    model("stops", deployment("alpha", "stops")),
                    model("goes-on", deployment("beta", "goes-on")),
                    model("falls-over", deployment("alpha", "bad"), deployment("beta", "good")),
                ],
            }
        )
        sim.arm("status", model="bad", count=0, every=3, status=502)
        base, files = await counts(stack), psutil.Process().num_fds()
        await storm(stack, tell)
        await stack.at_rest()
        assert await counts(stack) == base
        # Connections to two providers are kept for the next calls, both ends of which are this process's.
        assert psutil.Process().num_fds() <= files + 2 * 2 * AT_ONCE + DATABASE_CONNECTIONS
        await check_the_books(stack, tell)
        sim.disarm()
        async with asyncio.timeout(60):
            while stack.gateway.gateway.pressure.shedding.is_active:  # noqa: ASYNC110  on a crowded machine
                await asyncio.sleep(0.1)
        assert Counter(await asyncio.gather(*(status_in_the_end(stack, at) for at in range(100)))) == {200: 100}
        await stack.at_rest()


async def status_in_the_end(stack: InsideStack, at: int) -> int:
    """A hundred at once are overload where others have the processor: who is told to come again does."""
    for _ in range(COME_AGAIN_MAX):
        answer = await stack.chat({**ask(stream=at % 2 == 0), "model": SLUGS[at % 3]})
        if answer.status != 503:
            break
        await asyncio.sleep(int(answer.headers["retry-after"]))
    return answer.status


async def storm(stack: InsideStack, tell: Callable[[str], None]) -> None:
    dice = random.Random(7)
    loop = asyncio.get_running_loop()
    left = iter(range(CANCELS))
    started = time.monotonic()

    async def caller() -> None:
        for number in left:
            if number % TOLD_EVERY == TOLD_EVERY - 1:
                tell(f"{number + 1} callers after {time.monotonic() - started:.0f} s")
            while stack.gateway.gateway.pressure.callers()[0] > QUEUE_MAX:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            body = {**ask("sim: words=12 delay_ms=1 first_ms=2", stream=number % 2 == 0), "model": SLUGS[number % 3]}
            request = render(stack, json.dumps(body).encode())
            is_reset, bytes_max = dice.random() < 0.5, dice.choice((1, 200, 600, 1500, 100_000))
            if number % PATIENT_EVERY == 0:
                bytes_max = 1_000_000
            _, protocol = await loop.create_connection(
                lambda: Caller(request, bytes_max, is_reset=is_reset),  # noqa: B023  called at once
                "127.0.0.1",
                stack.port,
                local_addr=(f"127.0.{1 + number % 100}.1", 0),  # one address has not enough ports for the large one
            )
            if number % PATIENT_EVERY == 0:  # and so he also waits for those in the queue before him to be taken
                await protocol.is_over
                continue
            timer = loop.call_later(dice.choice((0.0, 0.001, 0.003, 0.01, 0.03)) * dice.random() * 2, protocol.leave)
            await protocol.is_over
            timer.cancel()

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))


def render(stack: InsideStack, body: bytes) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {stack.key.text}\r\n"
        f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def counts(stack: InsideStack) -> dict[str, float]:
    """What may pile up: all but the idle connections to providers, which are kept on purpose."""
    for _ in range(100):  # connections close in the loop's next turns, on both sides
        await asyncio.sleep(0.01)
    gc.collect()
    gateway, metrics = stack.gateway, await stack.metrics()
    kept = metrics["waypost_upstream_idle"]
    return {
        "tasks": len(asyncio.all_tasks()),
        # An idle connection is a socket on either side, and both are in this process.
        "sockets": len(psutil.Process().net_connections("tcp")) - 2 * kept,
        "calls": metrics["waypost_upstream_open"] - kept,
        "executions": metrics["waypost_executions_running"],
        "holds": metrics["waypost_holds_open"],
        "requests": gateway.gateway.allowances.under_way,
        "places": sum(gate.places.in_flight + gate.places.waiting for gate in gateway.fleet.gates().values()),
    }


async def check_the_books(stack: InsideStack, tell: Callable[[str], None]) -> None:
    rows = await stack.rows("SELECT outcome, count(*) FROM execution GROUP BY outcome")
    outcomes = {Outcome(outcome): count for outcome, count in rows}
    assert set(outcomes) <= {Outcome.COMPLETED, Outcome.DISCONNECTED, Outcome.CUT_OFF, Outcome.FAILED}
    tell(f"{outcomes}")
    assert outcomes[Outcome.DISCONNECTED] > CANCELS / 20
    attempts, charged = (await stack.rows("SELECT sum(attempts), sum(charge) FROM execution"))[0]
    assert len(await stack.settlements()) == attempts
    assert (await stack.operator.balance(stack.org_id)).available_nanos == stack.credit_nanos - charged
