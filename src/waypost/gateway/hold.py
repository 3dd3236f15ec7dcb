"""What `gateway.wallet` keeps in memory: holds, and for each organisation or budget chain its money at this node."""

from __future__ import annotations

import asyncio

import msgspec

from waypost.kit.money import Nanos
from waypost.ledger.lease import Lease
from waypost.tenancy.budget import Chain

NEVER_MS = 1 << 62


_LOOK_S = 0.05


async def pause_between_looks() -> None:
    """Whether others have given back what they were asked for."""
    await asyncio.sleep(_LOOK_S)


class NodeIdentity(msgspec.Struct, frozen=True):
    """This process to the ledger: an id that stays, and the epoch that the ledger gave it at this start."""

    node_id: bytes
    epoch: int
    nodes: int = 1  # processes that share the wallets, until the ledger has said how many live


class Hold:
    """Money reserved for one execution; resolves exactly once, by `Wallet.settle`."""

    __slots__ = ("_lease", "amount_nanos", "chain")

    def __init__(self, lease: Lease, amount_nanos: Nanos, chain: Chain | None = None) -> None:
        self._lease: Lease | None = lease
        self.amount_nanos = amount_nanos
        self.chain = chain

    @property
    def lease_id(self) -> bytes:
        """The lease that OPEN names."""
        assert self._lease is not None, "the hold is resolved"
        return self._lease.lease_id

    @property
    def is_open(self) -> bool:
        return self._lease is not None

    def absorb(self, more: Hold) -> None:
        """Take over what another hold on the same lease reserves; that one is resolved by it."""
        lease = self._lease
        assert lease is not None, "the hold is resolved"
        assert more._lease is lease, "the other hold is on another lease"
        more._lease = None
        lease.holds -= 1
        self.amount_nanos += more.amount_nanos

    def resolve(self, charge_nanos: Nanos) -> Lease:
        """What `Wallet.settle` does to the hold itself."""
        assert self._lease is not None, "a hold resolves once"
        lease, self._lease = self._lease, None
        lease.spend(hold_nanos=self.amount_nanos, charge_nanos=charge_nanos)
        return lease


class Account:
    """The money at this node of an organisation, or of a budget chain of it."""

    __slots__ = (
        "asked_to",
        "available_nanos",
        "balance_s",
        "chain",
        "draining",
        "ends_ms",
        "id",
        "is_recalled",
        "is_tail",
        "last_hold_s",
        "lease",
        "org_id",
        "raised_by",
        "rate_nanos",
        "recall_ends_s",
        "spent_before",
        "turn",
        "turns",
        "waiters",
        "waiting_nanos",
    )

    def __init__(self, account_id: bytes, org_id: bytes, chain: Chain | None = None) -> None:
        self.id = account_id
        self.org_id = org_id
        self.chain = chain
        self.lease: Lease | None = None
        self.ends_ms = NEVER_MS  # Unix ms: the end of the lease's first budget window
        self.asked_to: Nanos | None = None  # total that the lease was asked to be raised to, outcome not known yet
        self.draining: list[Lease] = []  # held on no more; each goes back as its holds resolve
        self.turn: asyncio.Task[None] | None = None
        self.turns = 0
        self.waiters = 0  # callers of hold_with_grant
        self.waiting_nanos = 0  # the sum of what they wait for
        self.available_nanos = 0  # as the ledger said at balance_s
        self.balance_s: float | None = None
        self.is_tail = False
        self.is_recalled = False  # somebody else needs what is free
        self.recall_ends_s: float | None = None  # until when those who have been asked may give back
        self.raised_by = 0  # size of the last raise: below half of it the next one is due
        self.rate_nanos = 0  # spent per second, moving average
        self.spent_before = 0
        self.last_hold_s = 0.0

    @property
    def free_nanos(self) -> Nanos:
        return 0 if self.lease is None else self.lease.free_nanos

    def drain(self) -> None:
        """Hold no more on the lease at hand. One that was asked for and never answered may have been granted: it goes
        back too."""
        if self.lease is not None:
            if self.lease.granted_nanos or self.asked_to is not None:
                self.draining.append(self.lease)
            self.lease = None
        self.asked_to = None
        self.ends_ms = NEVER_MS
        self.raised_by = self.spent_before = 0
        self.balance_s = None
        self.is_recalled = False
