"""Providers' bills in the books: costs follow the bill, in either direction, once, and never onto a customer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from tests.storage.books import IDS, NOW_MS, Books, attempt, open_books
from waypost.kit.ids import Ids
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.bill_file import BillLine
from waypost.ledger.record import ClosedAttempt, Outcome, answer_digest
from waypost.storage.pool import Pool
from waypost.storage.provider_bills import Imported, import_bill, is_provider_known
from waypost.storage.roles import Role

TODAY = datetime.fromtimestamp(NOW_MS // 1000, UTC).date()
_OF_TODAY = Ids(now_ns=lambda: NOW_MS * 1_000_000)  # also when midnight has passed since
CENT = NANOS_PER_USD // 100


def line(amount: int, answer_id: str = "", *, day: date = TODAY, model: str = "alpha-large") -> BillLine:
    answer = answer_digest(answer_id) if answer_id else b""
    return BillLine(answer or answer_digest(f"sum {day} {model}"), day, model, amount, answer)


async def booked(books: Books, *attempts: tuple[int, str], crashed: Sequence[int] = ()) -> list[ClosedAttempt]:
    """Attempts of one lease, (cost, answer id) each, and crashed ones with their bounds."""
    org_id = await books.org(NANOS_PER_USD)
    lease_id = await books.grant(org_id, NANOS_PER_USD // 2)
    rows = [
        attempt(
            org_id,
            lease_id,
            CENT,
            attempt_id=_OF_TODAY.new(),
            cogs_nanos=cost,
            answer=answer_digest(name) if name else b"",
        )
        for cost, name in attempts
    ]
    rows += [
        attempt(
            org_id,
            lease_id,
            0,
            attempt_id=_OF_TODAY.new(),
            cogs_nanos=bound,
            outcome=Outcome.CRASHED,
            is_estimated=True,
        )
        for bound in crashed
    ]
    await books.ledger.settle_batch(rows)
    return rows


async def imported(books: Books, *lines: BillLine, today: date = TODAY) -> Imported:
    pool = Pool(books.conninfo, Role.SETTLE, size=1)
    try:
        return await import_bill(pool, IDS, provider="alpha", lines=lines, today=today)
    finally:
        await pool.close()


async def cost(books: Books) -> int:
    """The cost of goods as the checked books have it, and as the general ledger owes it."""
    totals = await books.totals()
    owed = await books.one(
        "SELECT sum(CASE WHEN credit = 6 THEN amount ELSE -amount END)::bigint FROM transfer WHERE 6 IN (debit, credit)"
    )
    assert owed == (totals.cogs_nanos,)
    return totals.cogs_nanos


async def test_costs_become_what_is_billed_and_charges_stay(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"), (7000, "b"), crashed=(20_000, 9000))
        before = await books.totals()

        found = await imported(books, line(6000, "a"), line(7000, "b"), line(8000, "of a crash"))

        assert found.corrected_nanos == 1000 - 20_000 - 1000
        assert await cost(books) == 6000 + 7000 + 8000
        after = await books.totals()
        assert (after.charged_nanos, after.available_nanos) == (before.charged_nanos, before.available_nanos)
        (group,) = found.groups
        assert (group.lines, group.attempts, group.difference_nanos, group.is_alarming) == (3, 4, 1000, False)


async def test_the_same_file_again_changes_nothing(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"), crashed=(9000,))
        lines = (line(6000, "a"), line(10_000, "stranger"))
        first = await imported(books, *lines)
        transfers = await books.one("SELECT count(*) FROM transfer")

        again = await imported(books, *lines)

        assert (first.lines_new, again.lines_new, again.corrected_nanos) == (2, 0, 0)
        assert again.groups == first.groups
        assert await books.one("SELECT count(*) FROM transfer") == transfers
        assert await cost(books) == 16_000
        assert again.groups[0].is_alarming, "what is unexplained stays unexplained"


async def test_a_later_bill_takes_back_what_an_earlier_one_did(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"), (7000, "b"))
        incomplete = await imported(books, line(4000, "a"))
        assert [each.cogs_nanos for each in incomplete.groups[0].refund_candidates] == [7000]
        assert await cost(books) == 4000

        await imported(books, line(4500, "a"), line(7000, "b"))

        assert await cost(books) == 11_500
        assert await books.one(
            "SELECT count(*), sum(lowered)::bigint FROM cost_correction WHERE raised + lowered > 0"
        ) == (
            1,
            500,
        )


async def test_sums_and_requests_of_one_day_replace_each_other(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"), crashed=(9000,))
        await imported(books, line(8000))
        assert await cost(books) == 8000
        await imported(books, line(5000, "a"), line(2000, "of a crash"))
        assert await cost(books) == 7000
        await imported(books, line(20_000))
        assert await cost(books) == 20_000
        assert await books.one("SELECT count(*) FROM provider_bill_line") == (1,)


async def test_a_request_near_midnight_is_found_on_the_next_days_bill(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"), (6000, "b"))
        tomorrow = TODAY + timedelta(days=1)
        found = await imported(books, line(5000, "a"), line(6500, "b", day=tomorrow))
        assert [(group.day, group.attempts, group.is_alarming) for group in found.groups] == [
            (TODAY, 1, False),
            (tomorrow, 1, False),
        ]
        assert await cost(books) == 11_500


async def test_what_is_billed_for_an_unknown_model_is_the_houses_and_an_alarm(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"))
        found = await imported(books, line(7000, model="never-heard-of"))
        assert found.groups[0].is_alarming
        assert await cost(books) == 12_000
        assert await books.one("SELECT amount FROM transfer WHERE code = 14 AND debit = 17") == (7000,)


async def test_another_providers_attempts_are_left_alone(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(NANOS_PER_USD)
        lease_id = await books.grant(org_id, CENT)
        other = attempt(org_id, lease_id, 10, provider="beta", deployment="beta/alpha-large", answer=answer_digest("a"))
        await books.ledger.settle_batch([other])
        found = await imported(books, line(7000, "a"))
        assert (found.groups[0].attempts, len(found.groups[0].unmatched_lines)) == (0, 1)
        pool = Pool(database, Role.SETTLE, size=1)
        assert await is_provider_known(pool, "beta")
        assert not await is_provider_known(pool, "alpha")
        await pool.close()


async def test_lines_older_than_the_settlements_are_forgotten(database: str) -> None:
    async with open_books(database) as books:
        await booked(books, (5000, "a"))
        await imported(books, line(6000, "a"))
        await imported(books, line(1, "z", day=TODAY + timedelta(days=400)), today=TODAY + timedelta(days=400))
        assert await books.one("SELECT count(*) FROM provider_bill_line WHERE day = %s", TODAY) == (0,)
