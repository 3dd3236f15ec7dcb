"""Whole nodes under random faults: lost replies, duplicated and shuffled batches, outages, kills at any byte written.

One seed is one schedule. What must hold is checked after every step, and to the nano when all is quiet again.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.gateway.disk import Disk, Killed, closed, kill, opened, sync_at_once
from tests.gateway.fake_ledger import Connection, FakeLedger
from tests.gateway.test_wallet import FakeClock
from waypost.gateway.journal import Journal, JournalFull
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.recovery import recover
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import Hold, NodeIdentity, Wallet
from waypost.kit.ids import Ids
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import ClosedAttempt, InsufficientFunds, Open, Outcome

SEEDS = 240
STEPS = 120
CENT = NANOS_PER_USD // 100
ORGS = (b"organisation-a-.", b"organisation-b-.")


class Running:
    """An execution under way: its hold, and the attempt that is open."""

    def __init__(self, hold: Hold, record: Open) -> None:
        self.hold = hold
        self.record = record


class Node:
    def __init__(self, world: World, name: bytes) -> None:
        self.world = world
        self.name = name
        self.is_alive = False

    async def start(self) -> None:
        world = self.world
        self.connection = Connection(world.ledger, world.dice, fault_rate=0.05)
        self.disk = Disk()
        self.ids = Ids()
        self.tasks: set[asyncio.Task[None]] = set()
        self.running: list[Running] = []
        epoch = await world.ledger.register_node(self.name)
        self.journal = Journal.open_dir(
            world.directory / self.name.decode(),
            segment_bytes=2 << 10,  # six attempts
            emergency_bytes=8 << 10,
            segments_max=12,
            files=self.disk,
        )
        sync_at_once(self.journal)
        self.settler = Settler(
            self.connection, self.journal, world.clock, on_refused=lambda refused, _: world.refused.append(refused)
        )
        identity = NodeIdentity(self.name, epoch, nodes=2)
        self.wallet = Wallet(self.connection, self.journal, self.ids, world.clock, identity, self.settler, pause=_pass)
        self.epoch = epoch
        self.is_alive = True
        recovery = recover(self.journal, 0)
        assert recovery.damages == []
        for row in recovery.attempts:
            self.settler.add(row)

    def die(self) -> None:
        self.is_alive = self.connection.is_alive = False
        self.disk.bytes_until_death = 0
        for task in self.tasks:
            task.cancel()
        for account in self.wallet._accounts.values():
            if account.turn is not None:
                account.turn.cancel()
        kill(self.journal)

    def check(self) -> None:
        for account in self.wallet._accounts.values():
            if (lease := account.lease) is not None:
                held = sum(one.hold.amount_nanos for one in self.running if one.hold.lease_id == lease.lease_id)
                assert lease.held_nanos == held
                assert 0 <= lease.spent_nanos + lease.held_nanos + lease.returned_nanos <= lease.granted_nanos
                if lease.granted_nanos:
                    assert lease.granted_nanos <= self.world.ledger.leases[lease.lease_id].granted

    # What callers and providers do.

    def request(self) -> None:
        dice = self.world.dice
        org_id, amount = dice.choice(ORGS), dice.randint(1, 8 * CENT)
        hold = self.wallet.hold(org_id, amount)
        if hold is not None:
            self.begin(hold)
        else:
            task = asyncio.ensure_future(self._request_after_grant(org_id, amount))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            if dice.random() < 0.05:
                task.cancel()

    async def _request_after_grant(self, org_id: bytes, amount: int) -> None:
        try:
            self.begin(await self.wallet.hold_with_grant(org_id, amount))
        except InsufficientFunds:
            self.world.counts["refused"] += 1
        except (LedgerUnavailable, JournalFull):
            self.world.counts["unavailable"] += 1
        except Killed:
            self.world.killed.append(self)

    def begin(self, hold: Hold) -> None:
        try:
            record = opened(hold=hold.amount_nanos, cost_bound=hold.amount_nanos, lease=hold.lease_id)
            self.journal.open(record)
            self.send(record)
            self.running.append(Running(hold, record))
        except JournalFull:
            self.wallet.release(hold)

    def send(self, record: Open) -> None:
        world = self.world
        world.sent[record.attempt_id] = record
        world.bill[record.attempt_id] = 0

    def finish(self) -> None:
        world, dice = self.world, self.world.dice
        one = dice.choice(self.running)
        record = one.record
        cost = world.bill[record.attempt_id] = dice.randint(0, record.cost_bound_nanos)
        if record.attempt_number < 3 and dice.random() < 0.25:
            following = opened(
                record.execution_id,
                number=record.attempt_number + 1,
                hold=record.hold_nanos,
                cost_bound=record.cost_bound_nanos,
                lease=record.lease_id,
            )
            # Both orders occur; after the one a crash leaves an execution with no attempt open.
            if dice.random() < 0.5:
                self.end(ClosedAttempt(record, closed(record, is_final=False, cogs=cost)))
                self.journal.open(following)
            else:
                self.journal.open(following)
                self.end(ClosedAttempt(record, closed(record, is_final=False, cogs=cost)))
            self.send(following)
            one.record = following
            return
        charge = dice.randint(0, one.hold.amount_nanos)
        self.running.remove(one)
        self.end(ClosedAttempt(record, closed(record, charge=charge, cogs=cost)))
        self.wallet.settle(one.hold, charge)

    def end(self, row: ClosedAttempt) -> None:
        self.journal.close(row.close)
        self.settler.add(row)
        self.world.ended.add(row.open.attempt_id)


async def _request(node: Node) -> None:
    node.request()


async def _finish(node: Node) -> None:
    if node.running:
        node.finish()


async def _settle(node: Node) -> None:
    await node.settler.book()


async def _beat(node: Node) -> None:
    await node.wallet.refill()
    await node.wallet.beat()


async def _maintain(node: Node) -> None:
    node.journal.maintain()


async def _cut_or_mend(node: Node) -> None:
    node.connection.is_up = not node.connection.is_up


async def _topup(node: Node) -> None:
    await node.world.topup(node.world.dice.choice(ORGS))


async def _doom(node: Node) -> None:
    """Death at any byte of what is written next, or between two records."""
    node.disk.bytes_until_death = node.world.dice.choice([0, node.world.dice.randrange(600)])


async def _kill(node: Node) -> None:
    raise Killed


async def _orphan(node: Node) -> None:
    """It was silent for a minute, though it may live on."""
    node.world.ledger.orphan(node.name)


ACTIONS: tuple[tuple[int, Callable[[Node], Awaitable[None]]], ...] = (
    (40, _request),
    (26, _finish),
    (14, _settle),
    (6, _beat),
    (4, _maintain),
    (3, _cut_or_mend),
    (2, _topup),
    (3, _doom),
    (2, _kill),
    (2, _orphan),
)


async def _pass() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class World:
    def __init__(self, seed: int, directory: Path) -> None:
        self.dice = random.Random(seed)
        self.directory = directory
        self.ledger = FakeLedger()
        self.clock = FakeClock()
        self.nodes = [Node(self, b"node-number-%d---" % number) for number in range(2)]
        self.sent: dict[bytes, Open] = {}
        self.bill: dict[bytes, int] = {}
        self.ended: set[bytes] = set()
        self.killed: list[Node] = []
        self.refused: list[ClosedAttempt] = []
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        for org_id in ORGS:
            await self.topup(org_id)
        for node in self.nodes:
            await node.start()
        for _ in range(STEPS):
            self.clock.now_s += self.dice.choice([0, 0, 0.3, 1, 40])
            await self.step(self.dice.choice(self.nodes))
            for _ in range(self.dice.randrange(4)):
                await asyncio.sleep(0)
            for node in self.killed:
                if node.is_alive:
                    node.die()
            self.killed.clear()
            self.ledger.check_sums()
            for node in self.nodes:
                if node.is_alive:
                    node.check()
        await self.quiesce()

    async def topup(self, org_id: bytes) -> None:
        amount = self.dice.randint(5 * CENT, 50 * CENT)
        await self.ledger.topup(org_id=org_id, amount_nanos=amount, reference=f"payment-{self.dice.randrange(30)}")
        self.ledger.wallets.setdefault(org_id, 0)

    async def step(self, node: Node) -> None:
        if not node.is_alive:
            if self.dice.random() < 0.3:
                await node.start()
            return
        weights = [weight for weight, _ in ACTIONS]
        [(_, act)] = self.dice.choices(ACTIONS, weights)
        try:
            await act(node)
        except LedgerUnavailable:
            self.counts["unavailable"] += 1
        except JournalFull:
            self.counts["full"] += 1
        except Killed:
            self.counts["killed"] += 1
            node.die()

    async def quiesce(self) -> None:
        for node in self.nodes:
            if node.is_alive and (node.disk.bytes_until_death is not None or self.dice.random() < 0.3):
                node.die()
            if not node.is_alive:
                await node.start()
            node.connection.is_up, node.connection.fault_rate = True, 0
            ends = await asyncio.gather(*node.tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
            while node.running:
                node.finish()
            while node.settler.backlog:
                await node.settler.book()
            assert await node.wallet.close_all() == 0
            assert node.wallet.granted_nanos == 0
            assert node.journal.unfinished == 0
            await self.ledger.finish_recovery(node_id=node.name, node_epoch=node.epoch)
            node.journal.shut()
            assert not list((self.directory / node.name.decode()).glob("*.wal"))
        self.check_exact()

    def check_exact(self) -> None:
        ledger = self.ledger
        ledger.check_sums()
        assert self.refused == []
        assert set(self.sent) <= set(ledger.settlements), "sent, and never settled"
        assert {record.execution_id for record in self.sent.values()} <= set(ledger.executions)
        for attempt_id, bill in self.bill.items():
            close = ledger.settlements[attempt_id].close
            assert close.charge_nanos <= self.sent[attempt_id].hold_nanos
            if attempt_id not in self.ended and close.outcome is Outcome.CRASHED:
                assert close.charge_nanos == 0
                assert bill <= close.cogs_nanos <= self.sent[attempt_id].cost_bound_nanos
            else:
                assert close.cogs_nanos == bill
        # All is quiet and every journal was booked: nothing is left in any lease.
        assert all(lease.is_closed and lease.rest == 0 for lease in ledger.leases.values())
        assert not any(ledger.suspense.values())


@pytest.mark.parametrize("start", range(0, SEEDS, 40))
def test_money_is_exact_on_every_schedule(start: int) -> None:
    happened: Counter[str] = Counter()
    for seed in range(start, start + 40):
        with tempfile.TemporaryDirectory(dir=_memory()) as directory:
            world = World(seed, Path(directory))
            try:
                asyncio.run(world.run())
            except BaseException:
                print(f"seed {seed}")
                raise
            happened += world.counts
            happened["settled"] += len(world.ledger.settlements)
            happened["crashed"] += len(set(world.sent) - world.ended)
    # The schedules are worth something only when all of it occurs.
    assert {"settled", "crashed", "killed", "unavailable", "refused"} <= set(happened)


def _memory() -> Path | None:
    """A directory in memory where there is one: what a death leaves does not depend on the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None
