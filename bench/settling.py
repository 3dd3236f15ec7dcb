"""How many settlements a second one core books, PostgreSQL included: `./run python -m bench.settling [COUNT]`.

Batches of 500 of one node, eight leases, a fresh embedded PostgreSQL with the product's own settings. Pin it to a core
with `taskset -c 0` to read the figure as one core's.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psycopg

from waypost.kit.ids import Ids
from waypost.ledger.record import Close, ClosedAttempt, Open, Outcome
from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgres
from waypost.storage.ledger import PostgresLedger
from waypost.storage.orgs import create_org
from waypost.storage.partitions import ensure_partitions
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.wire.canonical import Usage

BATCH = 500
LEASES = 8
GRANT_NANOS = 10**15
COUNT = 50_000


class Figures(msgspec.Struct, frozen=True):
    settlements_per_s: float
    product_cpu_us: float  # each, without PostgreSQL
    server_cpu_us: float  # each, of the backend that books them


def _attempt(ids: Ids, org_id: bytes, lease_id: bytes, now_ms: int) -> ClosedAttempt:
    attempt_id = ids.new()
    opened = Open(
        attempt_id=attempt_id,
        execution_id=attempt_id,
        lease_id=lease_id,
        org_id=org_id,
        api_key_id=org_id,
        hold_nanos=1_000_000,
        cost_bound_nanos=1_000_000,
        price_version=1,
        attempt_number=1,
        opened_at_ms=now_ms,
        accepted_at_ms=now_ms,
        is_stream=True,
        model="swift-1",
        provider="alpha",
        deployment="alpha/alpha-large",
    )
    closed = Close(
        attempt_id=attempt_id,
        outcome=Outcome.COMPLETED,
        is_final=True,
        charge_nanos=1_000,
        cogs_nanos=800,
        closed_at_ms=now_ms + 900,
        first_content_ms=300,
        status=200,
        error_code="",
        usage=Usage(100, 0, 0, 0, 50, 0),
    )
    return ClosedAttempt(opened, closed)


async def measure(conninfo: str, count: int) -> Figures:
    """Book `count` attempts, one batch after the other."""
    ids, now_ms = Ids(), time.time_ns() // 1_000_000
    ledger, app, owner = (
        PostgresLedger(conninfo, connections_max=1),
        Pool(conninfo, Role.APP),
        Pool(conninfo, Role.OWNER),
    )
    await ensure_partitions(owner, now_ms)
    org_id, node_id = ids.new(), ids.new()
    await create_org(app, ledger, org_id=org_id, name="Acme", is_unlimited=True)
    epoch = await ledger.register_node(node_id)
    leases = [ids.new() for _ in range(LEASES)]
    for lease_id in leases:
        await ledger.grant(
            lease_id=lease_id, org_id=org_id, node_id=node_id, node_epoch=epoch, amount_nanos=GRANT_NANOS
        )
    batches = [
        [_attempt(ids, org_id, leases[number % LEASES], now_ms) for number in range(BATCH)]
        for _ in range(count // BATCH)
    ]
    await ledger.settle_batch(batches.pop())  # plans and caches
    pid = await _backend_that_settles(conninfo)
    started, cpu, server = time.perf_counter(), _cpu_s(), _cpu_of(pid)
    for batch in batches:
        await ledger.settle_batch(batch)
    rows, elapsed = len(batches) * BATCH, time.perf_counter() - started
    figures = Figures(rows / elapsed, (_cpu_s() - cpu) / rows * 1e6, (_cpu_of(pid) - server) / rows * 1e6)
    for part in (ledger.close_connections, app.close, owner.close):
        await part()
    return figures


async def _backend_that_settles(conninfo: str) -> int:
    # As who logs in: the roles of the product do not see each other's statements. Those are shown by their beginning.
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        find = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%WITH open_lease%' AND pid <> pg_backend_pid()"
        row = await (await connection.execute(find)).fetchone()
    assert row is not None
    return int(row[0])


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start a server, measure, print one line of JSON."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        try:
            conninfo = server.start()
            migrate(conninfo)
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            figures = asyncio.run(measure(conninfo, count))
        finally:
            server.stop()
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
