"""The double-entry general ledger: transfers beside every change of the sub-ledgers, in the same statement, and the
sealer, which sums them into accounts and chains them by digests.

A transfer is inserted by whoever moves the money and never changed; a chain inside each transaction would make all of
them wait for each other, so the sealer chains what is committed, a batch at a time.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from waypost.ledger.account import AccountKind, TransferCode
from waypost.storage.pool import Pool

HOUSE = UUID(int=0)  # the owner of the accounts that belong to no organisation
SEALED_MAX = 20_000  # transfers in one seal: it stays under a second
_LOCK = 0x7365_616C  # any number, the same everywhere


def posting(
    code: TransferCode,
    debit: AccountKind | str,
    credit: AccountKind,
    *,
    transfer_id: str,
    amount: str,
    source: str,
    org_id: str = "org_id",
    ref: str = "NULL::uuid",
) -> str:
    """The insert of one transfer for each row of `source`, a FROM clause; none where the amount is 0. `debit` may be a
    parameter of the statement."""
    debited = debit.value if isinstance(debit, AccountKind) else debit
    return f"""
    INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
    SELECT {transfer_id}, {code.value}, {debited}, {credit.value}, {org_id}, {ref}, {amount}
      FROM {source}
     WHERE {amount} > 0
    """  # noqa: S608 - put together from names of ours


# The text of a row is what PostgreSQL makes of it; a session in UTC makes the same of it everywhere.
_LINE = (
    "concat_ws('|', id, code, debit, credit, coalesce(org_id::text, ''), coalesce(ref::text, ''), amount, created_at)"
)

_TAKEN = """
SELECT id FROM transfer WHERE batch IS NULL ORDER BY id LIMIT %(limit)s
"""

SEAL = f"""
WITH before AS (SELECT batch, digest FROM seal ORDER BY batch DESC LIMIT 1),
taken AS (
    UPDATE transfer
       SET batch = coalesce((SELECT batch FROM before), 0) + 1
     WHERE id IN ({_TAKEN})
    RETURNING *
),
sealed AS (
    INSERT INTO seal (batch, transfers, digest)
    SELECT batch, count(*), sha256(coalesce((SELECT digest FROM before), '')
           || convert_to(string_agg({_LINE.format("taken")}, chr(10) ORDER BY id), 'UTF8'))
      FROM taken GROUP BY batch
    RETURNING transfers
),
side AS (
    SELECT debit AS kind, org_id, amount AS debits, 0 AS credits FROM taken
     UNION ALL
    SELECT credit, org_id, 0, amount FROM taken
),
summed AS (
    -- The whole sums, not what is added to them: a constraint is held against the row to be inserted even where there
    -- is one already. Nobody else changes them, because of the lock.
    INSERT INTO account (kind, org_id, debits, credits)
    SELECT fresh.kind, owner, fresh.debits + coalesce(known.debits, 0), fresh.credits + coalesce(known.credits, 0)
      FROM (SELECT kind, CASE WHEN kind = ANY (%(of_org)s) THEN org_id ELSE %(house)s END AS owner,
                   sum(debits)::bigint AS debits, sum(credits)::bigint AS credits
              FROM side GROUP BY kind, owner) AS fresh
      LEFT JOIN account AS known ON known.kind = fresh.kind AND known.org_id = owner
     ORDER BY fresh.kind, owner
        ON CONFLICT (kind, org_id) DO UPDATE SET debits = excluded.debits, credits = excluded.credits
)
SELECT transfers FROM sealed
"""  # noqa: S608

_CHAIN = f"""
SELECT seal.batch, (seal.batch = 1) = (earlier.batch IS NULL) AND seal.transfers = count(transfer.id)
       AND seal.digest = sha256(coalesce(earlier.digest, '')
           || convert_to(coalesce(string_agg({_LINE.format("transfer")}, chr(10) ORDER BY transfer.id), ''), 'UTF8'))
  FROM seal
  LEFT JOIN seal AS earlier ON earlier.batch = seal.batch - 1
  LEFT JOIN transfer ON transfer.batch = seal.batch
 GROUP BY seal.batch, seal.transfers, seal.digest, earlier.batch, earlier.digest
"""  # noqa: S608

BROKEN_SEALS = f"SELECT batch FROM ({_CHAIN}) AS link (batch, is_whole) WHERE NOT is_whole ORDER BY batch"  # noqa: S608

_OF_ORG = [kind.value for kind in AccountKind if kind.is_of_org]
PARAMETERS: dict[str, object] = {"of_org": _OF_ORG, "house": HOUSE, "limit": SEALED_MAX}


class AccountSum(msgspec.Struct, frozen=True):
    """Debits and credits of one kind over all organisations, as far as they are sealed."""

    kind: AccountKind
    debits: int
    credits: int


async def seal_transfers(pool: Pool) -> int:
    """Seal what is committed and not sealed yet; the number of transfers. One process at a time, others do nothing.
    `pool` is the settling role's."""
    async with pool.connection() as connection, connection.transaction():
        row = await (await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))).fetchone()
        if row != (True,):
            return 0
        sealed = await (await connection.execute(SEAL, PARAMETERS)).fetchone()
    return 0 if sealed is None else int(sealed[0])


async def account_sums(pool: Pool) -> list[AccountSum]:
    """`pool` is the app's."""
    async with pool.system(is_view=True) as connection:
        statement = "SELECT kind, sum(debits), sum(credits) FROM account GROUP BY kind ORDER BY kind"
        rows = await (await connection.execute(statement)).fetchall()
    return [AccountSum(AccountKind(row[0]), int(row[1]), int(row[2])) for row in rows]
