"""What the doctor finds of the peppers: whether each is here that keys were made under."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from waypost.app.finding import Finding, Verdict
from waypost.app.peppers import ListedPepper, PepperState, list_peppers
from waypost.storage.pool import Pool
from waypost.storage.roles import Role


def peppers(conninfo: str, directory: Path) -> Iterator[Finding]:
    """A finding of each that is missed, or one of them all."""
    listed = asyncio.run(_listed(conninfo, directory))
    missed = [each for each in listed if each.keys and each.state in (PepperState.MISSING, PepperState.RETIRED)]
    for each in missed:
        if each.state is PepperState.MISSING:
            told = f"version {each.version} is not in {directory}: {each.keys} keys are known under it"
            hint = f"{each.only_here} of them are refused here; copy it from another machine, or from a backup"
            yield Finding("peppers", Verdict.BAD, f"{told}, and {hint}")
        else:
            told = f"version {each.version} is retired, and {each.only_here} keys that are known under it alone are"
            hint = f"refused: `waypost pepper restore {each.version}`, or give them new texts, or revoke them"
            yield Finding("peppers", Verdict.DOUBTFUL, f"{told} {hint}")
    if not missed:
        yield Finding("peppers", Verdict.FINE, "; ".join(_told(each) for each in listed))


def _told(each: ListedPepper) -> str:
    if each.state is PepperState.BEFORE:
        return f"version {each.version} before it, which {each.only_here} keys still need"
    return f"version {each.version} is {each.state.value}"


async def _listed(conninfo: str, directory: Path) -> list[ListedPepper]:
    pool = Pool(conninfo, Role.APP, size=1)
    try:
        return await list_peppers(pool, directory)
    finally:
        await pool.close()
