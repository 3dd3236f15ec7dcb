"""Executions on the whole product while its control process is killed again and again.

    python -m tests.e2e.execution_storm 1000 [--pause 3] [--seed 1] [--deadline 3600]

Prints what it found as JSON; ends with exit code 1 when less than 95 % complete, one never ends, the books do not
hold, somebody paid for what was not delivered, or a prompt is found anywhere it must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import uvloop

from tests.e2e.canary import Markers, Scanner, database_dump, files
from tests.e2e.own_server import own_database
from tests.e2e.stack import Answer
from tests.e2e.test_executions import ENDED, Executing, document
from waypost.kit.money import NANOS_PER_USD

CALLERS = 16
PATIENCE_S = 240.0  # for the last of them: a lost run is taken up after 15 s, three times at most
DEADLINE_S = 3600  # of each: a machine may be slow, and most of the time nobody works
_AGAIN_S = 0.2


class Report(msgspec.Struct):
    """Amounts in nano-USD."""

    kills: int
    executions: int
    statuses: dict[str, int]
    took_s: float
    charged: int  # by the books
    shown: int  # as their callers were told
    violations: list[str]
    held: int
    canaries: list[str]

    @property
    def is_clean(self) -> bool:
        completed = self.statuses.get("COMPLETED", 0)
        has_ended = sum(self.statuses.get(status, 0) for status in ENDED) == self.executions
        is_paid = self.charged == self.shown and not self.held
        return has_ended and completed >= 0.95 * self.executions and is_paid and not self.violations + self.canaries


async def storm(
    stack: Executing,
    *,
    executions: int,
    pause_s: float,
    seed: int,
    kills_max: int = 1_000_000,
    deadline_s: int = DEADLINE_S,
) -> Report:
    """`deadline_s` 0: the ordinary one."""
    dice = Random(seed)
    markers = Markers(dice)
    lasting = document(stack.sim)
    for each in lasting["models"]:
        each["deadline_s"] = deadline_s
    if deadline_s:  # else it is what is in force already
        await stack.adopt(lasting)
    began_s = time.monotonic()
    waiting = list(range(executions))
    made: dict[int, str] = {}
    accepting = [asyncio.ensure_future(_accept(stack, waiting, made, markers, dice)) for _ in range(CALLERS)]
    killing = asyncio.ensure_future(_kill(stack, pause_s, kills_max, dice))
    shown: dict[str, dict[str, Any]] = {}
    try:
        await asyncio.gather(*accepting)
        async with asyncio.timeout(PATIENCE_S + executions):
            while len(shown) < executions:
                for execution_id in made.values():
                    if execution_id not in shown:
                        found = await _asked(stack, "GET", f"/v1/executions/{execution_id}")
                        assert found.status == 200, found.body
                        if found.json["status"] in ENDED:
                            shown[execution_id] = found.json
                await asyncio.sleep(_AGAIN_S)
    except TimeoutError:
        pass  # the report tells
    finally:
        for task in (*accepting, killing):
            task.cancel()
        await asyncio.gather(*accepting, killing, return_exceptions=True)
    took_s = time.monotonic() - began_s
    kills = len(stack.events("ProcessEnded"))
    for execution_id in made.values():  # texts are forgotten, as their owners may
        await _asked(stack, "DELETE", f"/v1/executions/{execution_id}/result")
    checked = await stack.operator.check_ledger()
    return Report(
        kills=kills,
        executions=executions,
        statuses=Counter(each["status"] for each in shown.values()),
        took_s=round(took_s, 1),
        charged=checked.totals.charged_nanos,
        shown=sum(int(Decimal(each["cost"] or 0) * NANOS_PER_USD) for each in shown.values()),
        violations=list(checked.violations),
        held=checked.totals.held_nanos,
        canaries=await asyncio.to_thread(_canaries, stack, markers),
    )


async def _accept(stack: Executing, waiting: list[int], made: dict[int, str], markers: Markers, dice: Random) -> None:
    """Each is asked for until it is accepted: under one key, so that it is one execution however often."""
    while waiting:
        number = waiting.pop()
        text = f"{markers[f'prompt {number}']}\nsim: words=8 delay_ms={dice.choice((0, 5, 40))}"
        body = {
            "model": "swift-1",
            "input": {"messages": [{"role": "user", "content": text}], "max_tokens": 50},
            "metadata": {"note": markers[f"note {number}"]},
        }
        headers = {"idempotency-key": f"storm-{number}"}
        answer = await _asked(stack, "POST", "/v1/executions", body, headers)
        assert answer.status == 202, answer.body
        made[number] = answer.json["id"]


async def _asked(
    stack: Executing, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Until somebody answers: while control is away the gateway says 503."""
    while True:
        with contextlib.suppress(OSError):
            answer = await stack.request(method, path, body or b"", headers=headers)
            if answer.status not in (502, 503):
                return answer
        await asyncio.sleep(_AGAIN_S)


async def _kill(stack: Executing, pause_s: float, kills_max: int, dice: Random) -> None:
    """Each control process some time after it has started: the supervisor lets one that keeps dying wait for 5 s."""
    killed = 0
    for _ in range(kills_max):
        while stack.running["control"] == killed:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(pause_s * (0.5 + dice.random()))
        killed = stack.running["control"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(killed, signal.SIGKILL)


def _canaries(stack: Executing, markers: Markers) -> list[str]:
    scanner = Scanner([markers.tag])
    sinks = {**files(stack.data_dir), **database_dump(stack.database), "the log": stack.log_text}
    return [hit for name, data in sinks.items() for hit in scanner.hits(name, data)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Executions while the control process is killed.")
    parser.add_argument("executions", type=int)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between two kills, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=int, default=DEADLINE_S, help="seconds of each; 0: five minutes, as ever")
    words = parser.parse_args()

    async def run(database: str, directory: Path) -> Report:
        async with Executing(database, directory, workers=1, credit_usd=1000) as stack:
            return await storm(
                stack,
                executions=words.executions,
                pause_s=words.pause,
                seed=words.seed,
                deadline_s=words.deadline,
            )

    with own_database() as (database, directory):
        report = uvloop.run(run(database, Path(directory)))
    print(json.dumps(msgspec.to_builtins(report) | {"is_clean": report.is_clean}, indent=2))
    sys.exit(not report.is_clean)


if __name__ == "__main__":
    main()
