"""A storm of SIGKILLs over real gateway processes under load, and the books against the provider's own bill after it.

    python -m tests.e2e.storm 1000 [--workers 4] [--callers 48] [--seed 1]

Prints what it found as JSON; ends with exit code 1 when a nano-dollar is unexplained, an attempt is lost or charged
twice, or a caller paid for more than was delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import uvloop

from tests.e2e.own_server import own_database
from tests.e2e.stack import PRICE, STYLES, Stack, ask, eventually
from tests.e2e.supervised import Supervised
from waypost.kit import ids
from waypost.ledger.record import Outcome

INPUT_TOKENS = 40  # of every request, as the provider counts
_EXECUTION = re.compile(rb"\r\nx-execution-id: (exec_\S+)\r\n")
_TEXT = re.compile(rb'"content":("(?:[^"\\]|\\.)*")')


class Heard(msgspec.Struct, frozen=True):
    """What a caller knows of a request: an execution that began, and the units of output that arrived."""

    execution_id: bytes
    words: int
    is_whole: bool
    has_left: bool  # by itself, and then it may have been served more than it read


class Report(msgspec.Struct):
    """Amounts in nano-USD."""

    kills: int
    requests: int  # that callers sent
    executions: int
    attempts: int
    crashed: int  # attempts whose end was written by recovery
    billed: int  # by the simulator, in its own arithmetic
    booked: int  # as cost, before reconciliation
    charged: int
    unexplained: int  # billed − booked, after reconciliation
    lost: int  # billed requests without a settlement
    twice: int  # executions or attempts that are booked more than once
    overcharged: int  # executions that cost more than what their callers received
    excess_per_mille: int  # crash estimates above the bill, of all that was billed
    violations: list[str]
    seconds: int

    @property
    def is_clean(self) -> bool:
        return not (self.unexplained or self.lost or self.twice or self.overcharged or self.violations)


def request(dice: Random, number: int) -> dict[str, Any]:
    words, delay_ms, first_ms = dice.randrange(1, 40), dice.choice((0, 0, 2, 8)), dice.choice((0, 0, 30))
    steps = f"sim: words={words} delay_ms={delay_ms} first_ms={first_ms} input={INPUT_TOKENS} cached=0"
    return ask(f"Number {number}\n{steps}", max_tokens=64, stream=dice.random() < 0.6)


async def call(stack: Stack, dice: Random, number: int) -> Heard | None:
    """One request, whatever becomes of it; some callers leave in the middle."""
    raw, has_left, leaves_after = bytearray(), False, dice.choice((0, 0, 0, 0, 0, 0, 600, 2000))
    with contextlib.suppress(OSError):
        reader, writer = await stack.connect("POST", "/v1/chat/completions", request(dice, number))
        try:
            async with asyncio.timeout(30):
                while data := await reader.read(1 << 16):
                    raw += data
                    if leaves_after and len(raw) >= leaves_after:
                        has_left = True
                        break
        except TimeoutError:
            has_left = True
        finally:
            writer.close()
    head, _, rest = bytes(raw).partition(b"\r\n\r\n")
    found = _EXECUTION.search(head + b"\r\n")
    if found is None:
        return None
    words = _units("".join(json.loads(text) for text in _TEXT.findall(rest)))
    is_whole = b"data: [DONE]" in rest or rest.endswith(b"}")
    return Heard(ids.parse("exec", found[1].decode()), words, is_whole, has_left)


async def keep_calling(
    stack: Stack, dice: Random, heard: list[Heard], counts: Counter[str], stop: asyncio.Event
) -> None:
    while not stop.is_set():
        counts["requests"] += 1
        found = await call(stack, dice, counts["requests"])
        if found is not None:
            heard.append(found)
        else:
            await asyncio.sleep(0.02)  # nobody listens just now


async def storm(stack: Supervised, *, kills: int, callers: int, seed: int, pause_s: tuple[float, float]) -> Report:
    """Kill workers at random moments while callers call; then let everything come to rest, and compare."""
    began = time.monotonic()
    heard: list[Heard] = []
    counts: Counter[str] = Counter()
    stop = asyncio.Event()
    dice = Random(seed)
    stack.sim.arm(kind="status", status=503, count=0, every=7)  # so that executions die between attempts as well
    callings = [
        asyncio.ensure_future(keep_calling(stack, Random(f"{seed} {n}"), heard, counts, stop)) for n in range(callers)
    ]
    while counts["kills"] < kills:
        await asyncio.sleep(dice.uniform(*pause_s))
        counts["kills"] += stack.kill_one(dice)
    stop.set()
    await asyncio.gather(*callings)
    stack.sim.disarm()
    await _come_to_rest(stack)
    report = await _compare(stack, heard, counts)
    report.seconds = int(time.monotonic() - began)
    return report


async def _come_to_rest(stack: Supervised) -> None:
    """Every worker has recovered its journal, and everything is booked."""
    # A journal that a worker is still reading, or one that a sibling has taken over, is over when the gateways are.
    assert await stack.stop() == 0
    await stack.start()
    assert await stack.stop() == 0

    async def is_billed() -> bool:
        return not any(line.is_open for line in stack.sim.bill.lines)

    await eventually(is_billed, stack.patience_s)


async def _compare(stack: Supervised, heard: list[Heard], counts: Counter[str]) -> Report:
    settlements = await stack.settlements()
    rows = await stack.rows("SELECT id, charge FROM execution")
    charges = {row[0].bytes: row[1] for row in rows}
    booked, billed = sum(row["cogs"] for row in settlements), stack.sim.bill.nanos
    corrected = await reconcile(stack)
    stayed = [one for one in heard if not one.has_left]
    overcharged = sum(charges.get(one.execution_id, 0) > _worth(one.words) for one in stayed)
    unfounded = sum(one.is_whole and one.execution_id not in charges for one in heard)
    return Report(
        kills=counts["kills"],
        requests=counts["requests"],
        executions=len(rows),
        attempts=len(settlements),
        crashed=sum(row["outcome"] == Outcome.CRASHED for row in settlements),
        billed=billed,
        booked=booked,
        charged=sum(charges.values()),
        unexplained=billed - booked - corrected,
        lost=max(0, len(stack.sim.bill.lines) - len(settlements)) + unfounded,
        twice=len(rows) - len(charges) + len(settlements) - len({row["attempt_id"] for row in settlements}),
        overcharged=overcharged,
        excess_per_mille=max(0, booked - billed) * 1000 // max(1, billed),
        violations=list((await stack.operator.check_ledger()).violations),
        seconds=0,
    )


async def reconcile(stack: Stack) -> int:
    """Import what each simulated provider bills; by how much the cost of goods changed."""
    corrected = 0
    for style in STYLES:
        report = stack.sim.bill.report(has_lines=True, style=style)
        if report["lines"]:
            imported = await stack.operator.reconcile(f"{style}-provider", json.dumps(report).encode())
            corrected += imported.corrected_nanos
    return corrected


def _units(text: str) -> int:
    """Tokens of a simulated text: a first word, words that begin with a blank, and points, commas and line ends."""
    inside = text.count("example.org")
    return bool(text) + sum(text.count(each) for each in (" ", ".", ",", "\n")) - inside


def _worth(words: int) -> int:
    """The price of what a caller received."""
    micro_usd = INPUT_TOKENS * Fraction(PRICE["input"]) + words * Fraction(PRICE["output"])
    return math.ceil(micro_usd * 1000)


async def _run(words: argparse.Namespace, database: str, directory: Path) -> Report:
    stack = Supervised(database, directory, workers=words.workers, credit_usd=100_000)
    stack.patience_s = 900.0  # an hour's storm is not to be lost because the machine has other work as well
    async with stack:
        return await storm(stack, kills=words.kills, callers=words.callers, seed=words.seed, pause_s=(0.1, 0.8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("kills", type=int)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--callers", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    with own_database() as (database, directory):
        report = uvloop.run(_run(words, database, Path(directory)))
    print(json.dumps(msgspec.to_builtins(report), indent=2))
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    main()
