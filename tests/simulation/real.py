"""The product's own money under random schedules, in lockstep with the reference model.

    python -m tests.simulation 50000 [--first 0] [--jobs 2]

The real wallet, journal, settler, recovery and SQL on a real PostgreSQL. One seed is one schedule: lost calls and lost
replies, duplicated, shuffled and late batches, outages, kill -9 at any byte of a journal, power loss, pauses longer
than a node's leases live, orphans, recovery, budgets, long holds, refunds. A failure prints its seed.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path
from uuid import UUID

from tests.gateway.disk import Killed
from tests.simulation.connections import Connections, connected
from tests.simulation.failing_disk import PowerDisk
from tests.simulation.large_run import BrokenSchedule, own_copy
from tests.simulation.lockstep import Lockstep
from tests.simulation.model_books import Budget, need
from tests.simulation.real_node import Call, Node
from tests.simulation.still_loop import let_all_run, run
from waypost.gateway.journal import JournalFull
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.wallet import Hold
from waypost.kit.ids import Ids
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import Balance, ClosedAttempt, Open
from waypost.storage.ledger_check import check_ledger
from waypost.storage.orgs import create_org
from waypost.tenancy.budget import Chain, Period

STEPS = 110
CENT = NANOS_PER_USD // 100
_LONG_S = 24 * 3600
_NOW_NS = 1_790_000_000 * 10**9
_BUDGET = """
INSERT INTO budget (owner_id, period, org_id, owner_kind, amount) VALUES (%s, 'lifetime', %s, %s, %s)
"""


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def unix_ns(self) -> int:
        return _NOW_NS

    def monotonic_s(self) -> float:
        return self.now_s


class Schedule:
    def __init__(self, seed: int, directory: Path, connections: Connections) -> None:
        self.dice = random.Random(seed)
        self.directory = directory
        self.clock = Clock()
        self.ids = Ids(now_ns=lambda: _NOW_NS, entropy=self.dice.randbytes)
        self.hold_max = 8 * CENT
        self.orgs = [self.ids.new() for _ in range(2)]
        self.chains = {org_id: self._chain() for org_id in self.orgs}
        self.books = Lockstep(connections.ledger, connections.owner, self.orgs)
        self.nodes = [Node(self, b"node %d %s" % (n, self.ids.new().hex()[-9:].encode())) for n in range(2)]
        self.calls: list[Call] = []
        self.sleepers: list[asyncio.Future[None]] = []
        self.sent: dict[bytes, Open] = {}
        self.bill: dict[bytes, int] = {}
        self.holds: dict[bytes, int] = {}  # with what extensions added
        self.delivered: dict[bytes, int] = {}  # worth of it, as the last progress said
        self.ending: dict[bytes, ClosedAttempt] = {}  # a death may come while it is being written
        self.ended: set[bytes] = set()
        self.may_be_lost: set[bytes] = set()
        self.long_holds: dict[bytes, tuple[int, int]] = {}  # amount, charge
        self.killed: list[Node] = []
        self.refused: list[ClosedAttempt] = []
        self.counts: Counter[str] = Counter()
        self._connections = connections

    def _chain(self) -> Chain:
        owners = (self.ids.new(), self.ids.new())
        return Chain(owners[0], owners, (Period.LIFETIME, Period.LIFETIME))

    # What nodes need of the world.

    def make_disk(self, node: Node) -> PowerDisk:
        return PowerDisk(node.unsynced.clear)

    def opened(self, hold: Hold, org_id: bytes, *, after: Open | None = None) -> Open:
        return Open(
            attempt_id=self.ids.new(),
            execution_id=self.ids.new() if after is None else after.execution_id,
            lease_id=hold.lease_id,
            org_id=org_id,
            api_key_id=org_id,
            hold_nanos=hold.amount_nanos,
            cost_bound_nanos=self.dice.randint(1, 2 * hold.amount_nanos),
            price_version=1,
            attempt_number=1 if after is None else after.attempt_number + 1,
            opened_at_ms=_NOW_NS // 10**6,
            accepted_at_ms=_NOW_NS // 10**6,
            is_stream=True,
            model="swift-1",
            provider="alpha",
            deployment="alpha/alpha-large",
        )

    def send(self, record: Open) -> None:
        self.sent[record.attempt_id] = record
        self.holds[record.attempt_id] = record.hold_nanos
        self.bill[record.attempt_id] = self.delivered[record.attempt_id] = 0

    async def pause(self) -> None:
        """How the wallet waits for others: until the schedule says that time has passed."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append(sleeper)
        await sleeper

    # The schedule.

    async def run(self) -> None:
        await self._found()
        for node in self.nodes:
            await node.start()
        for step in range(STEPS):
            await self.step()
            await self.let_run()
            await self.bury()
            for node in self.nodes:
                if node.is_alive:
                    node.check()
            if step % 10 == 9:
                await self.books.compare()
        await self.come_to_rest()

    async def _found(self) -> None:
        for org_id in self.orgs:
            await create_org(self._connections.app, self._connections.ledger, org_id=org_id, name="Acme")
            await self.topup(org_id)
            limits = self.dice.randint(4 * CENT, 30 * CENT), self.dice.randint(10 * CENT, 50 * CENT)
            for owner_id, kind, limit in zip(self.chains[org_id].owners, ("key", "project"), limits, strict=True):
                row = UUID(bytes=owner_id), UUID(bytes=org_id), kind, limit
                await self._connections.owner.execute(_BUDGET, row)
                self.books.model.budgets[owner_id.hex()] = Budget(limit)

    async def step(self) -> None:
        dice = self.dice
        self.clock.now_s += dice.choice([0, 0, 0.3, 1, 1, 40])
        if self.calls and (dice.random() < 0.5 or len(self.calls) > 12):
            await self.carry()
            return
        node = dice.choice(self.nodes)
        if not node.is_alive:
            if dice.random() < 0.4:
                await node.start()
            return
        if node.is_paused:
            node.is_paused = dice.random() < 0.9
            return
        [(_, action)] = dice.choices(_ACTIONS, _WEIGHTS)
        try:
            await action(self, node)
        except (JournalFull, LedgerUnavailable):
            self.counts["unavailable"] += 1
        except Killed:
            self.killed.append(node)

    async def carry(self) -> None:
        """One of the calls under way arrives, or is lost, or its answer is."""
        if not self.calls:
            return
        call = self.calls.pop(self.dice.randrange(len(self.calls)) if self.dice.random() < 0.3 else 0)
        is_dead = not call.line.is_up
        fate = self.dice.random()
        if fate < (0.5 if is_dead else 0.05):
            call.fail(LedgerUnavailable())
        elif is_dead or fate > 0.94:
            self.counts["reply lost"] += 1
            await call.arrive(is_answered=False)
        else:
            await call.arrive()

    async def let_run(self) -> None:
        if self.dice.random() < 0.5:
            for sleeper in self.sleepers:
                if not sleeper.done():
                    sleeper.set_result(None)
            self.sleepers.clear()
        await let_all_run()

    async def bury(self) -> None:
        for node in self.killed:
            if node.is_alive:
                is_power_lost = self.is_power_lost()
                self.counts["power lost" if is_power_lost else "killed"] += 1
                node.die(is_power_lost=is_power_lost)
        self.killed.clear()
        await let_all_run()

    def is_power_lost(self) -> bool:
        return self.dice.random() < 0.3

    async def topup(self, org_id: bytes) -> None:
        number = self.dice.randrange(20)
        amount = (4 + 2 * number) * CENT
        await self.books.topup(org_id=org_id, amount_nanos=amount, reference=f"{org_id.hex()} payment {number}")

    # The end.

    async def come_to_rest(self) -> None:
        for node in self.nodes:
            if node.is_alive and self.dice.random() < 0.3:
                node.die(is_power_lost=False)
            if not node.is_alive:
                await node.start()
            node.line.is_up, node.is_paused, node.disk.bytes_until_death = True, False, None
        await self._empty()
        for node in self.nodes:
            while node.running:
                node.finish()
            while node.settler.backlog:
                node.settle()
                await self._empty()
        for hold_id, (_, charge) in self.long_holds.items():
            await self.books.end_hold(hold_id=hold_id, charge_nanos=charge)
        for node in self.nodes:
            closing = asyncio.ensure_future(node.wallet.close_all())
            await self._empty()
            assert await closing == 0
            assert node.wallet.granted_nanos == 0
            assert node.journal.unfinished == 0
            await self.books.finish_recovery(node_id=node.name, node_epoch=node.epoch)
            node.journal.shut()
            assert not list((self.directory / node.name.decode()).glob("*.wal"))
        await self.check_exact()

    async def _empty(self) -> None:
        """Every call arrives, and what follows from it."""
        while True:
            await let_all_run()
            for sleeper in self.sleepers:
                if not sleeper.done():
                    sleeper.set_result(None)
            self.sleepers.clear()
            if not self.calls:
                if not any(task for node in self.nodes for task in node.tasks):
                    return
                continue
            await self.calls.pop(0).arrive()

    async def check_exact(self) -> None:
        await self.books.seal()
        await self.books.compare()
        model = self.books.model
        assert self.refused == []
        lost = {attempt for attempt in self.sent if attempt.hex() not in model.settlements}
        assert lost <= self.may_be_lost, "sent, and never settled"
        for attempt_id, bill in self.bill.items():
            if attempt_id in lost:
                continue
            row, record = model.settlements[attempt_id.hex()], self.sent[attempt_id]
            need(row.charge + row.house <= self.holds[attempt_id], "a charge above its hold")
            if row.is_estimated:
                need(attempt_id not in self.ended or attempt_id in self.may_be_lost, "an end that was written is lost")
                need(row.charge <= self.delivered[attempt_id], "a crash charges more than was delivered")
                need(bill <= row.cogs <= record.cost_bound_nanos, "a crash is estimated below the bill")
            else:
                told = self.ending[attempt_id].close
                need(row.cogs == bill == told.cogs_nanos, "the cost is not the bill")
                need(row.charge + row.house == told.charge_nanos, "the charge is not what was told")
        for org_id in self.orgs:
            wallet = model.wallets[org_id.hex()]
            balance = await self._connections.ledger.snapshot(org_id)
            need(balance == Balance(wallet.available, 0, 0), "something is held or stranded in the end")
        await self.books.pass_time(_LONG_S)  # a later schedule's nodes do not share with these
        self.counts["settled"] += len(model.settlements) - len(self.long_holds)
        self.counts["crashed"] += sum(
            model.settlements[name.hex()].is_estimated for name in self.sent if name not in lost
        )
        self.counts["lost with the power"] += len(lost)
        self.counts["late to the house"] += sum(row.house > 0 for row in model.settlements.values())


