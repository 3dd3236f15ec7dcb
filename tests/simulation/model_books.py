"""The books of the reference model: what the database promises, in as few lines as it can be said.

Each method is one serialisable transaction, and may be repeated with the same ids to no second effect. Every movement
is written twice, into the rows (wallet, lease, budget, hold) and into the general ledger as a transfer between two
accounts; `check` holds both against each other. Amounts are whole numbers of a small unit.

`mutant` names one rule to break, see `model.MUTANTS`: a proof that cannot fail proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

TTL = 30  # of a node without a sign of life: then its leases are orphaned
WINDOW = 120  # that an orphaned rest stays in suspense


class Violated(AssertionError):
    """An invariant of money.md §3.14 does not hold."""


def need(is_so: bool, rule: str) -> None:
    if not is_so:
        raise Violated(rule)


@dataclass(slots=True)
class Wallet:
    available: int = 0
    suspense: int = 0


@dataclass(slots=True)
class Budget:
    """What may be spent in one window of one scope: a row per (scope, window)."""

    limit: int
    used: int = 0  # granted to leases and held, less what came back
    late: int = 0  # of it, by rows that came after their lease had given it back


@dataclass(slots=True)
class Lease:
    wallet: str
    budgets: tuple[str, ...]  # rows of the chain that the grant was cut from
    node: int
    granted: int = 0
    settled: int = 0
    released: int = 0
    suspended: int = 0
    is_orphaned: bool = False
    is_draining: bool = False  # its node said that it spends no more of it
    is_written_off: bool = False  # no more rows were expected of it
    orphaned_at: int = 0
    is_recalled: bool = False

    @property
    def rest(self) -> int:
        return self.granted - self.settled - self.released - self.suspended


@dataclass(slots=True)
class LongHold:
    """Of an asynchronous execution: taken from the wallet itself, and resolved once."""

    wallet: str
    budgets: tuple[str, ...]
    amount: int
    cost_bound: int
    is_open: bool = True


@dataclass(slots=True)
class Settlement:
    wallet: str
    charge: int  # the customer paid
    house: int  # worth of it that nobody's money covered any more
    cogs: int  # what we believe the provider bills
    is_estimated: bool
    refunded: int = 0
    corrected: int = 0  # by reconciliation, either way


@dataclass(slots=True)
class Row:
    """One ended attempt, as a node or a worker sends it."""

    attempt: str
    lease: str
    charge: int
    cogs: int
    is_estimated: bool = False


@dataclass
class ModelBooks:
    mutant: str = ""
    wallets: dict[str, Wallet] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    open_leases: dict[str, Lease] = field(default_factory=dict)
    holds: dict[str, LongHold] = field(default_factory=dict)
    settlements: dict[str, Settlement] = field(default_factory=dict)
    topups: dict[str, int] = field(default_factory=dict)
    refunds: dict[tuple[str, str], int] = field(default_factory=dict)
    bill_lines: dict[str, int] = field(default_factory=dict)
    ledger: Counter[str] = field(default_factory=Counter)  # account → balance
    charged: int = 0
    heartbeats: dict[int, int] = field(default_factory=dict)

    # Money in.

    def topup(self, wallet: str, amount: int, reference: str) -> bool:
        if reference in self.topups and self.mutant != "topup by event":
            return False
        self.topups[reference] = self.topups.get(reference, 0) + amount
        self.wallets.setdefault(wallet, Wallet()).available += amount
        self._transfer("cash", f"wallet {wallet}", amount)
        return True

    def refund(self, attempt: str, key: str, amount: int) -> bool:
        """Give a part of a charge back."""
        row = self.settlements[attempt]
        if (attempt, key) in self.refunds and self.mutant != "double refund":
            return False
        if row.refunded + amount > row.charge and self.mutant != "refund above charge":
            return False
        self.refunds[attempt, key] = amount
        row.refunded += amount
        self.wallets[row.wallet].available += amount
        self._transfer("revenue", f"wallet {row.wallet}", amount)
        return True

    # Leases.

    def grant(
        self, lease_id: str, wallet: str, budgets: tuple[str, ...], node: int, *, from_total: int, to_total: int
    ) -> int:
        """Raise a lease from one total to another (a new one from 0): the total in force, or −1 for one that ended."""
        lease = self.leases.get(lease_id)
        if lease is not None and (lease.is_orphaned or lease.is_draining):
            return -1
        if lease is not None and lease.granted != from_total:
            return lease.granted
        if not self._take(wallet, budgets, to_total - from_total):
            for other in self.open_leases.values():
                other.is_recalled = other.is_recalled or other.wallet == wallet
            return from_total
        if lease is None:
            lease = self.leases[lease_id] = Lease(wallet, budgets, node)
        self.open_leases[lease_id] = lease
        lease.granted = to_total
        self._transfer(f"wallet {wallet}", f"lease {lease_id}", to_total - from_total)
        return to_total

    def release(self, lease_id: str, total: int, *, is_last: bool = False) -> None:
        """A node gives back what it can no longer spend; `total` counts all that it gave back so far."""
        lease = self.leases[lease_id]
        lease.is_draining = lease.is_draining or (is_last and not lease.is_orphaned)
        lease.is_recalled = False
        amount = max(0, min(total - lease.released, lease.granted - lease.settled - lease.released))
        self._return(lease_id, lease, amount)

    def heartbeat(self, node: int, now: int) -> None:
        self.heartbeats[node] = now

    def sweep(self, now: int) -> None:
        """Orphan the leases of nodes that are not heard of; give the rest back when the window is over."""
        for lease_id, lease in list(self.open_leases.items()):
            if not lease.is_orphaned and now > self.heartbeats[lease.node] + TTL:
                self.orphan(lease_id, now)
            elif lease.is_orphaned and now > lease.orphaned_at + WINDOW:
                self.return_rest(lease_id)

    def orphan(self, lease_id: str, now: int) -> None:
        """Nobody hears of its node any more: its rest waits for late rows."""
        lease = self.leases[lease_id]
        lease.is_orphaned, lease.is_draining, lease.orphaned_at = True, False, now
        if self.mutant == "orphan to available":
            self._return(lease_id, lease, lease.rest)
            return
        rest = lease.suspended = lease.rest
        self.wallets[lease.wallet].suspense += rest
        self._transfer(f"lease {lease_id}", f"suspense {lease.wallet}", rest)

    def return_rest(self, lease_id: str) -> None:
        """No more rows are expected: the window is over, the journal was booked, or its operator gave it up."""
        lease = self.leases[lease_id]
        lease.is_draining, lease.is_written_off = lease.is_draining or not lease.is_orphaned, True
        self._return(lease_id, lease, lease.granted - lease.settled - lease.released)

    # Settlement.

    def settle(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.attempt in self.settlements and self.mutant != "no dedup":
                continue
            lease = self.leases[row.lease]
            paid = self._pay(row.lease, lease, row.charge)
            self._book(row.attempt, lease.wallet, row, paid)

    def _pay(self, lease_id: str, lease: Lease, charge: int) -> int:
        """How much of a charge the customer's money covers."""
        need(lease.is_orphaned or lease.is_draining or lease.rest >= charge, "a lease is overdrawn")
        in_time = min(charge, lease.rest)
        lease.settled += in_time
        self._transfer(f"lease {lease_id}", "revenue", in_time)
        # A late row: suspense first, then what the lease gave back as far as it is still free, then the house.
        locked = min(charge - in_time, lease.suspended)
        lease.suspended -= locked
        lease.settled += locked
        self.wallets[lease.wallet].suspense -= locked
        self._transfer(f"suspense {lease.wallet}", "revenue", locked)
        more = charge - in_time - locked
        if self.mutant != "late rows take what is not there":
            more = min(more, lease.released, self.wallets[lease.wallet].available)
        need(in_time + locked + more == charge or lease.is_written_off, "the house pays for a row that came in time")
        self.wallets[lease.wallet].available -= more
        for name in lease.budgets:
            self.budgets[name].used += more
            self.budgets[name].late += more
        lease.released -= more
        lease.settled += more
        self._transfer(f"wallet {lease.wallet}", "revenue", more)
        self._close_if_empty(lease_id, lease)
        return in_time + locked + more

    def _book(self, attempt: str, wallet: str, row: Row, paid: int) -> None:
        self.settlements[attempt] = Settlement(wallet, paid, row.charge - paid, row.cogs, row.is_estimated)
        self.charged += paid
        self._transfer("payable", "cogs", row.cogs)

    # Asynchronous executions.

    def hold(self, hold_id: str, wallet: str, budgets: tuple[str, ...], amount: int, cost_bound: int) -> bool:
        if hold_id in self.holds:
            return True
        if not self._take(wallet, budgets, amount):
            return False
        self.holds[hold_id] = LongHold(wallet, budgets, amount, cost_bound)
        self._transfer(f"wallet {wallet}", f"hold {hold_id}", amount)
        return True

    def resolve(self, hold_id: str, row: Row) -> bool:
        """End a hold with what its job cost. Callback, poll and deadline may all say it; the first counts."""
        hold = self.holds[hold_id]
        if not hold.is_open and self.mutant != "hold resolved twice":
            return False
        need(row.charge <= hold.amount, "a charge above its hold")
        hold.is_open = False
        rest = hold.amount - row.charge
        self._book(row.attempt, hold.wallet, row, row.charge)
        self.wallets[hold.wallet].available += rest
        self._lower(hold.budgets, rest)
        self._transfer(f"hold {hold_id}", "revenue", row.charge)
        self._transfer(f"hold {hold_id}", f"wallet {hold.wallet}", rest)
        return True

    # Reconciliation.

    def reconcile(self, lines: Iterable[tuple[str, str, int]]) -> None:
        """A provider's lines (line id, attempt, amount): the cost becomes what the bill says, the charge stays."""
        for line_id, attempt, amount in lines:
            if line_id in self.bill_lines and self.mutant != "bill imported twice":
                continue
            self.bill_lines[line_id] = amount
            row = self.settlements.get(attempt)
            if row is None:
                self._transfer("payable", "house unmatched", amount)
                continue
            difference = amount - (row.cogs if self.mutant == "bill imported twice" else row.cogs + row.corrected)
            if self.mutant == "correction charges the customer" and difference > 0:
                row.charge += difference
                self.charged += difference
                self.wallets[row.wallet].available -= difference
            row.corrected += difference
            self._transfer("payable", "cogs", difference)

    def cost(self) -> int:
        """All that we believe to owe to providers."""
        return -self.ledger["payable"]

    # Rules.

    def check(self) -> None:
        """Everything that holds after every transaction."""
        need(sum(self.ledger.values()) == 0, "debits are not credits")
        for name, wallet in self.wallets.items():
            need(wallet.available >= 0, "available below zero")
            need(wallet.suspense >= 0, "suspense below zero")
            need(self.ledger[f"wallet {name}"] == wallet.available, "a wallet is not its account")
            need(self.ledger[f"suspense {name}"] == wallet.suspense, "suspense is not its account")
        rest = suspended = 0
        for lease in self.open_leases.values():
            need(0 <= lease.settled + lease.released + lease.suspended <= lease.granted, "lease bounds")
            rest += lease.rest
            suspended += lease.suspended
        held = sum(hold.amount for hold in self.holds.values() if hold.is_open)
        free = sum(wallet.available for wallet in self.wallets.values())
        need(suspended == sum(wallet.suspense for wallet in self.wallets.values()), "suspense is not the leases'")
        paid_in = sum(self.topups.values()) + sum(self.refunds.values())
        need(paid_in == free + suspended + rest + held + self.charged, "conservation")
        need(self.ledger["revenue"] == self.charged - sum(self.refunds.values()), "charges are not revenue")
        for budget in self.budgets.values():
            need(0 <= budget.used - budget.late <= budget.limit, "a budget is exceeded")

    def check_at_rest(self) -> None:
        """What holds besides when nothing runs and everything came back."""
        self.check()
        need(not any(lease.rest or lease.suspended for lease in self.leases.values()), "a stranded lease")
        need(not any(hold.is_open for hold in self.holds.values()), "a stranded hold")
        for row in self.settlements.values():
            need(0 <= row.refunded <= row.charge, "refunds above the charge")
        spent: Counter[str] = Counter()
        for lease in self.leases.values():
            spent.update(dict.fromkeys(lease.budgets, lease.settled))
        for hold_id, hold in self.holds.items():
            spent.update(dict.fromkeys(hold.budgets, self.settlements[hold_id].charge))
        for name, budget in self.budgets.items():
            need(budget.used == spent[name], "a budget is not what was spent in it")

    # Steps that several share.

    def _take(self, name: str, budgets: tuple[str, ...], amount: int) -> bool:
        """The only place where money runs out: wallet and every budget of the chain give it, or none does."""
        wallet = self.wallets[name]
        if wallet.available < amount and self.mutant != "unguarded grant":
            return False
        rows = [self.budgets[budget] for budget in budgets]
        if self.mutant == "only the first budget counts":
            rows = rows[:1]
        elif any(row.used + amount > row.limit for row in rows):
            return False
        wallet.available -= amount
        for row in rows:
            row.used += amount
        return True

    def _lower(self, budgets: tuple[str, ...], amount: int) -> None:
        if self.mutant != "budget not given back":
            for budget in budgets:
                self.budgets[budget].used -= amount

    def _return(self, lease_id: str, lease: Lease, amount: int) -> None:
        """From a lease to its wallet and budgets: what is in it first, then what is in suspense."""
        from_lease = min(amount, lease.rest)
        lease.released += amount
        lease.suspended -= amount - from_lease
        wallet = self.wallets[lease.wallet]
        wallet.available += amount
        wallet.suspense -= amount - from_lease
        self._lower(lease.budgets, amount)
        self._transfer(f"lease {lease_id}", f"wallet {lease.wallet}", from_lease)
        self._transfer(f"suspense {lease.wallet}", f"wallet {lease.wallet}", amount - from_lease)
        self._close_if_empty(lease_id, lease)

    def _close_if_empty(self, lease_id: str, lease: Lease) -> None:
        """One that may still be raised stays open, also with nothing in it: its node may fall silent."""
        if lease.rest == 0 and lease.suspended == 0 and (lease.is_orphaned or lease.is_draining):
            self.open_leases.pop(lease_id, None)

    def _transfer(self, debit: str, credit: str, amount: int) -> None:
        self.ledger[debit] -= amount
        self.ledger[credit] += amount
