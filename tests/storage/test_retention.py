"""What is a year old goes, and what was used and paid stays known to the nano."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.asynchronous import ended, received
from tests.storage.books import IDS, Books, attempt, open_books
from waypost.executions.lifecycle import State
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.ledger.bill_file import BillLine
from waypost.ledger.record import ClosedAttempt, LedgerUnavailable, Outcome, answer_digest
from waypost.storage.asynchronous_executions import Ending, Executions
from waypost.storage.funding import refund_execution
from waypost.storage.ledger_check import check_ledger
from waypost.storage.partitions import ensure_partitions, has_table
from waypost.storage.pool import Pool
from waypost.storage.provider_bills import import_bill, oldest_billed
from waypost.storage.retention import forget_old, kept_from
from waypost.storage.roles import Role
from waypost.storage.usage import total_of, usage_of

TODAY = datetime.now(UTC).date()
FIRST_KEPT = kept_from(TODAY).first_day
LAST_GONE = FIRST_KEPT - timedelta(days=1)
LONG_AGO = FIRST_KEPT - timedelta(days=45)  # another month


def unix_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp() * 1000)


def accepted(day: date, org_id: bytes, lease_id: bytes, charge_nanos: int, **changes: object) -> ClosedAttempt:
    ids = Ids(now_ns=lambda: unix_ms(day) * 1_000_000)
    changes = {"attempt_id": ids.new(), "execution_id": ids.new(), "accepted_at_ms": unix_ms(day), **changes}
    return attempt(org_id, lease_id, charge_nanos, **changes)


async def two_years(books: Books) -> tuple[bytes, bytes]:
    """Attempts on both sides of the line: delivered, refunded, failed, and one that came too late for its lease. The
    organisation, and the refunded attempt."""
    for day in (LONG_AGO, FIRST_KEPT):
        await ensure_partitions(books.owner, unix_ms(day))
    org_id = await books.org(credit_nanos=10**9)
    lease_id = await books.grant(org_id, 10_000)
    refunded = accepted(LAST_GONE, org_id, lease_id, 500, model="grand-1")
    await books.ledger.settle_batch(
        [
            accepted(LONG_AGO, org_id, lease_id, 100),
            accepted(LONG_AGO, org_id, lease_id, 0, outcome=Outcome.FAILED, cogs_nanos=7),
            refunded,
            accepted(LAST_GONE, org_id, lease_id, 30, is_estimated=True),
            accepted(FIRST_KEPT, org_id, lease_id, 9_000),
            accepted(FIRST_KEPT, org_id, lease_id, 3),
            accepted(LAST_GONE, org_id, IDS.new(), 41),  # of a lease that nobody knows: the house bears it
        ]
    )
    await books.ledger.refund(attempt_id=refunded.open.attempt_id, refund_key="one", amount_nanos=200)
    await correct_costs(books)
    return org_id, refunded.open.attempt_id


async def correct_costs(books: Books) -> None:
    """Bills that say another cost of each of the days, less and more."""
    pool = Pool(books.conninfo, Role.SETTLE, size=1)
    for day, cost_nanos in ((LONG_AGO, 20), (LAST_GONE, 1_000), (FIRST_KEPT, 4_000)):
        line = BillLine(IDS.new(), day, "alpha-large", cost_nanos, b"")
        await import_bill(pool, IDS, provider="alpha", lines=[line], today=day)
    await pool.close()


async def asynchronous(settling: Pool, org_id: bytes, day: date, *, charge_nanos: int) -> bytes:
    """One that was accepted on that day and has succeeded; its id."""

    async def announce(*_: object) -> None:
        return

    executions = Executions(settling, IDS, announce)
    own_id = Ids(now_ns=lambda: unix_ms(day) * 1_000_000).new()
    accepted_at = datetime.fromtimestamp(unix_ms(day) // 1000, UTC)
    made, _ = await executions.create(received(org_id, id=own_id, accepted_at=accepted_at))
    await executions.step(made, ended(made, State.SUCCEEDED), ending=Ending(charge_nanos))
    return own_id


@given(day=st.dates(date(2026, 1, 1), date(2100, 1, 1)))
def test_nothing_is_kept_for_longer_than_a_year_and_everything_for_eleven_months(day: date) -> None:
    assert timedelta(days=333) < day - kept_from(day).first_day < timedelta(days=365)


async def test_rows_go_by_whole_months_and_what_they_came_to_stays(database: str) -> None:
    async with open_books(database) as books:
        org_id, _ = await two_years(books)
        totals, usage = await books.totals(), await usage_of(books.app, org_id)

        gone = await asyncio.gather(*(forget_old(books.owner, TODAY) for _ in range(3)))

        months = {f"{day:%Y_%m}" for day in (LONG_AGO, LAST_GONE)}
        assert months <= {name[-7:] for names in gone for name in names}
        assert await books.one("SELECT count(*), sum(charge)::bigint FROM settlement") == (2, 9_003)
        assert await books.one("SELECT count(*) FROM execution") == (2,)
        assert await books.totals() == totals
        left = await usage_of(books.app, org_id)
        assert total_of(left) == total_of(usage)
        assert {(row.day, row.model) for row in left} == {(LONG_AGO, ""), (LAST_GONE, ""), (FIRST_KEPT, "swift-1")}
        assert [row.charge_nanos for row in left if row.day == LAST_GONE] == [330]
        assert [row.day for row in await usage_of(books.app, org_id, since_ms=unix_ms(LAST_GONE))] == [
            LAST_GONE,
            FIRST_KEPT,
        ]
        assert await forget_old(books.owner, TODAY) == []
        assert await books.totals() == totals


async def test_what_bills_corrected_stays_in_the_cost_of_goods_when_lines_and_corrections_are_gone(
    database: str,
) -> None:
    async with open_books(database) as books:
        await two_years(books)
        totals = await books.totals()
        assert totals.cogs_nanos == 20 + 1_000 + 4_000

        await forget_old(books.owner, TODAY)
        pool = Pool(database, Role.SETTLE, size=1)
        await import_bill(pool, IDS, provider="alpha", lines=[BillLine(IDS.new(), TODAY, "x", 0, b"")], today=TODAY)
        await pool.close()

        assert await books.one("SELECT count(*) FROM cost_correction WHERE day < %s", FIRST_KEPT) == (0,)
        assert await books.totals() == totals


async def test_a_line_that_moves_out_of_the_first_day_has_nothing_booked_for_that_day_again(database: str) -> None:
    async with open_books(database) as books:
        await ensure_partitions(books.owner, unix_ms(FIRST_KEPT))
        org_id = await books.org(credit_nanos=10**9)
        lease_id = await books.grant(org_id, 1_000)
        names = [answer_digest(name) for name in ("in the evening", "in the morning")]
        await books.ledger.settle_batch(
            [
                accepted(day, org_id, lease_id, 100, answer=name)
                for day, name in zip((LAST_GONE, FIRST_KEPT), names, strict=True)
            ]
        )
        lines = [BillLine(name, FIRST_KEPT, "alpha-large", 70, name) for name in names]
        pool = Pool(database, Role.SETTLE, size=1)
        await import_bill(pool, IDS, provider="alpha", lines=lines, today=FIRST_KEPT)
        totals = await books.totals()
        await forget_old(books.owner, TODAY)

        oldest = oldest_billed(TODAY)
        moved = replace(lines[1], day=oldest)
        found = await import_bill(pool, IDS, provider="alpha", lines=[moved], today=TODAY)
        await pool.close()

        assert oldest == FIRST_KEPT + timedelta(days=1)
        assert [(group.day, group.is_alarming) for group in found.groups] == [(oldest, False)]
        assert await books.totals() == totals


async def test_a_partition_that_another_process_dropped_meanwhile_is_not_there(database: str) -> None:
    async with open_books(database) as books:
        await two_years(books)
        name = f"execution_{LAST_GONE:%Y_%m}"
        async with books.owner.system() as late:
            assert await has_table(late, name)
            async with books.owner.system() as other:
                await other.execute(f"DROP TABLE {name}")

            assert not await has_table(late, name)


async def test_what_has_gone_is_refunded_no_more_and_what_remains_is(database: str) -> None:
    async with open_books(database) as books:
        org_id, refunded = await two_years(books)
        kept = accepted(FIRST_KEPT, org_id, await books.grant(org_id, 100), 60)
        await books.ledger.settle_batch([kept])
        await forget_old(books.owner, TODAY)

        with pytest.raises(ValueError, match="refund"):
            await books.ledger.refund(attempt_id=refunded, refund_key="two", amount_nanos=1)
        await books.ledger.refund(attempt_id=kept.open.attempt_id, refund_key="one", amount_nanos=60)
        assert (await usage_of(books.app, org_id))[-1].refunded_nanos == 60
        await books.totals()


async def test_an_asynchronous_execution_that_has_gone_is_refunded_no_more_and_one_that_remains_is(
    database: str,
) -> None:
    async with open_books(database) as books:
        for day in (LAST_GONE, FIRST_KEPT):
            await ensure_partitions(books.owner, unix_ms(day))
        org_id = await books.org(credit_nanos=10**9)
        settling = Pool(database, Role.SETTLE, size=2)
        gone, given, kept = [
            await asynchronous(settling, org_id, day, charge_nanos=1_000) for day in (LAST_GONE, LAST_GONE, FIRST_KEPT)
        ]
        assert await refund_execution(settling, UUID(bytes=IDS.new()), execution_id=given) == 1_000
        await forget_old(books.owner, TODAY)

        for one in (gone, given):
            with pytest.raises(LookupError):
                await refund_execution(settling, UUID(bytes=IDS.new()), execution_id=one)
        assert await refund_execution(settling, UUID(bytes=IDS.new()), execution_id=kept) == 1_000

        await settling.close()
        used = await usage_of(books.app, org_id)
        assert [(row.day, row.charge_nanos, row.refunded_nanos) for row in used] == [
            (LAST_GONE, 1_000, 1_000),
            (FIRST_KEPT, 0, 1_000),
        ]
        totals = await books.totals()
        assert totals.credited_nanos - totals.available_nanos == total_of(used).charge_nanos


async def test_bookings_and_refunds_of_other_months_go_on_while_a_month_is_summed(database: str) -> None:
    async with open_books(database) as books:
        org_id, _ = await two_years(books)
        kept = accepted(FIRST_KEPT, org_id, await books.grant(org_id, 100), 60)
        async with books.owner.system() as keeper:
            months = ", ".join(f"{table}_{LAST_GONE:%Y_%m}" for table in ("settlement", "execution"))
            await keeper.execute(f"LOCK TABLE {months} IN SHARE ROW EXCLUSIVE MODE")

            await books.ledger.settle_batch([kept])
            for number in range(12):  # often enough for a connection that remembers a plan for any attempt
                await books.ledger.refund(attempt_id=kept.open.attempt_id, refund_key=str(number), amount_nanos=1)

        assert (await usage_of(books.app, org_id))[-1].refunded_nanos == 12
        await books.totals()


async def test_an_asynchronous_execution_goes_with_its_month_unless_it_is_under_way(database: str) -> None:
    async with open_books(database) as books:
        await ensure_partitions(books.owner, unix_ms(LAST_GONE))
        org_id, old = await books.org(credit_nanos=10**9), Ids(now_ns=lambda: unix_ms(LAST_GONE) * 1_000_000)
        settling = Pool(database, Role.SETTLE, size=2)

        async def announce(*_: object) -> None:
            return

        executions = Executions(settling, IDS, announce)
        made = [(await executions.create(received(org_id, id=each)))[0] for each in (old.new(), old.new(), IDS.new())]
        for one in (made[0], made[2]):
            await executions.step(one, ended(one, State.SUCCEEDED), ending=Ending(1_000))
        totals = await books.totals()

        await forget_old(books.owner, TODAY)
        await settling.close()

        async with books.app.system() as connection:
            rows = await (await connection.execute("SELECT id FROM asynchronous_execution ORDER BY id")).fetchall()
        assert [row[0] for row in rows] == sorted(UUID(bytes=each.id) for each in made[1:])
        assert await books.one("SELECT count(*) FROM execution") == (1,)
        assert await books.totals() == totals


async def test_what_came_when_its_month_had_no_partition_goes_too(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10**9)
        lease_id = await books.grant(org_id, 1_000)
        await books.ledger.settle_batch([accepted(day, org_id, lease_id, 100) for day in (LONG_AGO, FIRST_KEPT)])
        totals, usage = await books.totals(), total_of(await usage_of(books.app, org_id))

        assert await forget_old(books.owner, TODAY) == []

        for table in ("settlement", "execution"):
            counted = f"SELECT count(*), min(tableoid::regclass::text) FROM {table}"
            assert await books.one(counted) == (1, f"{table}_default")
        assert (await books.totals(), total_of(await usage_of(books.app, org_id))) == (totals, usage)


async def test_a_table_in_use_keeps_its_months_until_another_time_and_bookings_go_on(database: str) -> None:
    async with open_books(database) as books:
        org_id, _ = await two_years(books)
        totals = await books.totals()
        async with books.app.system(is_view=True) as reader:
            await reader.execute("SELECT count(*) FROM settlement")
            with pytest.raises(LedgerUnavailable):
                await forget_old(books.owner, TODAY)
            lease_id = await books.grant(org_id, 100)
            await books.ledger.settle_batch([accepted(FIRST_KEPT, org_id, lease_id, 100)])
        assert await books.one("SELECT count(*) FROM usage_day") == (0,)

        await forget_old(books.owner, TODAY)

        assert (await books.totals()).charged_nanos == totals.charged_nanos + 100
        assert await books.one("SELECT count(*) FROM settlement") == (3,)


async def test_a_machine_whose_clock_is_ahead_makes_nothing_old(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10**9)
        await ensure_partitions(books.owner, unix_ms(TODAY))
        await books.ledger.settle_batch([accepted(TODAY, org_id, await books.grant(org_id, 100), 100)])
        assert await forget_old(books.owner, TODAY + timedelta(days=1_000)) == []
        assert await books.one("SELECT count(*) FROM settlement") == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE settled_sum SET charge = charge + 1 WHERE charge > 0",
        "UPDATE settled_sum SET cogs = cogs + 1",
        "UPDATE settled_sum SET refunded = refunded + 1 WHERE charge > 0",
        "DELETE FROM settled_sum",
        "INSERT INTO refund (attempt_id, refund_key, org_id, amount) SELECT gen_random_uuid(), 'x', id, 1 FROM org",
    ],
)
async def test_the_books_see_sums_that_were_tampered_with(database: str, statement: str) -> None:
    async with open_books(database) as books:
        await two_years(books)
        await forget_old(books.owner, TODAY)
        async with books.owner.system() as connection:
            await connection.execute(statement)
        assert (await check_ledger(books.app)).violations