async def _request(_: Schedule, node: Node) -> None:
    node.request()


async def _finish(_: Schedule, node: Node) -> None:
    if node.running:
        node.finish()


async def _extend(_: Schedule, node: Node) -> None:
    if node.running:
        node.extend()


async def _progress(_: Schedule, node: Node) -> None:
    if node.running:
        node.progress()


async def _settle(_: Schedule, node: Node) -> None:
    node.settle()


async def _beat(_: Schedule, node: Node) -> None:
    node.beat()


async def _maintain(_: Schedule, node: Node) -> None:
    node.journal.maintain()


async def _cut_or_mend(_: Schedule, node: Node) -> None:
    node.line.is_up = not node.line.is_up


async def _mend(_: Schedule, node: Node) -> None:
    node.line.is_up = True


async def _topup(world: Schedule, _: Node) -> None:
    await world.topup(world.dice.choice(world.orgs))


async def _refund(world: Schedule, node: Node) -> None:
    charged = [name for name, row in world.books.model.settlements.items() if row.charge and len(name) == 32]
    charged = [name for name in charged if name not in world.books.model.holds]
    if charged:
        name = world.dice.choice(charged)
        amount = world.dice.randint(1, world.books.model.settlements[name].charge)
        for _ in range(world.dice.choice((1, 2))):
            await world.books.refund(
                attempt_id=bytes.fromhex(name), refund_key=f"key {world.dice.randrange(2)}", amount_nanos=amount
            )


