"""Projects: their keys share a budget."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from waypost.storage.budgets import add_budget
from waypost.storage.pool import Pool
from waypost.tenancy.budget import Budget

CREATE = "INSERT INTO project (id, org_id, name) VALUES (%(id)s, %(org_id)s, %(name)s)"

LIST = """
SELECT project.id, name, created_at, budget.amount, budget.period
  FROM project LEFT JOIN budget ON owner_id = project.id
 WHERE project.org_id = %(org_id)s
 ORDER BY project.id
"""


class ListedProject(msgspec.Struct, frozen=True):
    id: bytes
    name: str
    created_at: datetime
    budget_nanos: int | None
    period: str | None


async def create_project(pool: Pool, *, project_id: bytes, org_id: bytes, name: str, budget: Budget | None) -> None:
    """Raises LookupError for an unknown organisation. `pool` is the app's, here and below."""
    parameters = {"id": UUID(bytes=project_id), "org_id": UUID(bytes=org_id), "name": name}
    async with pool.system() as connection:
        if not (await connection.execute("SELECT FROM org WHERE id = %(org_id)s", parameters)).rowcount:
            raise LookupError("no such organisation")
        await connection.execute(CREATE, parameters)
        if budget is not None:
            await add_budget(connection, budget, owner_id=project_id, org_id=org_id, owner_kind="project")


async def list_projects(pool: Pool, org_id: bytes) -> list[ListedProject]:
    """Oldest first."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, {"org_id": UUID(bytes=org_id)})).fetchall()
    return [ListedProject(row[0].bytes, *row[1:]) for row in rows]
