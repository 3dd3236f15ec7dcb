"""A gateway's money for the simulation: the real wallet, journal, settler and recovery, on a connection that fails.

Callers and providers are played by the schedule: what an attempt costs and charges is drawn, within its hold and bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tests.gateway.disk import Killed, closed, kill, sync_at_once
from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.ports import KeptLedger, LedgerUnavailable
from waypost.gateway.recovery import recover
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import Hold, NodeIdentity, Wallet
from waypost.kit.money import Nanos
from waypost.ledger.record import (
    Balance,
    ClosedAttempt,
    Extend,
    Heartbeat,
    InsufficientFunds,
    NodeSuperseded,
    Open,
    Progress,
)
from waypost.tenancy.budget import Chain

if TYPE_CHECKING:
    from tests.simulation.real import Schedule

Answer = TypeVar("Answer")


class Call:
    """A call on its way to the database. The schedule decides when it arrives, and whether its answer comes back."""

    def __init__(self, line: Line, work: Callable[[], Awaitable[Any]]) -> None:
        self.line = line
        self.work = work
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def arrive(self, *, is_answered: bool = True) -> None:
        """Carry it out, and tell who asked, unless the answer is lost."""
        try:
            answer = await self.work()
        except (LedgerUnavailable, AssertionError):
            raise  # the proof's own
        except Exception as error:  # noqa: BLE001  it is the product's to handle
            self.fail(error if is_answered else LedgerUnavailable())
            return
        if not is_answered:
            self.fail(LedgerUnavailable())
        elif not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # a dead node hears nothing


class Line:
    """A node's connection: `gateway.ports.KeptLedger`."""

    def __init__(self, world: Schedule) -> None:
        self._world = world
        self.is_up = True

    async def register_node(self, node_id: bytes) -> int:
        return await self._call(lambda: self._world.books.register_node(node_id))

    async def grant(
        self,
        *,
        lease_id: bytes,
        org_id: bytes,
        node_id: bytes,
        node_epoch: int,
        amount_nanos: Nanos,
        owners: Sequence[bytes] = (),
    ) -> Nanos:
        return await self._call(
            lambda: self._world.books.grant(
                lease_id=lease_id,
                org_id=org_id,
                node_id=node_id,
                node_epoch=node_epoch,
                amount_nanos=amount_nanos,
                owners=owners,
            )
        )

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        return await self._call(
            lambda: self._world.books.extend(lease_id=lease_id, from_nanos=from_nanos, to_nanos=to_nanos)
        )

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        rows, dice = list(batch), self._world.dice
        if dice.random() < 0.2:
            dice.shuffle(rows)
            rows += rows[:2]
        await self._call(lambda: self._world.books.settle_batch(rows))
        if dice.random() < 0.1:  # the network brings it once more, when nobody waits for it
            self._world.calls.append(Call(self, lambda: self._world.books.settle_batch(rows)))

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        return await self._call(
            lambda: self._world.books.report_holds(held_nanos, node_id=node_id, node_epoch=node_epoch)
        )

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        await self._call(
            lambda: self._world.books.release(lease_id=lease_id, released_nanos=released_nanos, is_last=is_last)
        )

    async def snapshot(self, org_id: bytes) -> Balance:
        return await self._call(lambda: self._world.books.snapshot(org_id))

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        await self._call(lambda: self._world.books.finish_recovery(node_id=node_id, node_epoch=node_epoch))

    async def _call(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        if not self.is_up:
            raise LedgerUnavailable
        call = Call(self, work)
        self._world.calls.append(call)
        return cast(Answer, await call.answer)


class Running:
    """An execution under way: its hold, and the attempt that is open."""

    def __init__(self, hold: Hold, record: Open) -> None:
        self.hold = hold
        self.record = record


class Node:
    def __init__(self, world: Schedule, name: bytes) -> None:
        self.world = world
        self.name = name
        self.is_alive = False
        self.is_paused = False
        self.tasks: dict[asyncio.Task[None], None] = {}  # in the order of their start, which a death keeps to
        self.running: list[Running] = []
        self.unsynced: set[bytes] = set()  # attempts with a record that a power loss may take
        self.books_it: asyncio.Task[None] | None = None
        self.beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        world = self.world
        epoch = await world.books.register_node(self.name)
        self.line = Line(world)
        self.disk = world.make_disk(self)
        self.unsynced.clear()
        self.running = []
        self.journal = Journal.open_dir(
            world.directory / self.name.decode(),
            segment_bytes=2 << 10,  # six attempts
            emergency_bytes=8 << 10,
            segments_max=12,
            files=self.disk,
        )
        sync_at_once(self.journal, lambda: world.killed.append(self))  # no seed decides how fast a thread is
        ledger = cast(KeptLedger, self.line)
        self.settler = Settler(
            ledger, self.journal, world.clock, on_refused=lambda refused, _: world.refused.append(refused)
        )
        identity = NodeIdentity(self.name, epoch, nodes=len(world.nodes))
        self.wallet = Wallet(ledger, self.journal, world.ids, world.clock, identity, self.settler, pause=world.pause)
        self.is_alive, self.is_paused, self.epoch = True, False, epoch
        recovery = recover(self.journal, 0)
        assert recovery.damages == []
        for row in recovery.attempts:
            self.settler.add(row)
        self.recovered = frozenset(row.open.lease_id for row in recovery.attempts)
        self.has_finished_recovery = False

    def die(self, *, is_power_lost: bool) -> None:
        self.is_alive = self.line.is_up = False
        for task in [*self.tasks, self.books_it, self.beats]:
            if task is not None:
                task.cancel()
        for account in self.wallet._accounts.values():
            if account.turn is not None:
                account.turn.cancel()
        self.disk.bytes_until_death = 0
        kill(self.journal)
        if is_power_lost:
            self.world.may_be_lost |= self.unsynced
            self.disk.lose_power(self.world.dice)

    def check(self) -> None:
        for lease in self.wallet._leases():
            held = sum(one.hold.amount_nanos for one in self.running if one.hold.lease_id == lease.lease_id)
            assert lease.held_nanos == held
            assert 0 <= lease.spent_nanos + lease.held_nanos + lease.returned_nanos <= lease.granted_nanos
            if lease.granted_nanos:
                assert lease.granted_nanos <= self.world.books.model.leases[lease.lease_id.hex()].granted

    # What callers and providers do.

    def request(self) -> None:
        world = self.world
        org_id, amount = world.dice.choice(world.orgs), world.dice.randint(1, world.hold_max)
        chain = world.dice.choice((None, None, world.chains[org_id]))
        hold = self.wallet.hold(org_id, amount, chain)
        if hold is not None:
            self.begin(hold, org_id)
            return
        task = self._start(self._request_after_grant(org_id, amount, chain))
        if world.dice.random() < 0.05:
            task.cancel()

    async def _request_after_grant(self, org_id: bytes, amount: Nanos, chain: Chain | None) -> None:
        try:
            hold = await self.wallet.hold_with_grant(org_id, amount, chain)
            if self.is_alive:
                self.begin(hold, org_id)
        except InsufficientFunds:
            self.world.counts["refused"] += 1
        except NodeSuperseded:
            self.world.counts["superseded"] += 1
        except (LedgerUnavailable, LookupError, JournalFull, JournalFailed):
            self.world.counts["unavailable"] += 1
        except Killed:
            self.world.killed.append(self)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self.tasks[task] = None
        task.add_done_callback(self.tasks.pop)
        return task

    def begin(self, hold: Hold, org_id: bytes) -> None:
        record = self.world.opened(hold, org_id)
        try:
            self.open(record)
        except (JournalFull, JournalFailed):
            self.wallet.release(hold)
            return
        self.running.append(Running(hold, record))

    def open(self, record: Open) -> None:
        """OPEN, and then the first byte to the provider."""
        self.unsynced.add(record.attempt_id)
        self.journal.open(record)
        self.world.send(record)

    def finish(self) -> None:
        """Some attempt ends: failed, with another one after it, or as its execution's end."""
        world, dice = self.world, self.world.dice
        one = dice.choice(self.running)
        record = one.record
        cost = world.bill[record.attempt_id] = dice.randint(0, record.cost_bound_nanos)
        is_committed = world.delivered[record.attempt_id] > 0  # then there is no failover
        if record.attempt_number < 3 and not is_committed and dice.random() < 0.25:
            self.go_on(one, ClosedAttempt(record, closed(record, is_final=False, cogs=cost)))
            return
        charge = dice.randint(0, one.hold.amount_nanos)
        self.running.remove(one)
        self.end(ClosedAttempt(record, closed(record, charge=charge, cogs=cost)))
        self.wallet.settle(one.hold, charge)

    def go_on(self, one: Running, failed: ClosedAttempt) -> None:
        """To another attempt, or where there is no room for its OPEN, to the end."""
        following = self.world.opened(one.hold, failed.open.org_id, after=failed.open)
        # Both orders occur; after the one a crash leaves an execution with no attempt open.
        is_closed_first = self.world.dice.random() < 0.5
        if is_closed_first:
            self.end(failed)
        try:
            self.open(following)
        except (JournalFull, JournalFailed):
            self.running.remove(one)
            self.end(ClosedAttempt(failed.open, closed(failed.open, charge=0, cogs=failed.close.cogs_nanos)))
            self.wallet.settle(one.hold, 0)
            return
        if not is_closed_first:
            self.end(failed)
        one.record = following

    def extend(self) -> None:
        """More of an answer is wanted than its hold covers: raised from the lease, journaled, and then delivered."""
        one, extra = self.world.dice.choice(self.running), self.world.dice.randint(1, self.world.hold_max // 2)
        more = self.wallet.hold(one.record.org_id, extra, one.hold.chain)
        if more is None:
            return
        total = one.hold.amount_nanos + more.amount_nanos
        is_one = more.lease_id == one.hold.lease_id
        self.world.holds[one.record.attempt_id] = total  # a death may come while it is being written
        if is_one and self.journal.extend(Extend(one.record.attempt_id, total)):
            one.hold.absorb(more)
            self.world.counts["extended"] += 1
        else:
            self.world.holds[one.record.attempt_id] = one.hold.amount_nanos
            self.wallet.release(more)

    def progress(self) -> None:
        """So much has been delivered by now."""
        one = self.world.dice.choice(self.running)
        worth = self.world.dice.randint(self.world.delivered[one.record.attempt_id], one.hold.amount_nanos)
        self.world.delivered[one.record.attempt_id] = worth
        self.journal.progress(Progress(one.record.attempt_id, 1, 2, worth))

    def end(self, row: ClosedAttempt) -> None:
        self.unsynced.add(row.open.attempt_id)
        self.world.ending[row.open.attempt_id] = row
        self.journal.close(row.close)
        self.settler.add(row)
        if not self.journal.is_failed:  # else it is in memory alone, until it is booked
            self.world.ended.add(row.open.attempt_id)

    # What goes on beside it; one of each at a time.

    def settle(self) -> None:
        if self.books_it is None or self.books_it.done():
            self.books_it = asyncio.ensure_future(self._settle())

    async def _settle(self) -> None:
        try:
            await self.settler.book()
            is_over = not self.has_finished_recovery and all(map(self.settler.is_booked, self.recovered))
            if is_over and self.world.dice.random() < 0.5:
                await self.line.finish_recovery(node_id=self.name, node_epoch=self.epoch)
                self.has_finished_recovery = True
        except (LedgerUnavailable, JournalFull, JournalFailed):
            self.world.counts["unavailable"] += 1
        except Killed:
            self.world.killed.append(self)

    def beat(self) -> None:
        if self.beats is None or self.beats.done():
            self.beats = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        try:
            await self.wallet.refill()
            await self.wallet.beat()
        except (LedgerUnavailable, JournalFull, JournalFailed):
            self.world.counts["unavailable"] += 1
        except Killed:
            self.world.killed.append(self)
