"""The nodes of the reference model, and the provider that they call.

A node spends from leases without asking, writes a journal before it acts, and can lose everything but that journal. It
books two amounts for each attempt, the customer's charge and the provider's cost, that are independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.model_books import Row, need

if TYPE_CHECKING:
    from tests.simulation.model import Schedule

PER_PRICE = 7  # units that a price is for: most amounts do not come out even


@dataclass(frozen=True, slots=True)
class Price:
    per_input: int
    per_output: int

    def of(self, inputs: int, outputs: int) -> int:
        return -(-(inputs * self.per_input + outputs * self.per_output) // PER_PRICE)


@dataclass(slots=True)
class Stream:
    """An answer that a provider is generating."""

    left: int
    is_stopped_by_cancel: bool


class Provider:
    """Bills for what it did, in a book of its own that counts in its own way: units, priced at the end."""

    def __init__(self) -> None:
        self.usage: dict[str, list[int]] = {}  # attempt → input, output
        self.costs: dict[str, Price] = {}
        self.streams: dict[str, Stream] = {}

    def send(self, attempt: str, cost: Price, inputs: int, outputs: int, *, is_stopped_by_cancel: bool) -> None:
        need(attempt not in self.usage, "an attempt was sent twice")
        self.usage[attempt] = [inputs, 0]
        self.costs[attempt] = cost
        self.streams[attempt] = Stream(outputs, is_stopped_by_cancel)

    def give(self, attempt: str) -> bool:
        """One unit of output; False when there is no more."""
        stream = self.streams[attempt]
        if not stream.left:
            return False
        stream.left -= 1
        self.usage[attempt][1] += 1
        return True

    def drop(self, attempt: str) -> None:
        """The connection is gone: some go on generating, and bill it."""
        stream = self.streams.pop(attempt, None)
        if stream is not None and not stream.is_stopped_by_cancel:
            self.usage[attempt][1] += stream.left

    def bill(self, attempt: str) -> int:
        inputs, outputs = self.usage.get(attempt, (0, 0))
        if not inputs:
            return 0
        cost = self.costs[attempt]
        whole, part = divmod(inputs * cost.per_input + outputs * cost.per_output, PER_PRICE)
        return whole + (part > 0)

    def invoice(self, attempt: str) -> int:
        """What it asks for in the end: sometimes more than its usage says, as providers do."""
        bill = self.bill(attempt)
        return bill + bill % 5 if bill % 11 == 0 else bill


@dataclass(slots=True)
class NodeLease:
    wallet: str
    budgets: tuple[str, ...]
    granted: int = 0
    spent: int = 0
    given_back: int = 0
    held: int = 0
    asked_to: int = 0  # a total asked for, with an answer that never came
    admit_until: int = 0
    is_lost: bool = False  # orphaned: what runs on it ends on it, and nothing begins

    @property
    def free(self) -> int:
        return self.granted - self.spent - self.given_back - self.held


@dataclass(slots=True)
class Running:
    """An execution at work, in its latest attempt."""

    execution: str
    number: int
    lease: str
    price: Price
    cost: Price
    inputs: int
    units: int  # of output, that the hold covers
    hold: int
    bound: int
    is_stopped_by_cancel: bool
    got: int = 0

    @property
    def attempt(self) -> str:
        return f"{self.execution}.{self.number}"


@dataclass(slots=True)
class Opened:
    """What a journal says of an attempt that has no CLOSE."""

    lease: str
    hold: int
    bound: int
    inputs: int
    price: Price
    progress: int = 0


Record = tuple[object, ...]


@dataclass
class Node:
    number: int
    world: Schedule
    journal: list[Record] = field(default_factory=list)
    synced: int = 0
    is_alive: bool = True
    back_at: int = 0
    paused_until: int = 0
    acked: int = 0
    leases: dict[str, NodeLease] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)

    # The journal.

    def write(self, *record: object) -> None:
        self.journal.append(record)
        if self.world.is_power_safe and record[0] in ("OPEN", "EXTEND") and self.world.mutant != "no fsync":
            self.sync()

    def sync(self) -> None:
        self.synced = len(self.journal)

    def rows(self) -> list[Row]:
        return [record[1] for record in self.journal[self.acked :] if isinstance(record[1], Row)]

    def die(self, *, is_power_lost: bool) -> None:
        world = self.world
        for one in self.running.values():
            world.crashed.add(one.attempt)
            world.delivered[one.attempt] = one.got
            world.provider.drop(one.attempt)
        if is_power_lost:
            for record in self.journal[self.synced :]:
                world.lost.update(str(part) for part in record[1:2] if record[0] in ("OPEN", "EXTEND"))
                world.crashed.update(part.attempt for part in record[1:2] if isinstance(part, Row))
            del self.journal[self.synced :]
        self.leases, self.running, self.acked = {}, {}, 0
        self.is_alive, self.paused_until = False, 0
        self.back_at = world.now + world.dice.randint(1, 200)

    def recover(self) -> None:
        """Every OPEN without CLOSE gets one ending: what was provably delivered, and the most that it can cost."""
        opened: dict[str, Opened] = {}
        for record in self.journal:
            match record:
                case ("OPEN", str(attempt), Opened() as what):
                    opened[attempt] = Opened(what.lease, what.hold, what.bound, what.inputs, what.price)
                case ("EXTEND", str(attempt), int(hold), int(bound)) if attempt in opened:
                    opened[attempt].hold, opened[attempt].bound = hold, bound
                case ("PROG", str(attempt), int(units)) if attempt in opened:
                    opened[attempt].progress = units
                case ("CLOSE", Row() as row):
                    opened.pop(row.attempt, None)
        for attempt, what in opened.items():
            worth = what.price.of(what.inputs, what.progress) if what.progress else 0
            charge = what.hold if self.world.mutant == "crash charges the hold" else min(what.hold, worth)
            cogs = 0 if self.world.mutant == "crash costs nothing" else what.bound
            self.write("CLOSE", Row(attempt, what.lease, charge, cogs, is_estimated=True))
        self.sync()
        self.is_alive = True

    # Leases.

    def find(self, wallet: str, budgets: tuple[str, ...], hold: int) -> str | None:
        for lease_id, lease in self.leases.items():
            is_in_force = self.world.now <= lease.admit_until
            if is_in_force and lease.wallet == wallet and lease.budgets == budgets and lease.free >= hold:
                return lease_id
        return None

    def get_room(self, wallet: str, budgets: tuple[str, ...], amount: int) -> str | None:
        """The lease of this chain, raised so that it has room; None when the money is not there."""
        world = self.world
        if not world.is_database_up:
            return None
        chain = (wallet, budgets, False)
        same = (name for name, one in self.leases.items() if (one.wallet, one.budgets, one.is_lost) == chain)
        lease_id = next(same, None) or f"L{self.number}.{next(world.numbers)}"
        lease = self.leases.setdefault(lease_id, NodeLease(wallet, budgets))
        lease.asked_to = lease.asked_to or lease.granted + amount
        self.write("GRANT", lease_id, lease.asked_to)
        heard_at = world.now
        before = lease.granted
        total = world.books.grant(lease_id, wallet, budgets, self.number, from_total=before, to_total=lease.asked_to)
        if world.dice.random() < 0.05:
            world.counts["reply lost"] += 1
            return None
        lease.asked_to = 0
        if total < 0:
            lease.is_lost, lease.admit_until = True, -1
            return None
        lease.granted = total
        if total == before:
            if not before:
                del self.leases[lease_id]
            return None
        if not before:
            world.books.heartbeat(self.number, heard_at)
            lease.admit_until = heard_at + world.lease_life
        return lease_id if lease.free >= amount else None

    def give_back(self, lease_id: str) -> None:
        """Return what is free. It is gone before it is offered, since the answer may be lost."""
        world, lease = self.world, self.leases[lease_id]
        if lease.asked_to or lease.is_lost or not world.is_database_up:
            return
        total = lease.given_back + lease.free
        is_lost = world.dice.random() < 0.3
        if not (is_lost and world.mutant == "given back when answered"):
            lease.given_back = total
        world.books.release(lease_id, total)
        if not lease.held and lease.granted == lease.spent + lease.given_back:
            del self.leases[lease_id]

    def answer_recall(self) -> None:
        for lease_id in list(self.leases):
            row = self.world.books.leases.get(lease_id)
            if row is not None and row.is_recalled:
                self.give_back(lease_id)

    def beat(self) -> None:
        world = self.world
        if world.is_database_up:
            world.books.heartbeat(self.number, world.now)
            for lease_id, lease in self.leases.items():
                row = world.books.leases.get(lease_id)
                if row is not None and not row.is_orphaned:
                    lease.admit_until = world.now + world.lease_life
            self.answer_recall()

    # Executions.

    def open(self, one: Running) -> None:
        self.write("OPEN", one.attempt, Opened(one.lease, one.hold, one.bound, one.inputs, one.price))

    def begin(self, one: Running) -> None:
        lease = self.leases[one.lease]
        lease.held += one.hold
        self.running[one.execution] = one

    def extend(self, one: Running) -> bool:
        """Cover twice as much output as the hold does, out of the lease."""
        units = 2 * one.units
        more = one.price.of(one.inputs, units) - one.hold
        lease = self.leases[one.lease]
        if lease.free < more or self.world.now > lease.admit_until:
            return False
        lease.held += more
        one.units, one.hold = units, one.hold + more
        one.bound = one.cost.of(one.inputs, units)
        if self.world.mutant != "extension not journaled":
            self.write("EXTEND", one.attempt, one.hold, one.bound)
        return True

    def close(self, one: Running, charge: int, cogs: int) -> None:
        self.world.delivered[one.attempt] = one.got
        self.write("CLOSE", Row(one.attempt, one.lease, charge, cogs))

    def end(self, one: Running, charge: int, cogs: int) -> None:
        """The execution is over, in one step: CLOSE, the hold gone, the charge spent."""
        self.close(one, charge, cogs)
        del self.running[one.execution]
        lease = self.leases[one.lease]
        lease.held -= one.hold
        lease.spent += charge
        need(lease.spent + lease.held + lease.given_back <= lease.granted, "a node spends more than it has")

    def flush(self) -> None:
        world = self.world
        rows = self.rows()
        if not rows or not world.is_database_up:
            return
        end = len(self.journal)
        if world.dice.random() < 0.1:
            world.dice.shuffle(rows)
            rows += rows[:2]
        if world.mutant == "acknowledged before booked" and world.dice.random() < 0.1:
            self.journal[:] = [record for record in self.journal if not isinstance(record[1], Row)]
            self.acked = self.synced = len(self.journal)
            return
        world.books.settle(rows)
        if world.dice.random() < 0.85:
            self.acked = end
        else:
            world.counts["resent"] += 1
