"""Organisations, each with its wallet."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from waypost.kit.ids import text
from waypost.kit.money import Nanos
from waypost.storage.ledger import PostgresLedger
from waypost.storage.pool import Pool

# What the house credits an organisation that it does not bill: a thousand million dollars, so that every rule of the
# books holds for it as for any other, and no request of it ever fails for money.
HOUSE_CREDIT_NANOS: Nanos = 10**18

CREATE = """
INSERT INTO org (id, name, is_unlimited, in_flight_max)
VALUES (%(id)s, %(name)s, %(is_unlimited)s, %(in_flight_max)s)
"""
CREATE_WALLET = "INSERT INTO wallet (org_id) VALUES (%(id)s)"
LIST = "SELECT id, name, is_unlimited, created_at FROM org ORDER BY id"
FIND = "SELECT id, name, is_unlimited, created_at FROM org WHERE id = %(id)s"


class Org(msgspec.Struct, frozen=True):
    id: bytes
    name: str
    is_unlimited: bool
    created_at: datetime


async def create_org(
    pool: Pool,
    ledger: PostgresLedger,
    *,
    org_id: bytes,
    name: str,
    is_unlimited: bool = False,
    in_flight_max: int | None = None,
) -> None:
    """Make an organisation with an empty wallet, or with the house's credit. `in_flight_max` bounds its requests under
    way; None: as the gateway's settings say. `pool` is the app's."""
    parameters = {"id": UUID(bytes=org_id), "name": name, "is_unlimited": is_unlimited, "in_flight_max": in_flight_max}
    async with pool.tenant(org_id) as connection:
        await connection.execute(CREATE, parameters)
        await connection.execute(CREATE_WALLET, parameters)
    if is_unlimited:
        reference = text("house", org_id)
        await ledger.topup(org_id=org_id, amount_nanos=HOUSE_CREDIT_NANOS, reference=reference, is_promo=True)


async def list_orgs(pool: Pool) -> list[Org]:
    """All of them, oldest first."""
    async with pool.system() as connection:
        rows = await (await connection.execute(LIST)).fetchall()
    return [Org(row[0].bytes, *row[1:]) for row in rows]


async def find_org(pool: Pool, org_id: bytes) -> Org | None:
    async with pool.tenant(org_id) as connection:
        row = await (await connection.execute(FIND, {"id": UUID(bytes=org_id)})).fetchone()
    return None if row is None else Org(row[0].bytes, *row[1:])
