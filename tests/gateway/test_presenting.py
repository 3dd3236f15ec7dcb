"""Gateways whose database fails over to a standby that lags: they tell it what it lost, and every nano is where it was.

On real PostgreSQL: the standby is a copy of the database at a moment, and what is done after it is lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.gateway.disk import attempt as any_attempt
from tests.gateway.disk import kill, sync_at_once, write
from tests.storage.books import IDS, Books, attempt
from tests.storage.lagging import Server, copied, pass_time, promote
from waypost.gateway import presenting
from waypost.gateway.hold import Hold, NodeIdentity
from waypost.gateway.journal import Journal
from waypost.gateway.presenting import Presenter
from waypost.gateway.recovery import REPLAYED_S, closed_since, recover
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import IDLE_S, Wallet
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.ledger.record import ClosedAttempt, LedgerPromoted, Outcome
from waypost.storage.promotion import GRACE_S

MILLION = 1_000_000


class Clock(SystemClock):
    """Later than it is, by what a test says."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class Gateway:
    """The books of one gateway process, moved by hand."""

    def __init__(self, directory: Path, server: Server, node: NodeIdentity) -> None:
        self.node, self.server, self.clock = node, server, Clock()
        self.journal = Journal.open_dir(directory, segment_bytes=64 << 10, emergency_bytes=16 << 10, kept_segments=2)
        sync_at_once(self.journal)
        self.settler = Settler(server, self.journal, self.clock, on_refused=_refused)
        self.wallet = Wallet(server, self.journal, Ids(), self.clock, node, self.settler)
        self.presenter = Presenter(
            server, self.wallet, self.journal, self.settler, self.clock, node, on_refused=_refused
        )
        self.noticed = 0
        self.wallet.on_promoted = self._notice
        self.charged: list[ClosedAttempt] = []

    def _notice(self) -> None:
        self.noticed += 1

    async def serve(self, org_id: bytes, charge_nanos: int) -> None:
        """A request that is held, answered and charged, and not yet booked."""
        self.end(await self.wallet.hold_with_grant(org_id, 2 * charge_nanos), org_id, charge_nanos)

    def end(self, hold: Hold, org_id: bytes, charge_nanos: int) -> None:
        one = attempt(org_id, hold.lease_id, charge_nanos, hold_nanos=hold.amount_nanos)
        write(self.journal, one)
        self.settler.add(one)
        self.wallet.settle(hold, charge_nanos)
        self.charged.append(one)

    async def book(self) -> None:
        while self.settler.backlog:
            await self.settler.book()

    async def return_all(self) -> None:
        """What is idle goes back."""
        self.clock.ahead_s += IDLE_S + 1
        await self.wallet.beat()

    async def close(self) -> None:
        await self.book()
        assert await self.wallet.close_all() == 0
        self.journal.shut()


