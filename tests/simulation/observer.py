"""Sees what the database holds of an execution, and takes what is queued for it: on a connection of its own, that no
fault reaches. It looks after each thing that happens, so one look is one statement.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from waypost.storage.asynchronous_rows import COLUMNS, AsynchronousExecution, execution_of
from waypost.storage.pool import connect
from waypost.storage.roles import Role

LOOK = f"""
WITH taken AS (
    DELETE FROM procrastinate_jobs WHERE args ->> 'execution' = %(digits)s RETURNING id, task_name, args, scheduled_at
), queued AS (
    SELECT array_agg(task_name ORDER BY id) AS names, array_agg(args ORDER BY id) AS arguments,
           array_agg(scheduled_at ORDER BY id) AS moments
      FROM taken
)
SELECT names, arguments, moments, {", ".join(COLUMNS)} FROM queued, asynchronous_execution WHERE id = %(id)s
"""

ENDED = "SELECT charge FROM execution WHERE id = %(id)s"
HELD = "SELECT amount, charge FROM long_hold WHERE id = %(id)s"
BILLED = "SELECT cogs FROM settlement WHERE execution_id = %(id)s"
TOLD = "SELECT sequence, event, state FROM webhook_delivery WHERE execution_id = %(id)s ORDER BY 1"

Rows = list[tuple[Any, ...]]


class Queued(msgspec.Struct, frozen=True):
    task: str
    arguments: dict[str, Any]
    at: datetime | None


class Left(msgspec.Struct, frozen=True):
    """What there is of an execution in other tables than its own."""

    ended: Rows  # charge, nanos
    held: Rows  # amount and charge, nanos
    billed: Rows  # what its provider costs, nanos
    told: Rows  # sequence, event and state of the webhooks' deliveries, in order


class Observer:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def look(self, execution_id: bytes) -> tuple[AsynchronousExecution, list[Queued]]:
        """The row, and what transactions have queued since the look before, in that order."""
        parameters = {"id": UUID(bytes=execution_id), "digits": execution_id.hex()}
        found = await (await self._connection.execute(LOOK, parameters)).fetchone()
        assert found is not None
        names, arguments, moments, *row = found
        queued = map(Queued, names or (), arguments or (), moments or ())
        return execution_of(tuple(row)), list(queued)

    async def left(self, execution_id: bytes) -> Left:
        parameters = {"id": UUID(bytes=execution_id)}
        async with self._connection.pipeline():
            asked = [await self._connection.execute(each, parameters) for each in (ENDED, HELD, BILLED, TOLD)]
        return Left(*[await each.fetchall() for each in asked])


@asynccontextmanager
async def observer(database: str) -> AsyncIterator[Observer]:
    """Of every organisation in the database."""
    connection = await connect(database, Role.APP)
    try:
        await connection.execute("SET waypost.scope = 'system'")
        yield Observer(connection)
    finally:
        await connection.close()
