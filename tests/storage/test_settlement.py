"""Booking: once per attempt, exact to the nano, and never stopped by a row that comes late."""

from __future__ import annotations

import asyncio
import random
import uuid

import psycopg
import pytest
from psycopg import conninfo as conninfos

from tests.storage.books import IDS, NOW_MS, attempt, open_books
from waypost.ledger.record import LedgerUnavailable, Outcome
from waypost.storage.ledger import PostgresLedger
from waypost.storage.ledger_check import check_ledger


async def test_what_a_call_leaves_in_the_database_is_small(database: str) -> None:
    """The tables that grow with traffic have narrow rows: a call is one of each."""
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10**9)
        lease_id = await books.grant(org_id, 10**6)
        usual = {"model": "vendor/a-model-2026-11-01", "provider": "alpha", "deployment": "alpha/a-model-2026-11-01"}
        everything = dict.fromkeys(("images", "duration_ms", "characters", "audio_input_tokens"), 10**6)
        await books.ledger.settle_batch(
            [attempt(org_id, lease_id, 10**5, **usual, **units) for units in ({}, everything)]
        )
        for table in ("settlement", "execution"):
            (largest,) = await books.one(f"SELECT max(pg_column_size({table}.*)) FROM {table}")
            assert isinstance(largest, int)
            assert largest < 400


async def test_every_field_arrives_where_it_belongs(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 1_000)
        booked = attempt(
            org_id,
            lease_id,
            100,
            outcome=Outcome.DISCONNECTED,
            is_estimated=True,
            attempt_number=3,
            status=499,
            error_code="GENERATION_FAILED",
        )
        await books.ledger.settle_batch([booked])

        assert await books.one(
            "SELECT encode(uuid_send(attempt_id), 'hex'), encode(uuid_send(execution_id), 'hex'), charge, house, cogs,"
            " price_version, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
            " output_tokens, reasoning_tokens, outcome, is_estimated, model, provider, deployment FROM settlement"
        ) == (
            *(booked.open.attempt_id.hex(), booked.open.execution_id.hex(), 100, 0, 50),
            *(1, 10, 20, 30, 40, 50, 5, 4, True, "swift-1", "alpha", "alpha/alpha-large"),
        )
        assert await books.one(
            "SELECT encode(uuid_send(id), 'hex'), encode(uuid_send(api_key_id), 'hex'), charge,"
            " (extract(epoch FROM accepted_at) * 1000)::bigint, (extract(epoch FROM closed_at) * 1000)::bigint,"
            " input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,"
            " reasoning_tokens, first_content_ms, attempts, outcome, status, is_stream, is_estimated, model, error_code"
            " FROM execution"
        ) == (
            *(booked.open.execution_id.hex(), booked.open.api_key_id.hex(), 100, NOW_MS, NOW_MS + 1234),
            *(10, 20, 30, 40, 50, 5, 321, 3, 4, 499, True, True, "swift-1", "GENERATION_FAILED"),
        )


async def test_only_a_final_attempt_makes_an_execution(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 1_000)
        failed = attempt(org_id, lease_id, 0, is_final=False, outcome=Outcome.FAILED)
        final = attempt(org_id, lease_id, 100, execution_id=failed.open.execution_id, attempt_number=2)
        await books.ledger.settle_batch([failed])
        assert await books.one("SELECT count(*) FROM execution") == (0,)
        await books.ledger.settle_batch([failed, final])
        assert await books.one("SELECT attempts, charge, outcome FROM execution") == (2, 100, 1)
        await books.totals()


async def test_duplicated_shuffled_and_overlapping_batches_book_everything_once(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000_000)
        leases = [await books.grant(org_id, 100_000) for _ in range(3)]
        dice = random.Random(7)
        attempts = [attempt(org_id, dice.choice(leases), dice.randrange(100)) for _ in range(300)]
        batches = [dice.sample(attempts, 120) for _ in range(12)] + [attempts, [attempts[0], attempts[0]]]
        await asyncio.gather(*(books.ledger.settle_batch(batch) for batch in batches))

        spent = sum(one.close.charge_nanos for one in attempts)
        assert await books.one("SELECT count(*), sum(charge)::bigint FROM settlement") == (300, spent)
        assert await books.one("SELECT count(*), sum(charge)::bigint FROM execution") == (300, spent)
        assert await books.one("SELECT sum(settled)::bigint FROM lease") == (spent,)
        assert (await books.totals()).charged_nanos == spent


async def test_what_comes_after_the_lease_was_closed_is_paid_from_what_it_gave_back_and_the_rest_by_the_house(
    database: str,
) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 500)
        await books.ledger.release(lease_id=lease_id, released_nanos=500, is_last=True)
        await books.grant(org_id, 940)
        late = [attempt(org_id, lease_id, 100), attempt(org_id, IDS.new(), 30)]
        for _ in range(2):
            await books.ledger.settle_batch(late)
        totals = await books.totals()
        assert (totals.charged_nanos, totals.house_nanos, totals.available_nanos) == (60, 70, 940)
        assert await books.one("SELECT available FROM wallet") == (0,)
        assert await books.one("SELECT sum(charge)::bigint FROM execution") == (60,)