class Silences:
    """For how long a server has heard nothing of a gateway whose batches take long."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.seen_s: list[float] = []

    async def __call__(self) -> None:
        step_s = presenting.BEAT_S + 1
        self._gateway.clock.ahead_s += step_s
        async with _reading(self._gateway.server.conninfo) as books:
            async with books.owner.connection() as connection:
                sql = "UPDATE node SET heartbeat_at = heartbeat_at - make_interval(secs => %s)"
                await connection.execute(sql, (step_s,))
            [silence_s] = await books.one("SELECT extract(epoch FROM now() - heartbeat_at)::float8 FROM node")
        assert isinstance(silence_s, float)
        self.seen_s.append(silence_s)


def _refused(_: ClosedAttempt, error: Exception) -> None:
    raise AssertionError("no row is refused") from error


@asynccontextmanager
async def gateways(directory: Path, conninfo: str, *names: str) -> AsyncIterator[list[Gateway]]:
    started: list[Gateway] = []
    try:
        for name in names:
            started += [await start(directory / name, conninfo)]
        yield started
    finally:
        for one in started:
            await one.server.close_connections()


async def start(directory: Path, conninfo: str, node_id: bytes | None = None) -> Gateway:
    server, node_id = Server(conninfo), node_id or IDS.new()
    epoch = await server.register_node(node_id)
    await server.stand_for(node_id=node_id, node_epoch=epoch)
    return Gateway(directory, server, NodeIdentity(node_id, epoch, nodes=2))


async def move(conninfo: str, *all_gateways: Gateway) -> None:
    for one in all_gateways:
        await one.server.move_to(conninfo)


async def resume(*present: Gateway) -> None:
    """Each presents itself until all have everything, and the moment for those who are new is over."""
    waiting = list(present)
    for _ in range(3):
        waiting = [one for one in waiting if not await one.presenter.present()]
        for one in waiting:
            await one.book()
    assert waiting == []
    pass_time(present[0].server.conninfo, GRACE_S + 1)
    assert await present[0].server.resume_granting()


async def organisation(conninfo: str, credit_nanos: int) -> bytes:
    async with _reading(conninfo) as books:
        return await books.org(credit_nanos)


async def check(conninfo: str, org_id: bytes, credit_nanos: int, charged: list[ClosedAttempt]) -> None:
    """Every lease is closed, each request is charged once, and what was not charged is available."""
    async with _reading(conninfo) as books:
        totals = await books.totals()
        spent = sum(one.close.charge_nanos for one in charged)
        assert (totals.charged_nanos, totals.house_nanos, totals.suspense_nanos) == (spent, 0, 0)
        assert totals.cogs_nanos == sum(one.close.cogs_nanos for one in charged)
        assert (await books.ledger.snapshot(org_id)).available_nanos == credit_nanos - spent
        assert await books.one("SELECT count(*) FROM settlement") == (len(charged),)
        assert await books.one("SELECT count(*), sum(charge) FROM execution") == (len(charged), spent)
        assert await books.one("SELECT count(*) FROM lease WHERE state <> 'CLOSED'") == (0,)


@asynccontextmanager
async def _reading(conninfo: str) -> AsyncIterator[Books]:
    books = Books(conninfo)
    try:
        yield books
    finally:
        await books.ledger.close_connections()
        await books.app.close()
        await books.owner.close()


async def test_what_a_standby_had_not_received_is_told_again_before_anybody_is_granted_more(
    database: str, tmp_path: Path
) -> None:
    org_id = await organisation(database, 10_000 * MILLION)
    async with gateways(tmp_path, database, "a", "b") as [a, b]:
        await a.serve(org_id, 10 * MILLION)
        await a.book()
        await move(database, a, b)  # nobody is connected
        with copied(database) as standby:
            for one in (a, b):
                await one.serve(org_id, 20 * MILLION)
                await one.book()
            c = await start(tmp_path / "c", database)  # the standby has never heard of it
            await c.serve(org_id, 30 * MILLION)
            await c.book()
            await a.return_all()
            await a.serve(org_id, 7 * MILLION)  # of a new lease, and not booked
            held = await b.wallet.hold_with_grant(org_id, 100 * MILLION)

            await move(standby, a, b, c)
            promote(standby, silent_s=300)
            for one in (a, b, c):
                with pytest.raises(LedgerPromoted):
                    await one.wallet.hold_with_grant(org_id, 9_000 * MILLION)
                await one.wallet.beat()
                assert one.noticed == 1
            at_hand = a.wallet.hold(org_id, MILLION)  # a lease goes on
            assert at_hand is not None
            a.end(at_hand, org_id, MILLION)
            with pytest.raises(LedgerPromoted):
                await a.settler.book()  # its lease is not there yet: nothing falls to the house
            await resume(b, c, a)

            b.end(held, org_id, 90 * MILLION)
            for one in (a, b, c):
                await one.serve(org_id, MILLION)
                await one.wallet.beat()
                assert one.noticed == 1
                await one.close()
            await c.server.close_connections()
            await check(standby, org_id, 10_000 * MILLION, a.charged + b.charged + c.charged)


async def test_money_that_one_gave_back_and_another_took_is_nobodys_twice(database: str, tmp_path: Path) -> None:
    credit_nanos = 100 * MILLION
    org_id = await organisation(database, credit_nanos)
    async with gateways(tmp_path, database, "a", "b") as [a, b]:
        await a.serve(org_id, 40 * MILLION)
        await move(database, a, b)
        with copied(database) as standby:
            await a.book()
            await a.return_all()
            held = await b.wallet.hold_with_grant(org_id, 60 * MILLION)  # all that there is
            await move(standby, a, b)
            promote(standby)

            assert not await b.presenter.present()  # the standby has most of it with the other
            with pytest.raises(LedgerPromoted):
                await a.wallet.hold_with_grant(org_id, MILLION)
            await resume(a, b)

            b.end(held, org_id, 60 * MILLION)
            for one in (a, b):
                await one.close()
            await check(standby, org_id, credit_nanos, a.charged + b.charged)


async def test_a_lease_that_went_back_gives_its_money_to_the_one_that_came_after(database: str, tmp_path: Path) -> None:
    org_id = await organisation(database, 100 * MILLION)
    async with gateways(tmp_path, database, "a") as [a]:
        await a.serve(org_id, 40 * MILLION)
        await move(database, a)
        with copied(database) as standby:
            await a.serve(org_id, 5 * MILLION)
            await a.book()
            await a.return_all()
            held = await a.wallet.hold_with_grant(org_id, 50 * MILLION)
            await move(standby, a)
            promote(standby)

            assert not await a.presenter.present()  # the wallet is as empty as it was
            await resume(a)

            a.end(held, org_id, 50 * MILLION)
            await a.close()
            await check(standby, org_id, 100 * MILLION, a.charged)


async def test_a_gateway_that_dies_with_the_database_tells_at_its_next_start_what_was_booked(
    database: str, tmp_path: Path
) -> None:
    org_id = await organisation(database, 10_000 * MILLION)
    async with gateways(tmp_path, database, "a") as [a]:
        await a.serve(org_id, MILLION)
        await move(database, a)
        with copied(database) as standby:
            await a.serve(org_id, 20 * MILLION)
            await a.wallet.hold_with_grant(org_id, 1_000 * MILLION)
            await a.serve(org_id, 600 * MILLION)
            await a.book()
            kill(a.journal)
            await move(standby, a)
            promote(standby)

            again = await start(tmp_path / "a", standby, a.node.node_id)
            recovered = recover(again.journal, 0, is_whole=await again.server.has_to_present(a.node.node_id)).attempts
            assert {one.open.attempt_id for one in recovered} == {one.open.attempt_id for one in a.charged}
            for one in recovered:
                again.settler.add(one)
            again.clock.ahead_s += 1
            assert not await again.presenter.present()  # before it is booked
            await again.book()
            await resume(again)

            await again.serve(org_id, MILLION)
            await again.close()
            await again.server.finish_recovery(node_id=again.node.node_id, node_epoch=again.node.epoch)
            await again.server.close_connections()
            await check(standby, org_id, 10_000 * MILLION, a.charged + again.charged)


async def test_a_lost_credit_leaves_nobody_with_money_that_is_not_there(database: str, tmp_path: Path) -> None:
    org_id = await organisation(database, 100 * MILLION)
    async with gateways(tmp_path, database, "a") as [a]:
        await move(database, a)
        with copied(database) as standby:
            await a.server.topup(org_id=org_id, amount_nanos=400 * MILLION, reference="payment")
            held = await a.wallet.hold_with_grant(org_id, 300 * MILLION)
            await move(standby, a)
            promote(standby)

            assert not await a.presenter.present()
            assert a.wallet.hold(org_id, 1) is None
            assert await a.server.topup(org_id=org_id, amount_nanos=400 * MILLION, reference="payment")
            await resume(a)

            a.end(held, org_id, 250 * MILLION)
            await a.close()
            await check(standby, org_id, 500 * MILLION, a.charged)


async def test_a_lease_whose_last_return_was_never_answered_is_not_paid_for_again(
    database: str, tmp_path: Path
) -> None:
    org_id = await organisation(database, 100 * MILLION)
    async with gateways(tmp_path, database, "a") as [a]:
        await a.serve(org_id, 5 * MILLION)
        await a.book()
        a.server.is_answer_lost = True
        await a.return_all()
        a.server.is_answer_lost = False
        assert a.wallet.leases == 1
        promote(database)  # with every commit
        await resume(a)

        await a.wallet.beat()
        assert a.wallet.leases == 0
        await a.serve(org_id, 7 * MILLION)
        await a.close()
        await check(database, org_id, 100 * MILLION, a.charged)


async def test_a_gateway_that_books_again_for_long_does_not_count_as_lost(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presenting, "BATCH_MAX", 1)
    org_id = await organisation(database, 100 * MILLION)
    async with gateways(tmp_path, database, "a") as [a]:
        for _ in range(6):
            await a.serve(org_id, MILLION)
        await a.book()
        promote(database)
        a.server.on_settling = silences = Silences(a)

        await resume(a)

        assert len(silences.seen_s) == 6
        assert max(silences.seen_s) < 2.5 * presenting.BEAT_S
        await a.close()


def test_booked_segments_are_kept_for_it_until_the_next_run_has_looked_at_them(tmp_path: Path) -> None:
    journal = Journal.open_dir(tmp_path, segment_bytes=64 << 10, emergency_bytes=16 << 10, kept_segments=2)
    rows = []
    for _ in range(700):
        rows.append(any_attempt())
        write(journal, rows[-1])
        journal.acknowledge(rows[-1:])
        journal.maintain()

    found = list(closed_since(journal, 0))

    assert 300 < len(found) < 700
    assert found == rows[-len(found) :]
    assert len(journal.paths) == 3
    since_ms = found[-1].close.closed_at_ms
    assert list(closed_since(journal, since_ms + 1)) == []
    journal.shut()
    again = Journal.open_dir(tmp_path, segment_bytes=64 << 10, emergency_bytes=16 << 10)
    assert recover(again, 0).attempts == []
    assert len(recover(again, 0, is_whole=True).attempts) == len(found)
    for row in found:
        again.acknowledge([row])
    again.maintain()
    again.shut()
    assert list(tmp_path.glob("*.wal")) == []


def test_a_start_keeps_what_the_run_before_booked_in_the_last_minutes(tmp_path: Path) -> None:
    rows = []
    for _ in range(3):  # each a run
        journal = Journal.open_dir(tmp_path, segment_bytes=64 << 10, emergency_bytes=16 << 10, kept_segments=2)
        assert recover(journal, SystemClock().unix_ns() // 1_000_000).attempts == []
        journal.maintain()
        rows.append(any_attempt())
        write(journal, rows[-1])
        journal.acknowledge(rows[-1:])
        assert list(closed_since(journal, 0)) == rows
        kill(journal)  # what was allocated ahead and never written to is nothing to keep

    later_ms = SystemClock().unix_ns() // 1_000_000 + 1000 * REPLAYED_S
    last = Journal.open_dir(tmp_path, segment_bytes=64 << 10, emergency_bytes=16 << 10, kept_segments=2)
    assert list(closed_since(last, 0)) == rows[-3:]
    assert recover(last, later_ms).attempts == []
    last.maintain()
    assert list(closed_since(last, 0)) == []
    last.shut()


def test_an_attempt_under_way_is_not_told_and_one_that_failed_last_ends_its_execution(tmp_path: Path) -> None:
    journal = Journal.open_dir(tmp_path, segment_bytes=64 << 10, emergency_bytes=16 << 10)
    failed = attempt(b"organisation-001", b"lease-number-001", 0, is_final=False, outcome=Outcome.FAILED)
    write(journal, failed)
    last = replace(failed.close, is_final=True, status=503)
    journal.close(last)
    under_way = replace(failed.open, attempt_id=IDS.new(), execution_id=IDS.new())
    journal.open(under_way)

    assert [one.close.is_final for one in closed_since(journal, 0)] == [False, True]
    journal.shut()
