"""Monthly partitions: made ahead, bounded by ids, and no row is ever lost for want of one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.books import IDS, NOW_MS, attempt, open_books
from waypost.kit.ids import Ids
from waypost.storage.nodes import list_nodes
from waypost.storage.partitions import Month, ensure_partitions, partition_name

JANUARY = int(datetime(2031, 1, 15, tzinfo=UTC).timestamp() * 1000)


@given(ms=st.integers(0, 4_102_444_799_999))
def test_an_id_lies_between_the_bounds_of_its_month(ms: int) -> None:
    made = Ids(now_ns=lambda: ms * 1_000_000).new()
    month = Month.at(ms)
    assert month.lowest_id.bytes <= made < month.plus(1).lowest_id.bytes


@pytest.mark.parametrize(
    ("months", "name"), [(-1, "t_2030_12"), (0, "t_2031_01"), (12, "t_2032_01"), (-13, "t_2029_12")]
)
def test_months_are_counted_over_the_turn_of_the_year(months: int, name: str) -> None:
    assert partition_name("t", Month.at(JANUARY).plus(months)) == name


async def test_the_month_before_this_one_and_two_ahead_are_made_once(database: str) -> None:
    async with open_books(database) as books:
        made = await asyncio.gather(*(ensure_partitions(books.owner, JANUARY) for _ in range(3)))
        assert sorted(name for names in made for name in names) == [
            f"{table}_{month}"
            for table in ("execution", "settlement")
            for month in ("2030_12", "2031_01", "2031_02", "2031_03")
        ]


async def test_rows_of_a_month_without_a_partition_are_kept_and_move_into_it_later(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10**6)
        lease_id = await books.grant(org_id, 1_000)
        early = attempt(org_id, lease_id, 100)
        await books.ledger.settle_batch([early])
        assert await books.one("SELECT tableoid::regclass::text FROM settlement") == ("settlement_default",)

        await ensure_partitions(books.owner, NOW_MS)
        await books.ledger.settle_batch([early, attempt(org_id, lease_id, 100)])
        name = partition_name("settlement", Month.at(NOW_MS))
        assert await books.one("SELECT tableoid::regclass::text, count(*) FROM settlement GROUP BY 1") == (name, 2)
        assert (await books.totals()).charged_nanos == 200


async def test_nodes_are_listed_with_what_their_leases_hold(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await books.grant(org_id, 100)
        books.node_epoch = await books.ledger.register_node(books.node_id)
        await books.grant(org_id, 30)
        (node,) = await list_nodes(books.app)
        assert (node.id, node.epoch, node.is_alive) == (books.node_id, 2, True)
        assert (node.leased_nanos, node.left_behind_nanos) == (30, 100)
        assert IDS.new() != node.id