async def _long_hold(world: Schedule, node: Node) -> None:
    org_id, hold_id, amount = world.dice.choice(world.orgs), world.ids.new(), world.dice.randint(1, world.hold_max)
    owners = world.dice.choice(((), world.chains[org_id].owners))
    for _ in range(world.dice.choice((1, 2))):
        is_held = await world.books.create_hold(hold_id=hold_id, org_id=org_id, amount_nanos=amount, owners=owners)
        if is_held:
            world.long_holds[hold_id] = (amount, world.dice.randint(0, amount))


async def _end_hold(world: Schedule, _: Node) -> None:
    if world.long_holds:
        hold_id = world.dice.choice(list(world.long_holds))
        await world.books.end_hold(hold_id=hold_id, charge_nanos=world.long_holds[hold_id][1])


async def _sweep(world: Schedule, _: Node) -> None:
    await world.books.sweep()


async def _pass_time(world: Schedule, _: Node) -> None:
    by_s = world.dice.choice((30, 30, 90, 90, 90_000))
    world.clock.now_s += by_s
    await world.books.pass_time(by_s)


async def _freeze(_: Schedule, node: Node) -> None:
    node.is_paused = True


async def _doom(world: Schedule, node: Node) -> None:
    """Death at any byte of what is written next, or between two records."""
    node.disk.bytes_until_death = world.dice.choice([0, world.dice.randrange(600)])


