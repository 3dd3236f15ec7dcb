"""Monthly partitions of what grows with traffic, made ahead of time; `retention` drops them whole.

A row's month is the month of its id (UUIDv7), so a partition's bounds are ids. Each table also has a default partition:
a row of an unforeseen month is kept there, and moves when its month is made.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

import msgspec
from psycopg import AsyncConnection, sql

from waypost.kit.ids import lowest_at
from waypost.storage.pool import Pool

PARTITIONED = {"settlement": "attempt_id", "execution": "id"}
MONTHS_BEFORE = 1  # for what a journal brings late
MONTHS_AHEAD = 2
_LOCK = 0x7061_7274  # any number, the same everywhere

HAS_TABLE = """
SELECT EXISTS (
    SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
     WHERE relname = %(name)s AND nspname = current_schema()
)
"""


class Month(msgspec.Struct, frozen=True, order=True):
    """A month of UTC."""

    year: int
    number: int

    @classmethod
    def at(cls, unix_ms: int) -> Month:
        moment = datetime.fromtimestamp(unix_ms // 1000, UTC)
        return cls(moment.year, moment.month)

    def plus(self, months: int) -> Month:
        year, index = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, index + 1)

    @property
    def first_day(self) -> date:
        return date(self.year, self.number, 1)

    @property
    def lowest_id(self) -> UUID:
        return UUID(bytes=lowest_at(int(datetime(self.year, self.number, 1, tzinfo=UTC).timestamp()) * 1000))


def partition_name(table: str, month: Month) -> str:
    return f"{table}_{month.year:04d}_{month.number:02d}"


async def ensure_partitions(pool: Pool, now_ms: int) -> list[str]:
    """Make the partitions of the month before, this month and the next two where they are missing; their names.

    `pool` is the owner's. To be called at start and at least monthly; several processes may do so at once."""
    now = Month.at(now_ms)
    made = []
    async with pool.system() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for table, id_column in PARTITIONED.items():
            for offset in range(-MONTHS_BEFORE, MONTHS_AHEAD + 1):
                month = now.plus(offset)
                name = partition_name(table, month)
                if not await has_table(connection, name):
                    for statement in _creation(table, id_column, month):
                        await connection.execute(statement)
                    made.append(name)
    return made


async def has_table(connection: AsyncConnection, name: str) -> bool:
    """Whether there is one at this moment. `to_regclass` tells what its session knew before it waited for a lock."""
    row = await (await connection.execute(HAS_TABLE, {"name": name})).fetchone()
    return row == (True,)


def _creation(table: str, id_column: str, month: Month) -> list[sql.Composed]:
    """Make the partition apart, move what the default one holds of the month, and attach it."""
    names = {
        "table": sql.Identifier(table),
        "partition": sql.Identifier(partition_name(table, month)),
        "default": sql.Identifier(f"{table}_default"),
        "id": sql.Identifier(id_column),
        "low": sql.Literal(month.lowest_id),
        "high": sql.Literal(month.plus(1).lowest_id),
    }
    statements = (
        "CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)",
        "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE",
        """
        WITH moved AS (DELETE FROM {default} WHERE {id} >= {low} AND {id} < {high} RETURNING *)
        INSERT INTO {partition} SELECT * FROM moved
        """,
        "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({low}) TO ({high})",
    )
    return [sql.SQL(statement).format(**names) for statement in statements]
