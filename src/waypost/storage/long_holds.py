"""Long holds: money set aside for an asynchronous execution, in the books and not in any node's memory. Created,
settled and released by one conditional statement each, and idempotent by id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from waypost.kit.money import Nanos
from waypost.ledger.account import AccountKind, TransferCode
from waypost.ledger.record import InsufficientFunds, LedgerPromoted
from waypost.storage.general_ledger import posting
from waypost.storage.leases import (
    CURRENT_WINDOWS,
    DRAWN_WINDOWS,
    LOCK_WALLET,
    OPEN_WINDOWS,
    TIGHTEST_OF_CHAIN,
    recall,
    refusal,
    take_from_windows,
)
from waypost.storage.pool import Pool
from waypost.storage.unpresented import IS_UNPRESENTED

RECALL_LOOKS, RECALL_LOOK_MS = 24, 50

CREATE = f"""
WITH locked AS MATERIALIZED ({LOCK_WALLET.format("%(org_id)s")}),
chain AS MATERIALIZED ({CURRENT_WINDOWS}),
fits AS MATERIALIZED (
    SELECT org_id
      FROM locked
     WHERE available >= %(amount)s
       AND NOT is_suspended
       AND NOT {IS_UNPRESENTED}
       AND NOT EXISTS (SELECT FROM long_hold WHERE id = %(hold_id)s)
       AND NOT EXISTS (SELECT FROM chain WHERE room < %(amount)s)
),
made AS (
    INSERT INTO long_hold (id, org_id, amount) SELECT %(hold_id)s, org_id, %(amount)s FROM fits
),
paid AS (
    UPDATE wallet SET available = wallet.available - %(amount)s FROM fits WHERE wallet.org_id = fits.org_id
),
taken AS ({take_from_windows("%(amount)s", "fits")}),
drawn AS (
    INSERT INTO budget_draw (draw_id, owner_id, period, starts_at, org_id)
    SELECT %(hold_id)s, owner_id, period, starts_at, chain.org_id FROM chain, fits
),
posted AS ({
    posting(
        TransferCode.HOLD,
        AccountKind.WALLET,
        AccountKind.HOLD,
        transfer_id="%(transfer_id)s",
        ref="%(hold_id)s",
        amount="%(amount)s",
        source="fits",
    )
})
SELECT EXISTS (SELECT FROM fits),
       (SELECT amount FROM long_hold WHERE id = %(hold_id)s AND org_id = %(org_id)s) AS earlier,
       (SELECT CASE WHEN is_suspended THEN 0 ELSE available END FROM locked),
       {IS_UNPRESENTED},
       {TIGHTEST_OF_CHAIN}
