"""Thousands of webhooks to receivers of which many fail: how many are lost, and how late is the first attempt.

    python -m tests.worker.webhook_storm [DELIVERIES] [--kills N] [--seed N]

Seven of ten receivers fail three times of ten; one of ten each fails always, resets the connection, and never
answers. Retries and rests are shortened to seconds. With `--kills` the sending process gets SIGKILL so many times
meanwhile. Prints what it found as JSON, and ends with exit code 1 when a webhook was lost, or when, without kills, the
first attempt to receivers that answer came more than two seconds late for one of a hundred.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import uvloop

from tests.e2e.own_server import own_database
from tests.worker.receivers import Receivers, receivers, until
from tests.worker.webhook_desk import Desk, desk
from waypost.upstream.guarded_session import Bounds
from waypost.webhooks import lane
from waypost.webhooks.schedule import Schedule
from waypost.worker.webhooks import WebhookSettings

ORGANISATIONS, RECEIVERS = 10, 10
KINDS = (*("flaky",) * 7, "fails", "resets", "hangs")
EVENTS_PER_S = 15  # times ten receivers
FIRST_S_P99 = 2.0
SETTINGS = WebhookSettings(
    schedule=Schedule(retry_s=(0.3, 0.6, 1.2, 2.4, 4.8), expires_s=60),
    bounds=Bounds(connect_s=2, idle_s=2, total_s=2, answer_bytes=4096),
)


class Report(msgspec.Struct):
    deliveries: int
    delivered: int
    dead: dict[str, int]  # by reason
    deactivated: int  # endpoints
    attempts: int
    kills: int
    lost: int  # neither arrived nor known to be dead
    untrue: int  # said to be delivered, and never accepted
    repeated: int  # accepted more than once
    first_s_p50: float  # of receivers that answer
    first_s_p99: float

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.untrue) and (self.kills > 0 or self.first_s_p99 <= FIRST_S_P99)


async def storm(here: Desk, there: Receivers, *, deliveries: int, kills: int, per_s: float = EVENTS_PER_S) -> Report:
    """What became of so many deliveries."""
    org_ids = []
    for org in range(ORGANISATIONS):
        here.org_id = await here.books.org(credit_nanos=1_000_000_000)
        org_ids.append(here.org_id)
        for at in range(RECEIVERS):
            await here.endpoint(there.url(f"/{KINDS[at]}/{org * RECEIVERS + at}"), "execution.started")
    events = deliveries // RECEIVERS
    async with _sending(here.database, kills, over_s=events / per_s):
        here.org_id = await here.books.org(credit_nanos=1_000_000)
        await here.started(there.url("/ok/ready"))
        await until(lambda: len(there.of("/ok/ready")) > 0)
        for at in range(events):
            here.org_id = org_ids[at % ORGANISATIONS]
            began = asyncio.get_running_loop().time()
            await here.started()
            await asyncio.sleep(max(0.0, 1 / per_s - (asyncio.get_running_loop().time() - began)))

        async def is_over() -> bool:
            return await here.books.one("SELECT count(*) FROM webhook_delivery WHERE state = 'PENDING'") == (0,)

        await until(is_over, within_s=600)
    return await _report(here, there, kills)


async def _report(here: Desk, there: Receivers, kills: int) -> Report:
    async with here.books.app.system() as connection:
        found = await connection.execute(
            "SELECT delivery.event_id, endpoint.url, delivery.state, delivery.reason, delivery.attempts,"
            " extract(epoch FROM first_attempt_at - delivery.created_at), endpoint.id"
            "  FROM webhook_delivery AS delivery JOIN webhook_endpoint AS endpoint ON endpoint.id = endpoint_id"
        )
        rows = [(row[0], here.sealed.url(row[6].bytes, row[1]), *row[2:]) for row in await found.fetchall()]
    accepted = Counter((each.path, each.event_id) for each in there.taken)
    delivered = {(_path(url), f"evt_{event_id}") for event_id, url, state, *_ in rows if state == "DELIVERED"}
    first_s = sorted(float(row[5]) for row in rows if "/flaky/" in row[1] and row[5] is not None)
    stopped = await here.books.one("SELECT count(*) FROM webhook_endpoint WHERE state <> 'ACTIVE'")
    return Report(
        deliveries=len(rows),
        delivered=len(delivered),
        dead=dict(Counter(row[3] for row in rows if row[2] == "DEAD")),
        deactivated=int(str(stopped[0])),
        attempts=sum(row[4] for row in rows),
        kills=kills,
        lost=sum(row[2] not in ("DELIVERED", "DEAD") for row in rows),
        untrue=len(delivered - set(accepted)),
        repeated=sum(count > 1 for count in accepted.values()),
        first_s_p50=round(first_s[len(first_s) // 2], 3),
        first_s_p99=round(first_s[len(first_s) * 99 // 100], 3),
    )


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


@asynccontextmanager
async def _sending(database: str, kills: int, *, over_s: float) -> AsyncIterator[None]:
    """A process that sends, killed and begun again so many times, evenly."""
    words = [sys.executable, "-m", __spec__.name, "--send", database]
    process = subprocess.Popen(words)  # noqa: ASYNC220  a test has the time

    async def kill_again_and_again() -> None:
        nonlocal process
        for _ in range(kills):
            await asyncio.sleep(over_s / (kills + 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(words)  # noqa: ASYNC220

    killing = asyncio.ensure_future(kill_again_and_again())
    try:
        yield
        await killing
    finally:
        killing.cancel()
        process.kill()
        process.wait()


async def _send(database: str) -> None:
    lane.REST_S, lane.TIMEOUT_REST_S, lane.REST_S_MAX = (0.5, 1.0, 1.0, 1.0, 1.0), 1.0, 1.0
    async with desk(database, is_sender=True) as here:
        await here.worker(SETTINGS).run()


async def run(database: str, *, deliveries: int, kills: int, seed: int, per_s: float = EVENTS_PER_S) -> Report:
    async with receivers(seed) as there, desk(database) as here:
        return await storm(here, there, deliveries=deliveries, kills=kills, per_s=per_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("deliveries", type=int, nargs="?", default=10_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--send", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.send:
        uvloop.run(_send(words.send))
        return
    with own_database() as (database, _):
        report = uvloop.run(run(database, deliveries=words.deliveries, kills=words.kills, seed=words.seed))
    print(json.dumps({"seed": words.seed} | msgspec.to_builtins(report)))
    sys.exit(0 if report.is_sound else 1)


if __name__ == "__main__":
    main()