async def test_a_batch_that_together_exceeds_its_lease_is_booked_as_far_as_it_goes(database: str) -> None:
    async with open_books(database) as books:
        org_id, other = await books.org(credit_nanos=1_000), await books.org(credit_nanos=1_000)
        lease_id, lease_of_other = await books.grant(org_id, 250), await books.grant(other, 250)
        batch = [attempt(org_id, lease_id, 100) for _ in range(4)] + [attempt(other, lease_of_other, 200)]
        for _ in range(2):
            await books.ledger.settle_batch(batch)
        totals = await books.totals()
        assert (totals.charged_nanos, totals.house_nanos) == (450, 150)


async def test_a_lease_never_pays_for_another_organisation(database: str) -> None:
    async with open_books(database) as books:
        org_id, other = await books.org(credit_nanos=1_000), await books.org(credit_nanos=1_000)
        await books.ledger.settle_batch([attempt(other, await books.grant(org_id, 500), 100)])
        totals = await books.totals()
        assert (totals.charged_nanos, totals.house_nanos) == (0, 100)


async def test_a_row_that_can_never_be_booked_is_refused_alone(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 500)
        impossible = attempt(org_id, lease_id, 10, output_tokens=-1)
        with pytest.raises(psycopg.errors.CheckViolation):
            await books.ledger.settle_batch([impossible])
        await books.ledger.settle_batch([attempt(org_id, lease_id, 10)])
        assert (await books.totals()).charged_nanos == 10


async def test_an_empty_batch_is_nothing(database: str) -> None:
    async with open_books(database) as books:
        await books.ledger.settle_batch([])
        assert (await books.totals()).charged_nanos == 0


async def test_a_server_that_only_reads_is_away_and_refuses_no_row(database: str) -> None:
    name = conninfos.conninfo_to_dict(database)["dbname"]
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 500)
        one = attempt(org_id, lease_id, 100)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            reading = PostgresLedger(database)
            with pytest.raises(LedgerUnavailable):
                await reading.settle_batch([one])
            with pytest.raises(LedgerUnavailable):
                await reading.extend(lease_id=lease_id, from_nanos=500, to_nanos=600)
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")

        await reading.settle_batch([one])  # by a connection of its own: the first ones only read

        await reading.close_connections()
        assert (await books.totals()).charged_nanos == 100


async def test_a_right_that_is_missing_refuses_no_row(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        one = attempt(org_id, await books.grant(org_id, 500), 100)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE settlement RENAME TO elsewhere")
            with pytest.raises(LedgerUnavailable):
                await books.ledger.settle_batch([one])
            connection.execute("ALTER TABLE elsewhere RENAME TO settlement")

        await books.ledger.settle_batch([one])

        assert (await books.totals()).charged_nanos == 100


async def test_attempts_on_a_long_hold_book_their_cost_in_one_batch_with_the_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id, execution_id = await books.grant(org_id, 500), IDS.new()
        await books.ledger.create_hold(hold_id=execution_id, org_id=org_id, amount_nanos=300)
        on_hold = [
            attempt(
                org_id,
                execution_id,
                0,
                execution_id=execution_id,
                attempt_number=number,
                cogs_nanos=40,
                outcome=outcome,
                is_final=False,
                has_long_hold=True,
            )
            for number, outcome in enumerate((Outcome.FAILED, Outcome.CRASHED, Outcome.COMPLETED), 1)
        ]
        on_lease = attempt(org_id, lease_id, 100)
        monkeypatch.setattr("waypost.storage.settlement.SETTLE_LATE", "no statement: nothing goes row by row")
        for _ in range(2):
            await books.ledger.settle_batch([*on_hold, on_lease])
        assert await books.one("SELECT count(*) FROM execution") == (1,)
        costs = "SELECT array_agg(amount ORDER BY debit) FROM transfer WHERE code = 4"
        assert await books.one(costs) == ([90, 40, 40],)
        totals = await books.totals()
        assert (totals.charged_nanos, totals.cogs_nanos, totals.held_nanos) == (100, 170, 300)
        await books.ledger.end_hold(hold_id=execution_id, charge_nanos=250)
        assert (await books.totals()).charged_nanos == 350


async def test_an_execution_is_charged_what_its_long_hold_was(database: str) -> None:
    async with open_books(database) as books:
        org_id, execution_id = await books.org(credit_nanos=1_000), IDS.new()
        await books.ledger.create_hold(hold_id=execution_id, org_id=org_id, amount_nanos=300)
        await books.ledger.end_hold(hold_id=execution_id, charge_nanos=250)
        # As the end of an asynchronous execution writes it: its own row, without a lease.
        ended = attempt(org_id, execution_id, 0, execution_id=execution_id, has_long_hold=True)
        await books.ledger.settle_batch([ended])
        shown = f"exec_{uuid.UUID(bytes=execution_id)}"
        wrong = f"{shown}: charge 0, but its attempts and its hold were charged 250"
        assert wrong in (await check_ledger(books.app)).violations
        async with books.owner.system() as connection:
            await connection.execute("UPDATE execution SET charge = 250")
        assert (await books.totals()).charged_nanos == 250
