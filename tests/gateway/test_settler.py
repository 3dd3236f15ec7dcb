"""Booking what was closed: in batches, again after a failure, and never stuck behind one bad row."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.disk import LEASE, ORG, attempt, write
from tests.gateway.fake_ledger import LeaseRow
from tests.gateway.test_wallet import Desk, funded
from waypost.gateway.settler import BATCH_MAX
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import ClosedAttempt


def desk_with_lease(directory: Path) -> Desk:
    desk = Desk(directory, funded(NANOS_PER_USD))
    desk.ledger.wallets[ORG] -= NANOS_PER_USD // 2
    desk.ledger.leases[LEASE] = LeaseRow(ORG, b"node", 1, NANOS_PER_USD // 2)
    return desk


def end(desk: Desk) -> ClosedAttempt:
    one = attempt()
    write(desk.journal, one)
    desk.settler.add(one)
    return one


def gauges(desk: Desk) -> tuple[bool, int, float]:
    return desk.settler.is_ledger_reachable, desk.settler.backlog, desk.settler.oldest_age_s


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.ensure_future(desk.settler.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_ends_is_booked_in_batches_and_leaves_the_journal(tmp_path: Path) -> None:
    desk = desk_with_lease(tmp_path)
    ended = [end(desk) for _ in range(1200)]
    assert not desk.settler.is_booked(LEASE)

    async with running(desk):
        assert await desk.settler.drain(10)

    assert set(desk.ledger.settlements) == {one.open.attempt_id for one in ended}
    assert desk.ledger.calls == ["settle_batch"] * -(-1200 // BATCH_MAX)
    assert desk.settler.is_booked(LEASE)
    assert desk.settler.backlog == 0
    assert desk.journal.unfinished == 0
    desk.ledger.check_sums()


async def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    desk = desk_with_lease(tmp_path)
    ended = [end(desk) for _ in range(100)]
    desk.ledger.poison.add(ended[37].open.attempt_id)

    async with running(desk):
        assert await desk.settler.drain(10)

    assert len(desk.ledger.settlements) == 99
    assert desk.settler.refused == 1
    assert desk.refused == [(ended[37], ValueError)]
    assert desk.journal.unfinished == 1
    assert not desk.settler.is_booked(LEASE)


async def test_an_outage_delays_and_loses_nothing(tmp_path: Path) -> None:
    desk = desk_with_lease(tmp_path)
    desk.connection.is_up = False
    end(desk)
    desk.clock.now_s += 3

    async with running(desk):
        assert not await desk.settler.drain(0.05)
        assert gauges(desk) == (False, 1, 3)
        desk.connection.is_up = True
        assert await desk.settler.drain(10)

    assert len(desk.ledger.settlements) == 1
    assert gauges(desk) == (True, 0, 0)
