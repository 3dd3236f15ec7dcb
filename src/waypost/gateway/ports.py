"""What the gateway needs of the world behind it. `app.wiring` hands in the real things; tests may hand in others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from waypost.kit.money import Nanos
from waypost.ledger.record import Balance, ClosedAttempt, LedgerUnavailable
from waypost.policy.catalogue import Catalogue
from waypost.tenancy.api_key import ApiKey

__all__ = ["Directory", "Ledger", "LedgerUnavailable"]


class Ledger(Protocol):
    """The books. Every call may raise LedgerUnavailable, and may be repeated with the same ids to no second effect."""

    async def register_node(self, node_id: bytes) -> int:
        """The next epoch of this node, from 1; older epochs of it may settle but are granted nothing more."""

    async def grant(
        self, *, lease_id: bytes, org_id: bytes, node_id: bytes, node_epoch: int, amount_nanos: Nanos
    ) -> Nanos:
        """Move `amount_nanos` from the wallet into a new lease; the amount granted.

        Raises InsufficientFunds when the wallet holds less, NodeSuperseded for an older epoch, LookupError when there
        is no such wallet."""

    async def extend(self, *, lease_id: bytes, from_nanos: Nanos, to_nanos: Nanos) -> Nanos:
        """Raise a lease's grant from one total to a higher one; the total in force.

        Raises InsufficientFunds, NodeSuperseded, LookupError when the lease is unknown or closed."""

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        """Book the attempts and write the metadata rows of those that end an execution, in one transaction.
        Attempts already booked change nothing. An error other than LedgerUnavailable is a row's own fault."""

    async def report_holds(self, held_nanos: dict[bytes, Nanos], *, node_id: bytes, node_epoch: int) -> None:
        """The node lives, and these are the sums of open holds per lease (≤ once a second)."""

    async def close(self, *, lease_id: bytes, released_nanos: Nanos) -> None:
        """Return the unspent rest of a lease, whose attempts have all been settled, to the wallet."""

    async def topup(self, *, org_id: bytes, amount_nanos: Nanos, reference: str) -> bool:
        """Credit a payment; False when that reference was credited before. Raises LookupError for an unknown
        organisation, ValueError when the reference was used with another amount."""

    async def refund(self, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos) -> bool:
        """Give back part of a charge; False when that key was refunded before. Raises ValueError over the charge."""

    async def snapshot(self, org_id: bytes) -> Balance:
        """The organisation's balance. Raises LookupError for an unknown organisation."""


class Directory(Protocol):
    """Keys and the catalogue, as the view of this process follows them."""

    async def api_keys_since(self, version: int) -> tuple[Sequence[ApiKey], int]:
        """Keys created or changed (revoked too) after `version`, and the newest version."""

    async def catalogue_since(self, version: int) -> tuple[Catalogue, int] | None:
        """The newest catalogue when its version is higher than `version`."""

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when somebody announced a change, or after the time. Announcements may be lost: poll as well."""
