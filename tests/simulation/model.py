"""The reference model of the money design: one seed is one schedule of requests, faults and repairs.

    python -m tests.simulation.model 3000               the model under so many seeds
    python -m tests.simulation.model 300 --mutants      each broken rule, and how many seeds notice it

It knows charge and cost as two amounts, leases cut for chains with budgets, extensions of holds, long holds of
asynchronous executions, refunds, recall, lost replies, duplicated and shuffled batches, outages, kill -9, power loss,
pauses, orphans, late rows, and reconciliation. Checked after every step, and to the last unit when all is quiet.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections import Counter
from collections.abc import Callable

from tests.simulation.model_books import TTL, Budget, ModelBooks, Row, Violated, need
from tests.simulation.model_node import Node, Price, Provider, Running

STEPS = 260
DAY = 60  # length of a budget's window
MUTANTS = (
    "send before journal",
    "no fsync",
    "free on disconnect",
    "no dedup",
    "unguarded grant",
    "orphan to available",
    "hold is an estimate",
    "extension not journaled",
    "extension without a hold",
    "double refund",
    "refund above charge",
    "topup by event",
    "only the first budget counts",
    "budget not given back",
    "given back when answered",
    "hold resolved twice",
    "acknowledged before booked",
    "crash charges the hold",
    "crash costs nothing",
    "rounded down",
    "failed attempts cost nothing",
    "bill imported twice",
    "correction charges the customer",
    "late rows take what is not there",
)


class Job:
    """An asynchronous execution at a provider, from its hold to the end of its deadline."""

    def __init__(self, hold_id: str, wallet: str, price: Price, cost: Price, units: int) -> None:
        self.hold_id = hold_id
        self.wallet = wallet
        self.price = price
        self.cost = cost
        self.units = units
        self.is_sent = False
        self.has_ended = False


class Schedule:
    def __init__(self, seed: int, mutant: str = "") -> None:
        self.dice = dice = random.Random(seed)
        self.mutant = mutant
        self.now = 0
        self.is_power_safe = dice.random() < 0.7
        self.lease_life = TTL - 5
        self.is_database_up = True
        self.is_ending = False
        self.books = ModelBooks(mutant)
        self.provider = Provider()
        self.nodes = [Node(number, self) for number in range(3)]
        self.numbers = itertools.count(1)
        self.executions: dict[str, Running] = {}
        self.jobs: list[Job] = []
        self.crashed: set[str] = set()
        self.lost: set[str] = set()  # attempts that a power loss took out of the journal
        self.late: set[str] = set()
        self.delivered: dict[str, int] = {}
        self.sent: dict[str, Running] = {}
        self.counts: Counter[str] = Counter()
        self.payments: dict[str, int] = {}
        for name in ("w0", "w1"):
            self.pay(name, dice.randint(200, 3000), f"first {name}")
        for node in self.nodes:
            self.books.heartbeat(node.number, 0)

    # Requests.

    def chain(self, wallet: str) -> tuple[str, ...]:
        """The budgets in force for one of the wallet's keys: none, a project's month, and with it a key's day."""
        which = self.dice.choice((0, 0, 1, 2))
        names = [(f"{wallet} project", 1500), (f"{wallet} key day {self.now // DAY}", 300)][:which]
        for name, limit in names:
            self.books.budgets.setdefault(name, Budget(limit))
        return tuple(name for name, _ in names)

    def request(self, node: Node) -> None:
        dice = self.dice
        wallet = dice.choice(("w0", "w1"))
        price = Price(dice.randint(5, 60), dice.randint(5, 40))
        # Nothing says that a price is above its cost: holds cover the one, bounds the other.
        cost = Price(dice.randint(1, 60), dice.randint(1, 60))
        inputs, units = dice.randint(1, 6), dice.randint(1, 8)
        hold = price.of(inputs, max(1, units // 2) if self.mutant == "hold is an estimate" else units)
        budgets = self.chain(wallet)
        lease_id = node.find(wallet, budgets, hold) or self.find_room(node, wallet, budgets, hold)
        if lease_id is None:
            return
        one = Running(
            f"e{next(self.numbers)}",
            1,
            lease_id,
            price,
            cost,
            inputs,
            units,
            hold,
            cost.of(inputs, units),
            is_stopped_by_cancel=dice.random() < 0.5,
        )
        node.begin(one)
        self.start_attempt(node, one)

    def find_room(self, node: Node, wallet: str, budgets: tuple[str, ...], hold: int) -> str | None:
        amount = max(hold, self.dice.choice((hold, 80, 240)))
        for wanted in (amount, hold):
            lease_id = node.get_room(wallet, budgets, wanted)
            if lease_id is not None or not self.is_database_up:
                return lease_id
        self.recall()
        # An unknown answer first, an orphan found second, and then the question itself.
        tries = (node.get_room(wallet, budgets, hold) for _ in range(3))
        lease_id = next((found for found in tries if found), None)
        if lease_id is None and not any(lease.asked_to for lease in node.leases.values()):
            self.counts["402"] += 1
            free = [row.limit - row.used for row in map(self.books.budgets.__getitem__, budgets)]
            room = min([self.books.wallets[wallet].available, *free])
            need(room < hold, "refused although the money is there")
        return lease_id

    def recall(self) -> None:
        for node in self.nodes:
            if node.is_alive and node.paused_until <= self.now:
                node.answer_recall()

    def start_attempt(self, node: Node, one: Running) -> None:
        dice = self.dice
        # A provider that goes on after a cancel was told how much the hold covers.
        most = 2 * one.units if one.is_stopped_by_cancel else one.units
        outputs = dice.randint(0, most)
        if self.mutant == "send before journal":
            self.send(one, outputs)
            if dice.random() < 0.03:
                self.kill(node, is_power_lost=False)
                return
            node.open(one)
            return
        node.open(one)
        if dice.random() < 0.02:
            self.kill(node, is_power_lost=dice.random() < 0.5)
            return
        if dice.random() < 0.02:
            node.paused_until = self.now + dice.randint(10, 200)  # a zombie between the check and the send
        self.send(one, outputs)

    def send(self, one: Running, outputs: int) -> None:
        self.sent[one.attempt] = one
        self.provider.send(one.attempt, one.cost, one.inputs, outputs, is_stopped_by_cancel=one.is_stopped_by_cancel)

    def read(self, node: Node) -> None:
        """One unit of some stream, or its end."""
        if not node.running:
            return
        one = self.dice.choice(list(node.running.values()))
        if one.attempt not in self.provider.streams:
            return
        if one.got >= one.units and self.mutant != "extension without a hold":
            self.extend_or_cut_off(node, one)
        elif self.provider.give(one.attempt):
            one.got += 1
            if self.dice.random() < 0.5:
                node.write("PROG", one.attempt, one.got)
        else:
            self.finish(node, one)

    def extend_or_cut_off(self, node: Node, one: Running) -> None:
        if not node.extend(one):
            self.counts["cut off"] += 1
            self.provider.drop(one.attempt)
            self.finish(node, one)
        elif self.provider.give(one.attempt):
            self.counts["extended"] += 1
            one.got += 1
            if self.dice.random() < 0.1 and not self.is_ending:
                self.kill(node, is_power_lost=False)

    def finish(self, node: Node, one: Running) -> None:
        self.provider.streams.pop(one.attempt, None)
        worth = one.price.of(one.inputs, one.got) if one.got else 0
        cogs = one.cost.of(one.inputs, one.got)
        if self.mutant == "rounded down":
            cogs = (one.inputs * one.cost.per_input + one.got * one.cost.per_output) // 7
        need(worth <= one.hold, "delivered more than the hold covers")
        node.end(one, worth, cogs)

    def fail(self, node: Node) -> None:
        """A provider breaks before the first content: the house bears it, and the next attempt has the same hold."""
        waiting = [one for one in node.running.values() if not one.got and one.attempt in self.provider.streams]
        if not waiting:
            return
        one = self.dice.choice(waiting)
        self.provider.streams.pop(one.attempt)
        cogs = 0 if self.mutant == "failed attempts cost nothing" else one.cost.of(one.inputs, 0)
        if one.number == 3:
            node.end(one, 0, cogs)
            return
        node.close(one, 0, cogs)
        following = Running(
            one.execution,
            one.number + 1,
            one.lease,
            one.price,
            one.cost,
            one.inputs,
            one.units,
            one.hold,
            one.bound,
            one.is_stopped_by_cancel,
        )
        node.running[one.execution] = following
        self.start_attempt(node, following)

    def leave(self, node: Node) -> None:
        """A caller hangs up."""
        present = [one for one in node.running.values() if one.attempt in self.provider.streams]
        if not present:
            return
        one = self.dice.choice(present)
        if self.mutant == "free on disconnect":
            self.provider.drop(one.attempt)
            node.end(one, 0, 0)
            return
        if one.is_stopped_by_cancel:
            self.provider.drop(one.attempt)
        else:
            while self.provider.give(one.attempt):
                one.got += 1
        self.finish(node, one)

    # Asynchronous executions.

    def start_job(self) -> None:
        dice = self.dice
        wallet, price, cost = (
            dice.choice(("w0", "w1")),
            Price(dice.randint(5, 60), dice.randint(5, 60)),
            Price(dice.randint(1, 60), dice.randint(1, 60)),
        )
        units = dice.randint(1, 10)
        hold_id = f"j{next(self.numbers)}"
        hold, bound = price.of(1, units), cost.of(1, units)
        if not self.is_database_up or not self.books.hold(hold_id, wallet, self.chain(wallet), hold, bound):
            return
        job = Job(hold_id, wallet, price, cost, units)
        self.jobs.append(job)
        if dice.random() < 0.9:  # else the worker died here: only the deadline ends it
            job.is_sent = True
            self.provider.send(hold_id, cost, 1, dice.randint(0, units), is_stopped_by_cancel=False)

    def end_job(self) -> None:
        """A callback, a poll or the deadline; all of them may come, and more than once."""
        if not self.jobs or not self.is_database_up:
            return
        job = self.dice.choice(self.jobs)
        if job.is_sent and self.dice.random() < 0.6:
            while job.hold_id in self.provider.streams and self.provider.give(job.hold_id):
                pass
            self.provider.streams.pop(job.hold_id, None)
            inputs, outputs = self.provider.usage[job.hold_id]
            charge = job.price.of(inputs, outputs) if outputs else 0
            row = Row(job.hold_id, "", charge, job.cost.of(inputs, outputs))
        else:
            row = Row(job.hold_id, "", 0, self.books.holds[job.hold_id].cost_bound, is_estimated=True)
            if self.dice.random() < 0.7 and not job.has_ended:
                return
        self.books.resolve(job.hold_id, row)
        job.has_ended = True

    # Everything else that happens.

    def kill(self, node: Node, *, is_power_lost: bool) -> None:
        self.counts["power lost" if is_power_lost else "killed"] += 1
        node.die(is_power_lost=is_power_lost)

    def refund(self) -> None:
        charged = [name for name, row in self.books.settlements.items() if row.charge]
        if charged and self.is_database_up:
            name = self.dice.choice(charged)
            most = self.books.settlements[name].charge
            for _ in range(self.dice.choice((1, 2))):  # a lost reply: the same again
                self.books.refund(name, f"key {self.dice.randint(0, 1)}", self.dice.randint(1, most))

    def import_lines(self) -> None:
        """A provider's bill so far, of what is over."""
        done = [name for name in self.books.settlements if name not in self.provider.streams]
        some = self.dice.sample(done, min(len(done), 6))
        self.books.reconcile([(f"line {name}", name, self.provider.invoice(name)) for name in some])

    def topup(self) -> None:
        number = self.dice.randint(0, 8)
        self.pay(f"w{number % 2}", 30 * number + 20, f"payment {number}")  # often told again

    def pay(self, wallet: str, amount: int, payment: str) -> None:
        self.payments[payment] = amount
        self.books.topup(wallet, amount, payment)

    def tidy(self, node: Node) -> None:
        """Idle leases go back."""
        node.flush()
        for lease_id, lease in list(node.leases.items()):
            if not lease.held and node.acked == len(node.journal):
                node.give_back(lease_id)

    def step(self) -> None:
        dice = self.dice
        self.now += dice.choice((0, 0, 1, 1, 2, 5))
        if dice.random() < 0.01:
            self.is_database_up = not self.is_database_up
        if not self.is_database_up and dice.random() < 0.2:
            self.is_database_up = True
        if self.is_database_up and dice.random() < 0.2:
            self.books.sweep(self.now)
        if dice.random() < 0.04:
            dice.choice((self.start_job, self.end_job, self.end_job, self.refund, self.topup, self.import_lines))()
        node = dice.choice(self.nodes)
        if not node.is_alive:
            if self.now >= node.back_at:
                node.recover()
        elif node.paused_until <= self.now:
            self.act(node)
        self.books.check()

    def act(self, node: Node) -> None:
        dice = self.dice.random()
        for share, action in _ACTIONS:
            dice -= share
            if dice < 0:
                action(self, node)
                return

    # The end.

    def come_to_rest(self) -> None:
        self.is_database_up = self.is_ending = True
        for node in self.nodes:
            if not node.is_alive:
                node.recover()
            node.paused_until = 0
            for one in list(node.running.values()):
                while one.execution in node.running:
                    if one.attempt not in self.provider.streams:
                        node.end(one, 0, 0)  # never sent
                    else:
                        self.read(node)
            for _ in range(3):
                node.acked = 0
                self.books.settle(node.rows())
                self.books.check()
        for job in self.jobs:
            while not job.has_ended:
                self.end_job()
        for _ in range(3):
            self.now += 10**6
            self.books.sweep(self.now)
            self.books.check()
        self.books.check_at_rest()
        need(self.books.topups == self.payments, "a payment was credited twice")
        self.check_attempts()
        self.check_reconciled()

    def check_attempts(self) -> None:
        for attempt, one in self.sent.items():
            bill = self.provider.bill(attempt)
            row = self.books.settlements.get(attempt)
            if attempt in self.lost and not self.is_power_safe:
                continue
            need(row is not None, "billed by a provider, and never settled")
            assert row is not None
            got = self.delivered.get(attempt, 0)
            worth = one.price.of(one.inputs, got) if got else 0
            need(row.charge + row.house <= worth, "the customer paid more than was delivered")
            if attempt in self.crashed:
                need(row.cogs >= bill, "a crash is estimated below the bill")
            else:
                need(row.charge + row.house == worth, "the charge is not what was delivered")
                need(row.cogs == bill, "the cost is not the bill")
        for job in self.jobs:
            row = self.books.settlements[job.hold_id]
            need(row.cogs >= self.provider.bill(job.hold_id), "a job is estimated below the bill")

    def check_reconciled(self) -> None:
        charged = self.books.charged
        known = {*self.books.settlements, *self.sent}
        lines = [(f"line {name}", name, self.provider.invoice(name)) for name in sorted(known)]
        for _ in range(2):
            self.books.reconcile(lines)
            self.books.check()
        need(self.books.charged == charged, "reconciliation charged a customer")
        need(
            self.books.cost() == sum(map(self.provider.invoice, known)), "the cost is not the bill after reconciliation"
        )
        self.counts["attempts"] += len(self.sent)
        self.counts["jobs"] += len(self.jobs)
        self.counts["crashed"] += len(self.crashed & set(self.sent))
        self.counts["late to the house"] += sum(row.house > 0 for row in self.books.settlements.values())


_ACTIONS: tuple[tuple[float, Callable[[Schedule, Node], None]], ...] = (
    (0.30, Schedule.request),
    (0.38, Schedule.read),
    (0.03, Schedule.fail),
    (0.04, Schedule.leave),
    (0.11, lambda _, node: node.flush()),
    (0.03, Schedule.tidy),
    (0.06, lambda _, node: node.beat()),
    (0.008, lambda world, node: world.kill(node, is_power_lost=True)),
    (0.012, lambda world, node: world.kill(node, is_power_lost=False)),
)


def run(seed: int, mutant: str = "") -> tuple[Counter[str], str | None]:
    """What happened in a schedule, and the rule that it broke."""
    schedule = Schedule(seed, mutant)
    try:
        for _ in range(STEPS):
            schedule.step()
        schedule.come_to_rest()
    except (Violated, AssertionError) as broken:
        return schedule.counts, str(broken)
    return schedule.counts, None


def main() -> None:
    parser = argparse.ArgumentParser(description="The reference model of the money design.")
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutants", action="store_true", help="break one rule at a time")
    words = parser.parse_args()
    for mutant in MUTANTS if words.mutants else ("",):
        happened: Counter[str] = Counter()
        failed: list[tuple[int, str]] = []
        for seed in range(words.first, words.first + words.seeds):
            counts, broken = run(seed, mutant)
            happened += counts
            if broken is not None:
                failed.append((seed, broken))
        first = f"first seed {failed[0][0]}: {failed[0][1]}" if failed else ""
        print(f"{mutant or 'model':32} seeds {words.seeds}  violated in {len(failed)}  {first}")
        if not mutant:
            print(dict(happened))
            raise SystemExit(bool(failed))
        if not failed:
            raise SystemExit(f"nobody noticed: {mutant}")


if __name__ == "__main__":
    main()
