"""More callers than a balance has room for, on several gateway processes: exactly those that it covers are served.

    python -m tests.e2e.exact_balance [--clients 256] [--covered 200] [--workers 1 2 4]

Prints what it found as JSON lines; ends with exit code 1 when anybody was served or refused wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvloop

from tests.e2e.own_server import own_database
from tests.e2e.stack import ask, eventually
from tests.e2e.supervised import Supervised
from waypost.gateway.recovery import read_dir
from waypost.ledger.record import Open

WORDS = 50
# All are asked before the first is answered: what a balance covers is held at one moment.
STEPS = f"sim: words={WORDS} input=20 cached=0 first_ms="

_FIRST_NANOS = 10_000_000  # for one request, to see what it holds


class Report(msgspec.Struct):
    workers: int
    clients: int
    covered: int  # requests that the balance covers at their upper bound
    served: int
    refused: int
    held_before_first_refusal: int  # requests for which money was held or spent when a caller had the first 402
    served_later: int  # out of what the first ones left over
    overspent_nanos: int
    left_nanos: int  # in the end
    bound_nanos: int  # of one request
    violations: list[str]

    @property
    def false_refusals(self) -> int:
        return max(0, self.covered - self.served) + (self.left_nanos >= self.bound_nanos)

    @property
    def is_exact(self) -> bool:
        is_used = self.held_before_first_refusal * 100 >= self.covered * 98
        return not (self.false_refusals or self.overspent_nanos or self.violations) and is_used


async def spend(stack: Supervised, *, clients: int, covered: int, slow_ms: int = 4000) -> Report:
    """A balance for `covered` requests, and `clients` at once that ask for one each; then what is left of it."""
    texts = (f"{STEPS}{slow_ms:04}", f"{STEPS}0.00")  # of one length, since each byte is held for
    slow, quick = (json.dumps(ask(text, max_tokens=WORDS)).encode() for text in texts)
    await stack.operator.add_credit(stack.org_id, _FIRST_NANOS, "for one")
    bound = await _bound(stack, slow)
    before = _held(stack)
    more = covered * bound - await _available(stack)
    await stack.operator.add_credit(stack.org_id, more, "for so many")
    held: list[int] = []

    async def one(body: bytes) -> int:
        status = (await stack.chat(body)).status
        if status == 402 and not held:
            held.append(_held(stack) - before)
        return status

    statuses = await asyncio.gather(*(one(slow) for _ in range(clients)))
    later = 0
    while True:
        rest = await asyncio.gather(*(stack.chat(quick) for _ in range(8)))
        later += sum(answer.status == 200 for answer in rest)
        if not any(answer.status == 200 for answer in rest):
            break
    served = statuses.count(200)
    await eventually(lambda: _is_booked(stack, 1 + served + later))
    charges = await stack.rows("SELECT sum(charge) FROM execution")
    left = await _available(stack)
    spent = int(charges[0][0])
    return Report(
        workers=stack.workers,
        clients=clients,
        covered=covered,
        served=served,
        refused=statuses.count(402),
        held_before_first_refusal=held[0] if held else served,
        served_later=later,
        overspent_nanos=max(0, spent + left - _FIRST_NANOS - more, -left),
        left_nanos=left,
        bound_nanos=bound,
        violations=list((await stack.operator.check_ledger()).violations),
    )


def _held(stack: Supervised) -> int:
    """Requests that the gateways have held money for, by their journals. What the simulator has seen would be fewer: it
    and the callers share a loop, which reads a refusal while requests made before it wait to be accepted."""
    records = (record for folder in stack.journals for record in read_dir(folder))
    return len({record.execution_id for record in records if isinstance(record, Open)})


async def _bound(stack: Supervised, body: bytes) -> int:
    """What one such request holds: as the balance shows it while it runs."""
    asked = asyncio.ensure_future(stack.chat(body))
    held = 0

    async def is_shown() -> bool:
        nonlocal held
        held = (await stack.operator.balance(stack.org_id)).held_nanos
        return held > 0

    await eventually(is_shown)
    assert (await asked).status == 200
    await eventually(lambda: _is_booked(stack, 1))
    return held


async def _is_booked(stack: Supervised, count: int) -> bool:
    balance = await stack.operator.balance(stack.org_id)
    rows = await stack.rows("SELECT count(*) FROM execution WHERE charge > 0")
    return balance.held_nanos == 0 and int(rows[0][0]) == count


async def _available(stack: Supervised) -> int:
    return (await stack.operator.balance(stack.org_id)).available_nanos


async def _run(words: argparse.Namespace) -> bool:
    is_exact = True
    for workers in words.workers:
        with own_database() as (database, directory):
            async with Supervised(database, Path(directory), workers=workers, credit_usd=0) as stack:
                report = await spend(stack, clients=words.clients, covered=words.covered)
        print(json.dumps(msgspec.to_builtins(report)), flush=True)
        is_exact = is_exact and report.is_exact
    return is_exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--covered", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    sys.exit(0 if uvloop.run(_run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
