"""Changes that every process follows: numbered in the order in which they become visible, and announced.

A follower asks for what is newer than the last number it saw. That misses nothing only if a number is never taken
before an earlier one is visible; so the lock under which a number is taken is held until the transaction has ended.
"""

from __future__ import annotations

from enum import Enum

from psycopg import AsyncConnection

CHANNEL = "waypost_change"


class Followed(Enum):
    """table → its lock: any numbers, the same in every process."""

    API_KEYS = ("api_key", 0x6B65_7973)
    CATALOGUES = ("catalogue_version", 0x6361_7461)

    def __init__(self, table: str, lock: int) -> None:
        self.table = table
        self.lock = lock


async def take_version(connection: AsyncConnection, followed: Followed) -> int:
    """The next number, in a transaction of the system's scope; its change is announced when the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (followed.lock,))
    newest = f"SELECT coalesce(max(version), 0) + 1 FROM {followed.table}"  # noqa: S608 - a table of the enum above
    row = await (await connection.execute(newest)).fetchone()
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, followed.table))
    assert row is not None
    version: int = row[0]
    return version
