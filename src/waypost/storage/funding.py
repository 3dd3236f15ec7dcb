"""Money that comes in and goes back: top-ups, refunds of charges, chargebacks of payments."""

from __future__ import annotations

from uuid import UUID

import psycopg

from waypost.kit.money import Nanos
from waypost.ledger.account import AccountKind, TransferCode
from waypost.storage.general_ledger import posting
from waypost.storage.leases import LOCK_WALLET
from waypost.storage.long_holds import refund_hold_on
from waypost.storage.pool import Pool

_BY_COMMAND = "by command"  # the key of such a refund

# What an organisation owes is paid first; when it owes nothing more it may spend again.
TOPUP = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
credited AS (
    INSERT INTO topup (reference, org_id, amount, is_promo)
    SELECT %(reference)s, org_id, %(amount)s, %(is_promo)s FROM locked
        ON CONFLICT (reference) DO NOTHING
    RETURNING org_id, amount
),
split AS (
    SELECT org_id, credited.amount - least(credited.amount, receivable) AS to_wallet,
           least(credited.amount, receivable) AS owed
      FROM credited JOIN locked USING (org_id)
),
paid AS (
    UPDATE wallet
       SET available = available + to_wallet,
           receivable = receivable - owed,
           is_suspended = is_suspended AND receivable > owed
      FROM split
     WHERE wallet.org_id = split.org_id
    RETURNING wallet.org_id
),
posted AS ({
    posting(
        TransferCode.TOPUP,
        "%(debit)s",
        AccountKind.WALLET,
        transfer_id="%(transfer_id)s",
        amount="to_wallet",
        source="split",
    )
}),
owed_posted AS ({
    posting(
        TransferCode.TOPUP,
        "%(debit)s",
        AccountKind.RECEIVABLE,
        transfer_id="%(owed_id)s",
        amount="owed",
        source="split",
    )
})
SELECT (SELECT count(*) FROM paid), (SELECT count(*) FROM wallet WHERE org_id = %(org_id)s)
"""  # noqa: S608 - put together from texts of ours

EARLIER_TOPUP = "SELECT org_id, amount FROM topup WHERE reference = %(reference)s"

# `refunded <= charge` is a CHECK of the settlement, so two refunds at once cannot exceed the charge together. The
# update names the id as a constant, and is planned for it: then it locks one partition only, also while `retention`
# sums up another one.
REFUND = f"""
WITH given AS (
    INSERT INTO refund (attempt_id, refund_key, org_id, amount)
    SELECT attempt_id, %(refund_key)s, org_id, %(amount)s
      FROM settlement
     WHERE attempt_id = %(attempt_id)s AND refunded + %(amount)s <= charge
        ON CONFLICT (attempt_id, refund_key) DO NOTHING
    RETURNING attempt_id, org_id, amount
),
marked AS (
    UPDATE settlement
       SET refunded = refunded + given.amount
      FROM given
     WHERE settlement.attempt_id = given.attempt_id AND settlement.attempt_id = %(attempt_id)s
    RETURNING settlement.org_id
),
posted AS ({
    posting(
        TransferCode.REFUND,
        AccountKind.REVENUE,
        AccountKind.WALLET,
        transfer_id="%(transfer_id)s",
        ref="attempt_id",
        amount="amount",
        source="given",
    )
})
UPDATE wallet SET available = available + %(amount)s FROM marked WHERE wallet.org_id = marked.org_id
"""  # noqa: S608

# Ids of attempts differ from that of their execution in the last two bytes; a long hold has the execution's own. It
# stays when its execution's month goes, and is refunded no more then: the sums of that month have been taken.
CHARGED = """
SELECT attempt_id, charge - refunded, false
  FROM settlement
 WHERE attempt_id BETWEEN %(lowest_id)s AND %(highest_id)s AND execution_id = %(execution_id)s AND charge > 0
 UNION ALL
SELECT id, charge - refunded, true
  FROM long_hold
 WHERE id = %(execution_id)s AND charge > 0 AND EXISTS (SELECT FROM execution WHERE id = %(execution_id)s)
"""

EARLIER_REFUND = "SELECT amount FROM refund WHERE attempt_id = %(attempt_id)s AND refund_key = %(refund_key)s"

# What is available goes first, down to nothing; the rest is owed, and the wallet is suspended either way.
# `reversed <= amount` is a CHECK of the payment.
CHARGEBACK = f"""
WITH locked AS MATERIALIZED (
    {LOCK_WALLET.format("(SELECT org_id FROM topup WHERE reference = %(topup_reference)s AND NOT is_promo)")}
),
taken AS (
    INSERT INTO chargeback (reference, topup_reference, org_id, amount, from_wallet)
    SELECT %(reference)s, %(topup_reference)s, org_id, %(amount)s, least(available, %(amount)s) FROM locked
        ON CONFLICT (reference) DO NOTHING
    RETURNING org_id, from_wallet, amount - from_wallet AS owed
),
marked AS (
    UPDATE topup SET reversed = reversed + %(amount)s FROM taken WHERE reference = %(topup_reference)s
),
posted AS ({
    posting(
        TransferCode.CHARGEBACK,
        AccountKind.WALLET,
        AccountKind.CASH,
        transfer_id="%(transfer_id)s",
        amount="from_wallet",
        source="taken",
    )
}),
owed_posted AS ({
    posting(
        TransferCode.CHARGEBACK,
        AccountKind.RECEIVABLE,
        AccountKind.CASH,
        transfer_id="%(owed_id)s",
        amount="owed",
        source="taken",
    )
})
UPDATE wallet
   SET available = available - from_wallet, receivable = receivable + owed, is_suspended = true
  FROM taken
 WHERE wallet.org_id = taken.org_id
