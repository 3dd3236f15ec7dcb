"""What is written down about money, in the journal first and in the database afterwards.

    GRANT            a lease was cut from an organisation's wallet for this node
    OPEN  … CLOSE    one attempt: one try at one provider; OPEN stands before the first upstream byte
    PROGRESS         what was delivered of a stream so far, once a second: what its caller pays if this process dies
    EXTEND           the hold of an answer that goes on is raised

The metadata row of an execution is derived from its attempts' records, so that a crash loses none of them.
Ids are 16 raw bytes (`kit.ids`), amounts nano-USD, times Unix milliseconds. Ids and numbers only, never content.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from hashlib import blake2b

import msgspec

from waypost.wire.canonical import Usage


class Outcome(IntEnum):
    """How an attempt ended; the last attempt's outcome is the execution's. Values are stored: never renumber."""

    COMPLETED = 1
    FAILED = 2  # the provider refused, broke or timed out
    REJECTED = 3  # the provider found the request itself at fault
    DISCONNECTED = 4  # the caller left before the end
    CUT_OFF = 5  # ended by us: hold used up, drain, total time
    CRASHED = 6  # OPEN without CLOSE, written by recovery


class Grant(msgspec.Struct, frozen=True, gc=False):
    lease_id: bytes
    org_id: bytes
    granted_nanos: int


class Open(msgspec.Struct, frozen=True, gc=False):
    attempt_id: bytes
    execution_id: bytes
    lease_id: bytes  # or the long hold
    org_id: bytes
    api_key_id: bytes
    hold_nanos: int  # most that the caller may be charged
    cost_bound_nanos: int  # most that the provider may bill for this attempt
    price_version: int  # catalogue version whose prices count, frozen at admission
    attempt_number: int  # 1 … 3 within the execution; of an asynchronous one, up to 255
    opened_at_ms: int
    accepted_at_ms: int
    is_stream: bool
    model: str  # our slug
    provider: str  # the provider's id in the catalogue
    deployment: str  # stable id of the deployment, see policy.snapshot
    has_long_hold: bool = False
    """Its money is a long hold's, named by `lease_id`, which is settled where its execution's end is decided: the
    attempt is closed with charge 0 and never final, and a crash books what it cost alone."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Of a stream under way: never more than was delivered, and what that costs its caller."""

    attempt_id: bytes
    input_tokens: int
    output_tokens: int
    charge_nanos: int


class Extend(msgspec.Struct, frozen=True, gc=False):
    attempt_id: bytes
    hold_nanos: int  # the whole hold from now on


class Close(msgspec.Struct, frozen=True, gc=False):
    attempt_id: bytes
    outcome: Outcome
    is_final: bool  # the execution ends with this attempt
    charge_nanos: int  # ≤ hold
    cogs_nanos: int
    closed_at_ms: int
    first_content_ms: int  # from acceptance to the first content sent to the caller; 0 = none was sent
    status: int  # HTTP status that the caller saw (200 for a begun stream), 0 = none
    error_code: str  # canonical code, "" when completed
    usage: Usage  # what it is charged for, and booked as
    answer: bytes = b""  # digest of the provider's name for its answer (`answer_digest`), 16 bytes


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The database has booked these attempts as their records before this one tell."""

    attempt_ids: tuple[bytes, ...]


class ClosedAttempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt with both of its records: what the settler writes as one settlement row, and, when
    `close.is_final`, as the execution's metadata row."""

    open: Open
    close: Close


def answer_digest(answer_id: str) -> bytes:
    """How the books remember the name that a provider gave an answer: 16 bytes that lead nowhere else."""
    return blake2b(answer_id.encode(), digest_size=16).digest()


class Balance(msgspec.Struct, frozen=True):
    """An organisation's money at this moment, nano-USD."""

    available_nanos: int  # wallet + unspent parts of live leases − reported holds
    held_nanos: int  # by requests under way and by asynchronous executions
    suspense_nanos: int  # rests of leases whose node is lost

    @property
    def total_nanos(self) -> int:
        return self.available_nanos + self.held_nanos + self.suspense_nanos


class BudgetUsedUp(msgspec.Struct, frozen=True):
    """The budget that refused a grant while the wallet had the money."""

    owner_kind: str  # organisation, project or key
    period: str  # day, week, month or lifetime
    renews_at_ms: int | None  # Unix ms; never, for a lifetime's


class Heartbeat(msgspec.Struct, frozen=True):
    """What the ledger answers a node that reports."""

    nodes: int  # processes that live, this one included
    recalled: frozenset[bytes]  # leases of this node whose free part somebody else needs
    lost: frozenset[bytes]  # reported leases that the ledger holds for orphaned or closed, or does not know
    is_promoted: bool = False  # the server is another than the one this node presented its leases to


class InsufficientFunds(Exception):
    """A wallet, or a budget, does not hold what was asked for. `available_nanos` tells what both hold;
    `recallable_nanos` what other leases may still give back, which they have been asked to."""

    def __init__(self, available_nanos: int, *, budget: BudgetUsedUp | None = None, recallable_nanos: int = 0) -> None:
        super().__init__("insufficient funds")
        self.available_nanos = available_nanos
        self.budget = budget
        self.recallable_nanos = recallable_nanos


class LedgerUnavailable(Exception):
    """The database did not answer. The outcome of the call is unknown: ask again with the same ids."""


class ServerTerm(msgspec.Struct, frozen=True):
    """Since which promotion a database server writes. Two standbys may have taken one number, one after the other."""

    timeline: int | None
    noticed_at: datetime | None  # None: never was a promotion noticed there


class LedgerPromoted(LedgerUnavailable):
    """A standby of the database was promoted, and may have lost commits. It had no effect; ask again when the nodes
    have presented what they know."""


class NodeSuperseded(LookupError):
    """A newer epoch of this node was registered, so this one is granted nothing more. What it spent may be settled."""
