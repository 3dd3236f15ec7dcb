"""A lease: money taken out of a wallet for one node to spend from memory, and how large one should be."""

from __future__ import annotations

from waypost.kit.money import NANOS_PER_USD, Nanos

LEASE_NANOS_MIN = NANOS_PER_USD // 20  # 0.05 USD: below it a busy caller would cost a database call a second
LEASE_NANOS_MAX = 5 * NANOS_PER_USD  # what a lost node may lock up per organisation
LEASE_S = 10  # seconds of spending that a lease should last


class Lease:
    """`spent + held + returned ≤ granted` after every step, so local spending never exceeds what the wallet gave up."""

    __slots__ = ("granted_nanos", "held_nanos", "holds", "lease_id", "org_id", "returned_nanos", "spent_nanos")

    def __init__(self, *, lease_id: bytes, org_id: bytes) -> None:
        self.lease_id = lease_id
        self.org_id = org_id
        self.granted_nanos = 0
        self.spent_nanos = 0
        self.held_nanos = 0
        self.holds = 0
        self.returned_nanos = 0  # given back, or on its way: not to be spent here any more

    @property
    def free_nanos(self) -> Nanos:
        return self.granted_nanos - self.returned_nanos - self.spent_nanos - self.held_nanos

    def give_back(self) -> Nanos:
        """Let go of what is free; the total that the ledger is to be told."""
        self.returned_nanos += self.free_nanos
        return self.returned_nanos

    def take(self, amount_nanos: Nanos) -> bool:
        """Hold an amount; False when there is no room for it."""
        assert amount_nanos >= 0
        if self.granted_nanos - self.returned_nanos - self.spent_nanos - self.held_nanos < amount_nanos:
            return False
        self.held_nanos += amount_nanos
        self.holds += 1
        return True

    def spend(self, *, hold_nanos: Nanos, charge_nanos: Nanos) -> None:
        """End a hold: the charge is spent, the rest of it free again."""
        assert 0 <= charge_nanos <= hold_nanos <= self.held_nanos, "a charge above its hold, or a hold ended twice"
        self.held_nanos -= hold_nanos
        self.spent_nanos += charge_nanos
        self.holds -= 1
        assert self.holds >= 0


def is_tail(*, available_nanos: Nanos, needed_nanos: Nanos, nodes: int) -> bool:
    """Whether so little is left that leases in advance could strand the money somebody else needs."""
    return available_nanos // (2 * nodes) < max(needed_nanos, LEASE_NANOS_MIN)


def lease_size(*, available_nanos: Nanos, needed_nanos: Nanos, wanted_nanos: Nanos, nodes: int) -> Nanos:
    """How much to take from the wallet.

    needed: what the request at hand lacks; never less is taken. wanted: what would last for a while.
    nodes: processes that may want a share. In the tail exactly what is needed is taken.
    """
    if is_tail(available_nanos=available_nanos, needed_nanos=needed_nanos, nodes=nodes):
        return needed_nanos
    ceiling = min(LEASE_NANOS_MAX, available_nanos // (2 * nodes))
    return max(needed_nanos, LEASE_NANOS_MIN, min(wanted_nanos, ceiling))
