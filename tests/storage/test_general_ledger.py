"""The general ledger: two sides to everything, equal to the sub-ledgers, sealed, and never changed."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest

from tests.storage.books import IDS, Books, attempt, open_books
from waypost.ledger.account import AccountKind
from waypost.ledger.record import Balance, InsufficientFunds, Outcome
from waypost.storage.general_ledger import account_sums
from waypost.storage.ledger_check import check_ledger, check_quickly
from waypost.storage.long_holds import end_hold_on
from waypost.storage.pool import Pool
from waypost.storage.roles import Role


async def sums(books: Books) -> dict[AccountKind, tuple[int, int]]:
    while await books.ledger.seal():
        pass
    return {one.kind: (one.debits, one.credits) for one in await account_sums(books.app)}


async def busy_day(books: Books) -> bytes:
    """A bit of everything; the organisation."""
    org_id = await books.org(credit_nanos=1_000)
    lease_id = await books.grant(org_id, 500)
    await books.ledger.extend(lease_id=lease_id, from_nanos=500, to_nanos=600)
    charged = attempt(org_id, lease_id, 100, cogs_nanos=80)
    await books.ledger.settle_batch(
        [
            charged,
            attempt(org_id, lease_id, 0, cogs_nanos=7, outcome=Outcome.FAILED, is_final=False),
            attempt(org_id, lease_id, 0, cogs_nanos=9, outcome=Outcome.CRASHED),
        ]
    )
    await books.ledger.release(lease_id=lease_id, released_nanos=500, is_last=True)
    await books.ledger.refund(attempt_id=charged.open.attempt_id, refund_key="one", amount_nanos=30)
    return org_id


async def test_every_account_says_what_happened(database: str) -> None:
    async with open_books(database) as books:
        await busy_day(books)
        kind = AccountKind
        assert await sums(books) == {
            kind.CASH: (1_000, 0),
            kind.WALLET: (600, 1_530),
            kind.LEASE: (600, 600),
            kind.REVENUE: (30, 100),
            kind.PAYABLE: (0, 96),
            kind.COGS_PROVIDER: (80, 0),
            kind.COGS_FAILED_ATTEMPT: (7, 0),
            kind.HOUSE_CRASH: (9, 0),
        }
        await books.totals()


async def test_what_only_takes_from_an_account_is_sealed_too(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await sums(books)
        await books.grant(org_id, 400)
        assert (await sums(books))[AccountKind.WALLET] == (400, 1_000)
        await books.totals()


async def test_a_batch_is_one_transfer_for_each_lease_and_kind_of_cost(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100_000)
        leases = [await books.grant(org_id, 10_000) for _ in range(3)]
        batch = [attempt(org_id, lease_id, 10) for lease_id in leases for _ in range(50)]
        for _ in range(3):
            await books.ledger.settle_batch(batch)
        assert await books.one("SELECT count(*), sum(amount)::bigint FROM transfer WHERE code = 3") == (3, 1_500)
        assert await books.one("SELECT count(*), sum(amount)::bigint FROM transfer WHERE code = 4") == (1, 750)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE transfer SET amount = 1", "UPDATE transfer SET batch = NULL", "DELETE FROM transfer", "TRUNCATE transfer",
     "DELETE FROM seal", "UPDATE seal SET transfers = 9"],
)  # fmt: skip
async def test_what_is_written_stays(database: str, statement: str) -> None:
    async with open_books(database) as books:
        await busy_day(books)
        await books.ledger.seal()
        with pytest.raises(psycopg.errors.IntegrityError):
            async with books.owner.system() as connection:
                await connection.execute(statement)


async def test_sealers_at_once_seal_everything_once_and_a_forged_transfer_is_seen(database: str) -> None:
    async with open_books(database) as books:
        for _ in range(3):
            await busy_day(books)
            await asyncio.gather(*(books.ledger.seal() for _ in range(4)))
        before = await sums(books)
        assert before == await sums(books)
        assert await books.one("SELECT count(*) FROM transfer WHERE batch IS NULL") == (0,)
        await books.totals()

        async with books.owner.system() as connection:
            await connection.execute("ALTER TABLE transfer DISABLE TRIGGER transfer_immutable")
            await connection.execute("UPDATE transfer SET amount = amount + 5 WHERE code = 3 AND batch = 1")
        found = await check_ledger(books.app)
        assert any("are not what was sealed" in line for line in found.violations)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("UPDATE wallet SET available = available + 1", "account 2"),
        ("UPDATE wallet SET suspense = suspense + 1", "suspense"),
        ("UPDATE account SET debits = debits + 1 WHERE kind = 1", "debits"),
    ],
)
async def test_the_quick_rules_see_money_that_came_from_nowhere(database: str, statement: str, word: str) -> None:
    async with open_books(database) as books:
        await busy_day(books)
        await books.ledger.seal()
        await busy_day(books)
        assert await check_quickly(books.app) == ()
        async with books.owner.system() as connection:
            await connection.execute(statement)
        assert any(word in line for line in await check_quickly(books.app))


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("UPDATE settlement SET charge = charge + 1 WHERE charge > 0", "its attempts were charged"),
        ("UPDATE settlement SET cogs = cogs + 1", "cost of goods"),
        ("UPDATE execution SET charge = charge + 1", "its attempts and its hold were charged"),
        ("UPDATE lease SET settled = settled + 1, released = released - 1", "settled"),
        ("UPDATE topup SET amount = amount + 1", "credited"),
        ("UPDATE refund SET amount = amount + 1", "its refunds are"),
        ("UPDATE settlement SET refunded = refunded + 1 WHERE charge > 0", "its refunds are"),
        ("INSERT INTO transfer (id, code, debit, credit, amount) VALUES (gen_random_uuid(), 4, 8, 6, 5)", "come to"),
        ("ALTER TABLE wallet ADD COLUMN tip numeric", "whole number"),
    ],
)
async def test_the_thorough_rules_see_every_row_that_was_tampered_with(
    database: str, statement: str, word: str
) -> None:
    async with open_books(database) as books:
        await busy_day(books)
        assert (await check_ledger(books.app)).violations == ()
        async with books.owner.system() as connection:
            await connection.execute(statement)
        found = await check_ledger(books.app)
        assert any(word in line for line in found.violations), found.violations


async def test_a_chargeback_takes_what_is_there_and_the_rest_is_owed_until_it_is_paid(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org()
        await books.ledger.topup(org_id=org_id, amount_nanos=1_000, reference="pay-1")
        lease_id = await books.grant(org_id, 700)

        def back(amount_nanos: int = 1_000, reference: str = "dispute-1", payment: str = "pay-1") -> object:
            return books.ledger.charge_back(topup_reference=payment, reference=reference, amount_nanos=amount_nanos)

        outcomes = await asyncio.gather(*(back() for _ in range(4)))  # type: ignore[call-overload]
        assert sorted(outcomes) == [False, False, False, True]
        for wrong in ({"amount_nanos": 999}, {"reference": "dispute-2"}):
            with pytest.raises(ValueError, match=r"another amount|more than"):
                await back(**wrong)  # type: ignore[misc]
        with pytest.raises(LookupError):
            await back(payment="pay-2", reference="dispute-3")  # type: ignore[misc]
        wallet = "SELECT available, receivable, is_suspended FROM wallet"
        assert await books.one(wallet) == (0, 700, True)
        await books.ledger.release(lease_id=lease_id, released_nanos=700, is_last=True)
        with pytest.raises(InsufficientFunds):
            await books.grant(org_id, 1)
        await books.totals()

        await books.ledger.topup(org_id=org_id, amount_nanos=600, reference="pay-2")
        assert await books.one(wallet) == (700, 100, True)
        await books.ledger.topup(org_id=org_id, amount_nanos=150, reference="pay-3")
        assert await books.one(wallet) == (750, 0, False)
        await books.grant(org_id, 750)
        await books.totals()


async def test_long_holds_are_created_settled_and_released_once(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        settled, released = IDS.new(), IDS.new()
        for hold_id in (settled, released):
            made = [books.ledger.create_hold(hold_id=hold_id, org_id=org_id, amount_nanos=400) for _ in range(3)]
            assert await asyncio.gather(*made, return_exceptions=True) == [400] * 3
        with pytest.raises(InsufficientFunds) as refusal:
            await books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=300)
        assert refusal.value.available_nanos == 200
        with pytest.raises(LookupError):
            await books.ledger.create_hold(hold_id=IDS.new(), org_id=IDS.new(), amount_nanos=1)
        assert await books.ledger.snapshot(org_id) == Balance(200, 800, 0)

        with pytest.raises(ValueError, match="more than was held"):
            await books.ledger.end_hold(hold_id=settled, charge_nanos=401)
        ends = [books.ledger.end_hold(hold_id=settled, charge_nanos=150) for _ in range(3)]
        assert sorted(await asyncio.gather(*ends)) == [False, False, True]
        with pytest.raises(ValueError, match="another charge"):
            await books.ledger.end_hold(hold_id=settled, charge_nanos=0)
        assert await books.ledger.end_hold(hold_id=released, charge_nanos=0)
        with pytest.raises(LookupError):
            await books.ledger.end_hold(hold_id=IDS.new(), charge_nanos=0)
        assert await books.ledger.snapshot(org_id) == Balance(850, 0, 0)
        assert (await books.totals()).charged_nanos == 150


async def test_a_long_hold_waits_for_what_other_leases_give_back(database: str) -> None:
    async with open_books(database) as books:
        org_id, hold_id = await books.org(credit_nanos=1_000), IDS.new()
        lease_id = await books.grant(org_id, 900)
        await books.ledger.wait_for_recall(0.5)  # from now on nothing that is announced is missed
        holding = asyncio.ensure_future(
            books.ledger.create_hold(hold_id=hold_id, org_id=org_id, amount_nanos=800, is_patient=True)
        )
        await books.ledger.wait_for_recall(5)
        await books.ledger.release(lease_id=lease_id, released_nanos=800, is_last=False)
        assert await holding == 800
        assert await books.ledger.snapshot(org_id) == Balance(200, 800, 0)
        with pytest.raises(InsufficientFunds):  # nobody has so much
            await books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=201, is_patient=True)


async def test_a_hold_ends_with_the_transaction_that_it_is_a_part_of(database: str) -> None:
    async with open_books(database) as books:
        org_id, hold_id = await books.org(credit_nanos=1_000), IDS.new()
        await books.ledger.create_hold(hold_id=hold_id, org_id=org_id, amount_nanos=400)
        settling = Pool(database, Role.SETTLE, size=1)

        async def end(*, fails: bool) -> None:
            ids = UUID(bytes=IDS.new()), UUID(bytes=IDS.new())
            async with settling.connection() as connection, connection.transaction():
                assert await end_hold_on(connection, ids, hold_id=hold_id, charge_nanos=150)
                if fails:
                    raise RuntimeError

        with pytest.raises(RuntimeError):
            await end(fails=True)
        assert await books.ledger.snapshot(org_id) == Balance(600, 400, 0)
        await end(fails=False)
        assert await books.ledger.snapshot(org_id) == Balance(850, 0, 0)
        await settling.close()
        await books.totals()


async def test_of_long_holds_and_grants_at_once_as_many_succeed_as_there_is_money_for(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        holds = [books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=190) for _ in range(8)]
        grants = [books.grant(org_id, 190) for _ in range(8)]
        outcomes = await asyncio.gather(*holds, *grants, return_exceptions=True)
        assert sum(isinstance(outcome, InsufficientFunds) for outcome in outcomes) == 11
        assert await books.one("SELECT available FROM wallet") == (50,)
        await books.totals()
