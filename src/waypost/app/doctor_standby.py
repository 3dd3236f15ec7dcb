"""What the doctor finds of standbys: what promoting one may lose, and whether one was promoted just now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from waypost.app.finding import Finding, Verdict
from waypost.storage.health import Replication, replication
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.pool import Pool
from waypost.storage.promotion import LedgerState, ledger_state
from waypost.storage.roles import Role

_LOSES = (
    "what gateways know of them is booked again, but credits, refunds, keys and asynchronous executions of those "
    "moments have to be made again"
)


def standby(conninfo: str) -> Iterator[Finding]:
    """Of a PostgreSQL that is not embedded."""
    state, found = asyncio.run(_ask(conninfo))
    if state.is_unpresented:
        yield Finding("standby", Verdict.BAD, _promoted(state))
    yield _synchronous(found)


def _promoted(state: LedgerState) -> str:
    since = "" if state.moved_at is None else f" (noticed {state.moved_at:%H:%M:%S} UTC)"
    return (
        f"one was promoted, to timeline {state.server_timeline}{since}: no lease or hold is granted until every "
        f"gateway has told it what it has, or {ORPHANED_AFTER_S} s have passed; look whether all of them reach it"
    )


def _synchronous(found: Replication) -> Finding:
    settings = f"synchronous_standby_names = '{found.standby_names}', synchronous_commit = {found.commit}"
    if found.standby_names and found.commit not in ("off", "local"):
        return Finding("standby", Verdict.FINE, f"one that is promoted has every commit: {settings}")
    if not found.receivers:
        return Finding("standby", Verdict.FINE, "none is connected")
    sentence = f"{found.receivers} connected, and no commit waits for one ({settings}): promoting it may lose the last"
    return Finding("standby", Verdict.DOUBTFUL, f"{sentence}; {_LOSES}")


async def _ask(conninfo: str) -> tuple[LedgerState, Replication]:
    pool = Pool(conninfo, Role.APP, size=1)
    try:
        return await ledger_state(pool), await replication(pool)
    finally:
        await pool.close()
