"""A real standby that lags is promoted under gateways that run: nothing is granted before they told it what it lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psycopg
import pytest

from tests.gateway.test_presenting import MILLION, Gateway, check, gateways, organisation
from tests.storage.replicated import replicated
from waypost.gateway.ports import LedgerUnavailable
from waypost.kit.money import Nanos
from waypost.storage import promotion

PATIENCE_S = 30.0


PRESENTED = "SELECT bool_and(node.timeline = 2) AND bool_and(ledger_timeline.timeline = 2) FROM node, ledger_timeline"


async def _serve_when_granted(gateway: Gateway, org_id: bytes, amount_nanos: Nanos) -> int:
    """Ask for more than the lease has until it is granted, when every node must be done; how often it was refused."""
    gives_up_s, refused = time.monotonic() + PATIENCE_S, 0
    while True:
        assert time.monotonic() < gives_up_s
        try:
            hold = await gateway.wallet.hold_with_grant(org_id, amount_nanos)
        except LedgerUnavailable:
            refused += 1
            await asyncio.sleep(0.05)
        else:
            with psycopg.connect(gateway.server.conninfo) as connection:
                assert connection.execute(PRESENTED).fetchone() == (True,)
            gateway.end(hold, org_id, 1 * MILLION)
            return refused


@pytest.mark.slow
async def test_a_promoted_standby_that_lagged_ends_with_the_books_that_the_lost_server_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "GRACE_S", 1)
    with replicated() as pair:
        org_id = await organisation(pair.conninfo, 10_000 * MILLION)
        async with gateways(tmp_path, pair.conninfo, "a", "b") as [a, b]:
            await a.serve(org_id, 10 * MILLION)
            await a.book()
            pair.catch_up()
            pair.cut()
            for one in (a, b):
                for _ in range(3):
                    await one.serve(org_id, 20 * MILLION)
                await one.book()
            await a.return_all()
            await a.serve(org_id, 7 * MILLION)  # of a lease that is lost, and not booked
            held = await b.wallet.hold_with_grant(org_id, 100 * MILLION)
            b.wallet.on_promoted, a.wallet.on_promoted = b.presenter.notice, a.presenter.notice
            pair.fail_over()

            with psycopg.connect(pair.conninfo) as connection:
                timelines = connection.execute("SELECT timeline, current_timeline() FROM ledger_timeline").fetchone()
                kept = connection.execute("SELECT count(*) FROM settlement").fetchone()
            assert timelines == (1, 2)
            assert kept == (1,)  # of 7 that were booked
            async with asyncio.TaskGroup() as group:
                parts = [each.run() for one in (a, b) for each in (one.wallet, one.settler, one.presenter)]
                running = [group.create_task(part) for part in parts]
                refused = await asyncio.gather(*(_serve_when_granted(one, org_id, 900 * MILLION) for one in (a, b)))
                for task in running:
                    task.cancel()

            assert all(refused)
            b.end(held, org_id, 90 * MILLION)
            for one in (a, b):
                await one.close()
            assert len(a.charged) + len(b.charged) == 11
            await check(pair.conninfo, org_id, 10_000 * MILLION, a.charged + b.charged)
