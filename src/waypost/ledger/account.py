"""The accounts of the general ledger, and what moves money between them.

An account is a kind and, where it belongs to one, an organisation; the house's have none. The general ledger names no
model, no provider and no person: which lease, attempt or payment a transfer stands for is its reference.

    asset      cash, receivable            what the house has, and what an organisation owes it
    liability  wallet, lease, suspense,    an organisation's money, wherever it lies
               hold, payable to providers  what providers will bill
    revenue    usage                       what was charged
    expense    cost of goods, house        what providers bill, by why nobody or somebody pays for it
    contra     promo                       credit that nobody paid for
"""

from __future__ import annotations

from enum import IntEnum


class AccountKind(IntEnum):
    """Values are stored: never renumber."""

    CASH = 1
    WALLET = 2
    LEASE = 3  # of all leases of an organisation; a transfer's reference names the one
    SUSPENSE = 4  # rests of leases whose node is lost
    HOLD = 5  # long holds of asynchronous executions
    PAYABLE = 6
    REVENUE = 7
    COGS_PROVIDER = 8  # what was delivered and charged
    COGS_FAILED_ATTEMPT = 9
    HOUSE_CRASH = 10  # estimated by recovery, see replay
    HOUSE_OVERRUN = 11  # above the bound that was held for
    HOUSE_LATE = 12  # came when nothing was left to charge it to
    HOUSE_GOODWILL = 13
    PROMO = 14
    RECEIVABLE = 15
    PAYMENT_FEE = 16
    HOUSE_UNMATCHED = 17  # billed by a provider, for nothing that the books know

    @property
    def is_debit_normal(self) -> bool:
        """Whether debits make it grow: its debits are never less than its credits. Otherwise the other way round."""
        return self not in _CREDIT_NORMAL

    @property
    def is_of_org(self) -> bool:
        return self in _OF_ORG


_CREDIT_NORMAL = frozenset(
    {
        AccountKind.WALLET,
        AccountKind.LEASE,
        AccountKind.SUSPENSE,
        AccountKind.HOLD,
        AccountKind.PAYABLE,
        AccountKind.REVENUE,
    }
)
_OF_ORG = frozenset(
    {
        AccountKind.WALLET,
        AccountKind.LEASE,
        AccountKind.SUSPENSE,
        AccountKind.HOLD,
        AccountKind.RECEIVABLE,
        AccountKind.PROMO,
    }
)


class TransferCode(IntEnum):
    """Why money moved. Values are stored: never renumber."""

    TOPUP = 1
    GRANT = 2  # wallet → lease
    SETTLE = 3  # lease → revenue, one for each lease of a batch
    COST = 4  # expense → payable, one for each kind of a batch
    RELEASE = 5  # lease → wallet
    ORPHAN = 6  # lease → suspense
    RETURN = 7  # suspense → wallet
    LATE = 8  # suspense or wallet → revenue
    REFUND = 9
    CHARGEBACK = 10
    HOLD = 11  # wallet → long hold
    HOLD_SETTLE = 12
    HOLD_RELEASE = 13
    COST_CORRECTION = 14  # reconciliation found another bill
