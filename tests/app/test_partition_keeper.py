"""The keeper of partitions, over the real database: months ahead are there, and months that are over are not."""

from __future__ import annotations

from datetime import timedelta

from tests.storage.books import open_books
from tests.storage.test_retention import FIRST_KEPT, LAST_GONE, TODAY, unix_ms
from waypost.app.partition_keeper import PartitionKeeper
from waypost.kit.clock import SystemClock
from waypost.storage.partitions import Month, ensure_partitions, partition_name

PARTITIONS = "SELECT coalesce(array_agg(relname::text), '{}') FROM pg_class WHERE relispartition"


async def test_a_start_makes_the_months_ahead_and_a_look_drops_those_that_are_over(database: str) -> None:
    async with open_books(database) as books:
        for day in (LAST_GONE - timedelta(days=40), FIRST_KEPT):
            await ensure_partitions(books.owner, unix_ms(day))
        keeper = PartitionKeeper(database, SystemClock())
        over = partition_name("execution", Month(LAST_GONE.year, LAST_GONE.month))
        kept = partition_name("execution", Month(FIRST_KEPT.year, FIRST_KEPT.month))
        ahead = partition_name("execution", Month(TODAY.year, TODAY.month).plus(2))

        await keeper.make()
        (names,) = await books.one(PARTITIONS)
        assert {over, kept, ahead} <= set(names)  # type: ignore[call-overload]

        await keeper.look()
        (names,) = await books.one(PARTITIONS)
        assert {kept, ahead} <= set(names)  # type: ignore[call-overload]
        assert over not in names  # type: ignore[operator]