"""  # noqa: S608

EARLIER_CHARGEBACK = "SELECT topup_reference, amount FROM chargeback WHERE reference = %(reference)s"


async def credit(
    pool: Pool,
    transfer_ids: tuple[UUID, UUID],
    *,
    org_id: bytes,
    amount_nanos: Nanos,
    reference: str,
    is_promo: bool = False,
) -> bool:
    """`gateway.ports.Ledger.topup`; a promotion is credit that nobody paid for. `pool` is the settling role's."""
    parameters = {
        "org_id": UUID(bytes=org_id),
        "amount": amount_nanos,
        "reference": reference,
        "is_promo": is_promo,
        "debit": (AccountKind.PROMO if is_promo else AccountKind.CASH).value,
        "transfer_id": transfer_ids[0],
        "owed_id": transfer_ids[1],
    }
    async with pool.connection() as connection:
        try:
            row = await (await connection.execute(TOPUP, parameters)).fetchone()
        except (psycopg.errors.CheckViolation, psycopg.errors.NumericValueOutOfRange):
            raise ValueError("an amount is more than zero, and a balance at most 4000000000 USD") from None
        assert row is not None
        if row[0]:
            return True
        if not row[1]:
            raise LookupError("no wallet")
        earlier = await (await connection.execute(EARLIER_TOPUP, parameters)).fetchone()
    if earlier != (parameters["org_id"], amount_nanos):
        raise ValueError("this reference was credited with another amount or to another organisation")
    return False


async def refund_charge(
    pool: Pool, transfer_id: UUID, *, attempt_id: bytes, refund_key: str, amount_nanos: Nanos
) -> bool:
    """`gateway.ports.Ledger.refund`."""
    parameters = {
        "attempt_id": UUID(bytes=attempt_id),
        "refund_key": refund_key,
        "amount": amount_nanos,
        "transfer_id": transfer_id,
    }
    async with pool.connection() as connection:
        try:
            async with connection.transaction():
                # A plan for any attempt, as connections make them else, locks all partitions.
                await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
                if (await connection.execute(REFUND, parameters)).rowcount:
                    return True
        except psycopg.errors.CheckViolation:
            raise ValueError("more than is left of the charge") from None
        earlier = await (await connection.execute(EARLIER_REFUND, parameters)).fetchone()
    if earlier != (amount_nanos,):
        raise ValueError("more than is left of the charge, or this key refunded another amount")
    return False


async def refund_execution(pool: Pool, transfer_id: UUID, *, execution_id: bytes) -> Nanos:
    """Give back all that is left of an execution's charge: how much that was, 0 when it was given back before.

    Raises LookupError where nothing was charged, or its month has gone. `pool` is the settling role's."""
    parameters = {
        "execution_id": UUID(bytes=execution_id),
        "lowest_id": UUID(bytes=execution_id[:14] + bytes(2)),
        "highest_id": UUID(bytes=execution_id[:14] + b"\xff\xff"),
    }
    async with pool.connection() as connection:
        found = await (await connection.execute(CHARGED, parameters)).fetchone()
    if found is None:
        raise LookupError("nothing was charged")
    charged_id, left_nanos, is_hold = found[0].bytes, int(found[1]), found[2]
    if not left_nanos:
        return 0
    if is_hold:
        async with pool.connection() as connection, connection.transaction():
            is_given = await refund_hold_on(connection, transfer_id, hold_id=charged_id, refund_key=_BY_COMMAND)
    else:
        is_given = await refund_charge(
            pool, transfer_id, attempt_id=charged_id, refund_key=_BY_COMMAND, amount_nanos=left_nanos
        )
    return left_nanos if is_given else 0


async def charge_back(
    pool: Pool, transfer_ids: tuple[UUID, UUID], *, topup_reference: str, reference: str, amount_nanos: Nanos
) -> bool:
    """A payment was taken back by whoever paid it; False when that reference was booked before.

    Raises LookupError for an unknown payment, ValueError for more than it was, or a reference used otherwise."""
    parameters = {
        "topup_reference": topup_reference,
        "reference": reference,
        "amount": amount_nanos,
        "transfer_id": transfer_ids[0],
        "owed_id": transfer_ids[1],
    }
    async with pool.connection() as connection:
        try:
            if (await connection.execute(CHARGEBACK, parameters)).rowcount:
                return True
        except psycopg.errors.CheckViolation:
            raise ValueError("more than is left of the payment") from None
        earlier = await (await connection.execute(EARLIER_CHARGEBACK, parameters)).fetchone()
    if earlier is None:
        raise LookupError("no such payment")
    if earlier != (topup_reference, amount_nanos):
        raise ValueError("this reference was charged back with another amount or for another payment")
    return False