"""  # noqa: S608 - put together from texts of ours

# Ends it once: what was charged is revenue, the rest comes back to the wallet and to the budgets it was held from.
END = f"""
WITH locked AS MATERIALIZED (
    {LOCK_WALLET.format("(SELECT org_id FROM long_hold WHERE id = %(draw_id)s)")}
),
chain AS MATERIALIZED ({DRAWN_WINDOWS}),
ended AS (
    UPDATE long_hold
       SET charge = %(charge)s, state = CASE WHEN %(charge)s > 0 THEN 'SETTLED' ELSE 'RELEASED' END, ended_at = now()
      FROM locked
     WHERE id = %(draw_id)s AND state = 'HELD'
    RETURNING id, long_hold.org_id, charge, amount - charge AS rest
),
paid AS (
    UPDATE wallet SET available = available + rest FROM ended WHERE wallet.org_id = ended.org_id
),
taken AS ({take_from_windows("-rest", "ended")}),
settled AS ({
    posting(
        TransferCode.HOLD_SETTLE,
        AccountKind.HOLD,
        AccountKind.REVENUE,
        transfer_id="%(transfer_id)s",
        ref="id",
        amount="charge",
        source="ended",
    )
}),
released AS ({
    posting(
        TransferCode.HOLD_RELEASE,
        AccountKind.HOLD,
        AccountKind.WALLET,
        transfer_id="%(release_id)s",
        ref="id",
        amount="rest",
        source="ended",
    )
})
SELECT count(*) FROM ended
"""  # noqa: S608

# All that is left of a charge, once: `refunded <= charge` is a CHECK.
REFUND = f"""
WITH locked AS MATERIALIZED (
    {LOCK_WALLET.format("(SELECT org_id FROM long_hold WHERE id = %(hold_id)s)")}
),
marked AS (
    UPDATE long_hold SET refunded = charge FROM locked WHERE id = %(hold_id)s AND refunded < charge
    RETURNING id, long_hold.org_id, charge
),
given AS (
    INSERT INTO refund (attempt_id, refund_key, org_id, amount) SELECT id, %(refund_key)s, org_id, charge FROM marked
),
posted AS ({
    posting(
        TransferCode.REFUND,
        AccountKind.REVENUE,
        AccountKind.WALLET,
        transfer_id="%(transfer_id)s",
        ref="id",
        amount="charge",
        source="marked",
    )
})
UPDATE wallet SET available = available + charge FROM marked WHERE wallet.org_id = marked.org_id
"""  # noqa: S608

EARLIER_HOLD = "SELECT amount FROM long_hold WHERE id = %(hold_id)s AND org_id = %(org_id)s"

EARLIER = "SELECT state, charge FROM long_hold WHERE id = %(draw_id)s"


async def create_hold_in_time(
    pool: Pool, transfer_id: UUID, *, hold_id: bytes, org_id: bytes, amount_nanos: Nanos, owners: Sequence[bytes] = ()
) -> Nanos:
    """The same, and wait up to 1.2 s for what other leases may give back, as a request does."""
    looks = 0
    while True:
        try:
            return await create_hold(
                pool, transfer_id, hold_id=hold_id, org_id=org_id, amount_nanos=amount_nanos, owners=owners
            )
        except InsufficientFunds as short:
            if looks == RECALL_LOOKS or amount_nanos > short.available_nanos + short.recallable_nanos:
                raise
        looks += 1
        await asyncio.sleep(RECALL_LOOK_MS / 1000)


async def create_hold(
    pool: Pool, transfer_id: UUID, *, hold_id: bytes, org_id: bytes, amount_nanos: Nanos, owners: Sequence[bytes] = ()
) -> Nanos:
    """Set an amount aside; a repeat changes nothing. `owners` are those whose budgets it counts against.

    Raises InsufficientFunds, when others have been asked to give back what is free, LookupError for an unknown
    organisation, LedgerPromoted while nodes tell a promoted server what it lost. `pool` is the settling role's, here
    and below."""
    parameters: dict[str, object] = {
        "hold_id": UUID(bytes=hold_id),
        "org_id": UUID(bytes=org_id),
        "amount": amount_nanos,
        "owners": [UUID(bytes=owner) for owner in owners],
        "transfer_id": transfer_id,
    }
    try:
        row = await _create_in_own(pool, parameters)
    except psycopg.errors.UniqueViolation:
        row = await _create_in_own(pool, parameters)
    is_made, earlier, available, was_promoted, *tightest = row
    if is_made or earlier is not None:
        return amount_nanos if is_made else int(earlier)
    if was_promoted:
        raise LedgerPromoted
    if available is None:
        raise LookupError("no wallet")
    async with pool.connection() as connection:
        known = await (await connection.execute(EARLIER_HOLD, parameters)).fetchone()
    if known is not None:  # by a call with the same id that this one waited for
        return int(known[0])
    recallable = await recall(pool, parameters["org_id"], parameters["hold_id"])
    raise refusal(available, amount_nanos, tightest, recallable)


async def create_hold_on(
    connection: AsyncConnection,
    transfer_id: UUID,
    *,
    hold_id: bytes,
    org_id: bytes,
    amount_nanos: Nanos,
    owners: Sequence[bytes] = (),
) -> None:
    """The same as a part of a transaction, for an id that nobody used before. Raises InsufficientFunds, which does not
    know yet what others may give back, LookupError and LedgerPromoted."""
    parameters: dict[str, object] = {
        "hold_id": UUID(bytes=hold_id),
        "org_id": UUID(bytes=org_id),
        "amount": amount_nanos,
        "owners": [UUID(bytes=owner) for owner in owners],
        "transfer_id": transfer_id,
    }
    is_made, _, available, was_promoted, *tightest = await _create(connection, parameters)
    if is_made:
        return
    if was_promoted:
        raise LedgerPromoted
    if available is None:
        raise LookupError("no wallet")
    raise refusal(available, amount_nanos, tightest, 0)


async def _create_in_own(pool: Pool, parameters: dict[str, object]) -> TupleRow:
    async with pool.connection() as connection, connection.transaction():
        return await _create(connection, parameters)


async def _create(connection: AsyncConnection, parameters: dict[str, object]) -> TupleRow:
    if parameters["owners"]:
        await connection.execute(OPEN_WINDOWS, parameters)
    row = await (await connection.execute(CREATE, parameters)).fetchone()
    assert row is not None
    return row


async def end_hold(pool: Pool, transfer_ids: tuple[UUID, UUID], *, hold_id: bytes, charge_nanos: Nanos) -> bool:
    """Settle a hold, or with 0 release it; False when it ended so before.

    Raises LookupError for an unknown hold, ValueError for a charge above it, or when it ended otherwise."""
    async with pool.connection() as connection:
        return await end_hold_on(connection, transfer_ids, hold_id=hold_id, charge_nanos=charge_nanos)


async def end_hold_on(
    connection: AsyncConnection, transfer_ids: tuple[UUID, UUID], *, hold_id: bytes, charge_nanos: Nanos
) -> bool:
    """The same as a part of a transaction, which the execution's end is too. The connection has the settling role."""
    parameters = {
        "draw_id": UUID(bytes=hold_id),
        "charge": charge_nanos,
        "transfer_id": transfer_ids[0],
        "release_id": transfer_ids[1],
    }
    try:
        row = await (await connection.execute(END, parameters)).fetchone()
    except psycopg.errors.CheckViolation:
        raise ValueError("more than was held") from None
    if row == (1,):
        return True
    earlier = await (await connection.execute(EARLIER, parameters)).fetchone()
    if earlier is None:
        raise LookupError("no such hold")
    if earlier[1] != charge_nanos:
        raise ValueError("the hold ended with another charge")
    return False


async def refund_hold_on(connection: AsyncConnection, transfer_id: UUID, *, hold_id: bytes, refund_key: str) -> bool:
    """Give a settled hold's whole charge back, as a part of a transaction; False when nothing is left of it to give.
    The connection has the settling role."""
    parameters = {"hold_id": UUID(bytes=hold_id), "transfer_id": transfer_id, "refund_key": refund_key}
    return (await connection.execute(REFUND, parameters)).rowcount > 0
