"""Budgets of organisations, projects and keys: each has one, of one period, whose amount may change."""

from __future__ import annotations

from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from waypost.kit.money import Nanos
from waypost.storage.changes import Followed, take_version
from waypost.storage.leases import WINDOW_STARTS
from waypost.storage.pool import Pool
from waypost.tenancy.budget import Budget, Period

ADD = """
INSERT INTO budget (owner_id, period, org_id, owner_kind, amount)
VALUES (%(owner_id)s, %(period)s, %(org_id)s, %(owner_kind)s, %(amount)s)
"""

# What a window took stays counted against it: a lower amount may be used up already, a higher one has room at once.
CHANGE = "UPDATE budget SET amount = %(amount)s WHERE owner_id = %(owner_id)s AND period = %(period)s"

PERIOD = "SELECT period FROM budget WHERE owner_id = %(owner_id)s"

ORG_OF = {
    "organisation": "SELECT id FROM org WHERE id = %(owner_id)s",
    "project": "SELECT org_id FROM project WHERE id = %(owner_id)s",
    "key": "SELECT org_id FROM api_key WHERE id = %(owner_id)s",
}

# The keys that spend from a budget, so that gateways hear of it; each change of a key has a number of its own.
TELL_KEYS = """
UPDATE api_key SET version = %(version)s + place
  FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place
          FROM api_key WHERE %(owner_id)s IN (id, project_id, org_id)) AS told
 WHERE api_key.id = told.id
"""

LIST = f"""
SELECT owner_kind, budget.owner_id, coalesce(project.name, api_key.name, org.name), period, amount, coalesce(taken, 0)
  FROM budget
  LEFT JOIN project ON project.id = owner_id
  LEFT JOIN api_key ON api_key.id = owner_id
  LEFT JOIN org ON org.id = owner_id
  LEFT JOIN LATERAL (
       SELECT taken FROM budget_window
        WHERE budget_window.owner_id = budget.owner_id AND budget_window.period = budget.period
          AND starts_at = {WINDOW_STARTS}) AS window_of_now ON true
 WHERE budget.org_id = %(org_id)s
 ORDER BY owner_kind DESC, owner_id
"""  # noqa: S608 - put together from texts of ours


class OtherPeriod(Exception):
    """The owner has a budget of another period, which a window may have been cut for."""

    def __init__(self, period: Period) -> None:
        super().__init__(period.value)
        self.period = period


class ListedBudget(msgspec.Struct, frozen=True):
    owner_kind: str  # organisation, project or key
    owner_id: bytes
    name: str  # of the owner
    period: Period
    amount_nanos: Nanos
    taken_nanos: Nanos  # in the window of now: charged, held, and lent to gateways that may still hold it


async def add_budget(
    connection: AsyncConnection, budget: Budget, *, owner_id: bytes, org_id: bytes, owner_kind: str
) -> None:
    """Of an owner that is just being made, in a transaction of the system's scope."""
    parameters = _parameters(budget, owner_id) | {"org_id": UUID(bytes=org_id), "owner_kind": owner_kind}
    await connection.execute(ADD, parameters)


async def set_budget(pool: Pool, budget: Budget, *, owner_id: bytes, owner_kind: str) -> None:
    """Change an owner's budget, or give it one. `pool` is the app's.

    Raises LookupError for an unknown owner, OtherPeriod when its budget is of another period."""
    parameters = _parameters(budget, owner_id) | {"owner_kind": owner_kind}
    async with pool.system() as connection:
        version = await take_version(connection, Followed.API_KEYS)
        found = await (await connection.execute(ORG_OF[owner_kind], parameters)).fetchone()
        if found is None:
            raise LookupError("no such owner of a budget")
        earlier = await (await connection.execute(PERIOD, parameters)).fetchone()
        if earlier is None:
            await connection.execute(ADD, parameters | {"org_id": found[0]})
            await connection.execute(TELL_KEYS, parameters | {"version": version})
        elif earlier[0] != budget.period.value:
            raise OtherPeriod(Period(earlier[0]))
        else:
            await connection.execute(CHANGE, parameters)


async def list_budgets(pool: Pool, org_id: bytes) -> list[ListedBudget]:
    """An organisation's: its own first, then its projects' and its keys', each the oldest first."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, {"org_id": UUID(bytes=org_id)})).fetchall()
    return [ListedBudget(row[0], row[1].bytes, row[2], Period(row[3]), row[4], row[5]) for row in rows]


def _parameters(budget: Budget, owner_id: bytes) -> dict[str, object]:
    return {"owner_id": UUID(bytes=owner_id), "period": budget.period.value, "amount": budget.amount_nanos}
