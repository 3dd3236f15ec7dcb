"""What the gateway needs of the world behind it. `app.wiring` hands in the real things; tests may hand in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from waypost.kit.money import Nanos
from waypost.ledger.claim import Claim, Claimed, Earlier
from waypost.ledger.record import Balance, ClosedAttempt, Heartbeat, LedgerUnavailable, ServerTerm
from waypost.policy.catalogue import Catalogue
from waypost.policy.rate_limit import Asked, Decision
from waypost.policy.snapshot import View
from waypost.tenancy.api_key import ApiKey

__all__ = [
    "Claims",
    "Directory",
    "EarlierViews",
    "KeptLedger",
    "Ledger",
    "LedgerUnavailable",
    "LimitServer",
    "Presentable",
    "Upkeep",
]


class Ledger(Protocol):
    """The books. Every call may raise LedgerUnavailable, which for those that take money may be a LedgerPromoted, and
    may be repeated with the same ids to no second effect."""

    async def register_node(self, node_id: bytes) -> int:
        """The next epoch of this node, from 1; older epochs of it may settle but are granted nothing more."""

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
        """Move `amount_nanos` from the wallet into a new lease; the amount granted. `owners` are those whose budgets
        it counts against: the windows of now, all of them or none.

        Raises InsufficientFunds when the wallet or a budget holds less, and then asks the organisation's other leases
        for what is free of them; NodeSuperseded for an older epoch, LookupError when there is no such wallet."""

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        """Raise a lease's grant from one total to a higher one; the total in force.

        Raises as `grant` does, and LookupError when the lease is unknown, is no longer active, or was cut for a budget
        window that has ended."""

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        """Book the attempts and write the metadata rows of those that end an execution, in one transaction.
        Attempts already booked change nothing. An error other than LedgerUnavailable is a row's own fault."""

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> Heartbeat:
        """The node lives, and these are the sums of open holds per lease (≤ once a second, and after a recall).

        Raises NodeSuperseded for an older epoch."""

    async def wait_for_recall(self, timeout_s: float) -> None:
        """Return when somebody asked for what others have free, or after the time. Announcements may be lost."""

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        """Return of a lease so much in total to the wallet. With `is_last` nothing more is spent from it than what is
        under way or on its way to be settled; without, it goes on."""

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        """Credit a payment; False when that reference was credited before. Raises LookupError for an unknown
        organisation, ValueError when the reference was used with another amount."""

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        """Give back part of a charge; False when that key was refunded before. Raises ValueError over the charge."""

    async def snapshot(self, org_id: bytes) -> Balance:
        """The organisation's balance. Raises LookupError for an unknown organisation."""


class Presentable(Protocol):
    """Books on a server that was promoted, and what a node tells it of its own. Every call may raise LedgerUnavailable,
    and may be repeated."""

    async def begin_presenting(self, *, node_id: bytes, node_epoch: int) -> ServerTerm:
        """The node lives and is at it; the server's term. Raises NodeSuperseded for an older epoch."""

    async def present(
        self,
        *,
        lease_id: bytes,
        org_id: bytes,
        node_id: bytes,
        node_epoch: int,
        granted_nanos: Nanos,
        released_nanos: Nanos,
        owners: Sequence[bytes] = (),
    ) -> Nanos:
        """This much was granted and given back in total, and counts again. What of it counts as given back now: more,
        when the wallet does not hold the difference."""

    def may_book_late(self, *, node_id: bytes, node_epoch: int, term: ServerTerm) -> None:
        """The node's leases are presented to the server in that term: what is charged to one that it does not know
        comes out of the wallet."""

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        """As `Ledger.settle_batch`."""

    async def open_leases(self, *, node_id: bytes, node_epoch: int) -> Sequence[bytes]:
        """Leases of this node's epoch that the server holds for open."""

    async def release(self, *, lease_id: bytes, released_nanos: Nanos, is_last: bool) -> None:
        """As `Ledger.release`."""

    async def finish_presenting(self, *, node_id: bytes, node_epoch: int, term: ServerTerm) -> None:
        """All is told and booked. Raises LedgerPromoted when the server is another again."""

    async def resume_granting(self) -> bool:
        """Grant again when every node is done, or long enough has passed; whether money leaves wallets."""


class Upkeep(Protocol):
    """What keeps the books in order; any number of processes may do it at once. Each may raise LedgerUnavailable."""

    async def sweep(self) -> int:
        """Move the leases of silent nodes to suspense, and what waited there for long enough back; how many."""

    async def finish_recovery(self, *, node_id: bytes, node_epoch: int) -> None:
        """All that earlier epochs of the node wrote down is booked: what is left of their leases comes back."""

    async def has_to_present(self, node_id: bytes) -> bool:
        """Whether a standby was promoted since this node presented itself. Raises LookupError for an unknown one."""

    async def seal(self) -> int:
        """Chain the general ledger's new transfers and sum them up; how many."""

    async def check(self) -> tuple[str, ...]:
        """Lines of what breaks a rule of the books, of the rules that cost little to look at."""


class KeptLedger(Ledger, Upkeep, Protocol):
    """Both."""


class Claims(Protocol):
    """Idempotency keys. Every call may raise LedgerUnavailable."""

    async def claim(self, claim: Claim, *, node_id: bytes, node_epoch: int) -> Claimed | Earlier:
        """Take the key for this call, unless an earlier one has it: within a day, and not ended uncharged."""

    async def forget(self, *, org_id: bytes, execution_id: bytes) -> None:
        """The call ended uncharged."""

    async def forget_interrupted(self, *, node_id: bytes, node_epoch: int) -> None:
        """Earlier epochs of this node never began these calls."""

    async def sweep(self) -> int:
        """Forget what is older than a day; how many."""


class LimitServer(Protocol):
    """Counts windows for several machines, as `policy.rate_limit.Window` does for a process, by a clock of its own."""

    async def take(self, asked: Sequence[Asked]) -> tuple[list[Decision], int]:
        """All of them or none, in one round trip: what became of each, in their order, and the bucket they were counted
        in. Raises policy.rate_limit.LimitsUnavailable, after 20 ms at most."""

    def correct(self, window: bytes, delta: int, bucket: int) -> None:
        """Adjust what was taken in that bucket; `delta` = true − taken. Returns at once; it may be lost."""


class Directory(Protocol):
    """Keys and the catalogue, as the view of this process follows them."""

    async def api_keys_since(self, version: int) -> tuple[Sequence[ApiKey], int]:
        """Keys created or changed (revoked too) after `version`, and the newest version."""

    async def move_digests(self, moved: Mapping[bytes, bytes], pepper_version: int) -> None:
        """Know keys under other digests too, of a pepper of that version; `moved` has the old to the new ones."""

    async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
        """The newest catalogue when its version is higher than `version`."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when somebody announced a change, or after the time. Announcements may be lost: poll as well."""


class EarlierViews(Protocol):
    """Versions of the catalogue that are no longer in force."""

    async def view_at(self, version: int) -> View | None:
        """None when there is no such version. Raises LedgerUnavailable."""