async def _kill(_: Schedule, node: Node) -> None:
    raise Killed


_ACTIONS = (
    (0.36, _request),
    (0.22, _finish),
    (0.06, _extend),
    (0.06, _progress),
    (0.12, _settle),
    (0.06, _beat),
    (0.04, _maintain),
    (0.015, _cut_or_mend),
    (0.015, _mend),
    (0.02, _topup),
    (0.02, _refund),
    (0.02, _long_hold),
    (0.02, _end_hold),
    (0.02, _sweep),
    (0.015, _pass_time),
    (0.01, _freeze),
    (0.02, _doom),
    (0.025, _kill),
)
_WEIGHTS = [weight for weight, _ in _ACTIONS]


async def simulate(conninfo: str, seeds: range) -> Counter[str]:
    """Schedules one after the other on one database, and every rule of the books at the end. Raises BrokenSchedule for
    the first one that fails, AssertionError when what all of them wrote breaks a rule."""
    happened: Counter[str] = Counter()
    async with connected(conninfo) as connections:
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir=memory()) as directory:
                schedule = Schedule(seed, Path(directory), connections)
                try:
                    await schedule.run()
                except (Exception, Killed) as error:
                    raise BrokenSchedule(seed, f"seed {seed}: {dict(schedule.counts)}") from error
                happened += schedule.counts
        checked = await check_ledger(connections.app)
        need(checked.violations == (), f"after the seeds {seeds}: {checked.violations[:3]}")
    return happened


def simulate_apart(template: str, seeds: range) -> Counter[str]:
    with own_copy(template, f"seeds_{seeds.start}") as database:
        return run(simulate(database, seeds))


def memory() -> Path | None:
    """A directory in memory where there is one: what a death leaves does not depend on the disk."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None
