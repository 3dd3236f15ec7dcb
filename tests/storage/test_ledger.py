"""Each money decision: exact under competition, without a second effect, and never below zero."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.books import IDS, attempt, open_books
from waypost.ledger.record import Balance, InsufficientFunds, LedgerUnavailable, NodeSuperseded
from waypost.storage.ledger import PostgresLedger


async def test_of_32_grants_at_once_exactly_as_many_succeed_as_there_is_money_for(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        outcomes = await asyncio.gather(*(books.grant(org_id, 190) for _ in range(32)), return_exceptions=True)

        refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientFunds)]
        assert len(refused) == 27
        assert all(refusal.available_nanos < 190 for refusal in refused)
        assert await books.ledger.snapshot(org_id) == Balance(1_000, 0, 0)
        assert await books.one("SELECT available FROM wallet") == (50,)
        await books.totals()


async def test_a_repeated_grant_returns_the_same_lease_also_when_both_arrive_at_once(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = IDS.new()
        await asyncio.gather(*(books.grant(org_id, 600, lease_id=lease_id) for _ in range(8)))
        assert await books.one("SELECT available, count(*) FROM wallet, lease GROUP BY 1") == (400, 1)
        await books.totals()


async def test_a_grant_that_does_not_fit_tells_what_would(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100)
        with pytest.raises(InsufficientFunds) as refusal:
            await books.grant(org_id, 101)
        assert refusal.value.available_nanos == 100
        with pytest.raises(LookupError):
            await books.grant(IDS.new(), 1)


async def test_an_older_epoch_is_granted_nothing_but_may_settle(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 100)
        assert await books.ledger.register_node(books.node_id) == 2

        with pytest.raises(NodeSuperseded):
            await books.grant(org_id, 100)
        with pytest.raises(NodeSuperseded):
            await books.ledger.extend(lease_id=lease_id, from_nanos=100, to_nanos=200)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 70)])

        assert await books.ledger.snapshot(org_id) == Balance(900, 0, 30)
        assert (await books.totals()).suspense_nanos == 30


async def test_a_node_that_fell_silent_leaves_its_leases_in_suspense(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await books.grant(org_id, 400)
        assert await books.ledger.snapshot(org_id) == Balance(1_000, 0, 0)
        async with books.owner.system() as connection:
            await connection.execute("UPDATE node SET heartbeat_at = now() - interval '61 s'")
        assert await books.ledger.snapshot(org_id) == Balance(600, 0, 400)


async def test_an_extension_is_taken_once_however_often_and_closely_it_is_asked_for(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 100)
        totals = await asyncio.gather(
            *(books.ledger.extend(lease_id=lease_id, from_nanos=100, to_nanos=300) for _ in range(8))
        )
        assert totals == [300] * 8
        assert await books.one("SELECT available, granted FROM wallet, lease") == (700, 300)

        with pytest.raises(InsufficientFunds) as refusal:
            await books.ledger.extend(lease_id=lease_id, from_nanos=300, to_nanos=1_001)
        assert refusal.value.available_nanos == 700
        await books.ledger.release(lease_id=lease_id, released_nanos=300, is_last=True)
        for unknown in (lease_id, IDS.new()):
            with pytest.raises(LookupError):
                await books.ledger.extend(lease_id=unknown, from_nanos=300, to_nanos=301)
        await books.totals()


async def test_a_closed_lease_returns_its_rest_once(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 150)])
        await asyncio.gather(
            *(books.ledger.release(lease_id=lease_id, released_nanos=250, is_last=True) for _ in range(8))
        )
        assert await books.one("SELECT available, state FROM wallet, lease") == (850, "CLOSED")
        await books.ledger.release(lease_id=IDS.new(), released_nanos=1, is_last=True)
        assert (await books.totals()).charged_nanos == 150


async def test_a_lease_never_returns_more_than_is_left_and_keeps_what_is_not_returned(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        greedy, modest = await books.grant(org_id, 400), await books.grant(org_id, 400)
        await books.ledger.settle_batch([attempt(org_id, greedy, 150), attempt(org_id, modest, 150)])
        await books.ledger.release(lease_id=greedy, released_nanos=400, is_last=True)
        for _ in range(2):
            await books.ledger.release(lease_id=modest, released_nanos=200, is_last=True)
        assert await books.one("SELECT available FROM wallet") == (200 + 250 + 200,)
        await books.ledger.settle_batch([attempt(org_id, modest, 50)])
        await books.ledger.release(lease_id=modest, released_nanos=200, is_last=True)
        assert await books.one("SELECT count(*) FROM lease WHERE state = 'CLOSED'") == (2,)
        assert (await books.totals()).house_nanos == 0


async def test_grants_extensions_settlements_and_closings_at_once_lose_nothing(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100_000)

        async def live(number: int) -> int:
            lease_id = await books.grant(org_id, 1_000)
            await books.ledger.extend(lease_id=lease_id, from_nanos=1_000, to_nanos=2_000)
            charges = [attempt(org_id, lease_id, 100 + number) for _ in range(5)]
            await asyncio.gather(books.ledger.settle_batch(charges), books.ledger.settle_batch(charges[::-1]))
            spent = 5 * (100 + number)
            await books.ledger.release(lease_id=lease_id, released_nanos=2_000 - spent, is_last=True)
            return spent

        spent = sum(await asyncio.gather(*(live(number) for number in range(20))))
        totals = await books.totals()
        assert (totals.charged_nanos, totals.available_nanos) == (spent, 100_000 - spent)
        assert totals.house_nanos == totals.held_nanos == totals.suspense_nanos == 0


async def test_reported_holds_are_shown_as_held_and_end_with_the_lease(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        report = {"node_id": books.node_id, "node_epoch": books.node_epoch}
        await books.ledger.report_holds({lease_id: 250, IDS.new(): 7}, **report)  # type: ignore[arg-type]
        assert await books.ledger.snapshot(org_id) == Balance(750, 250, 0)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 300)])
        assert await books.ledger.snapshot(org_id) == Balance(600, 100, 0)  # never more than is left in the lease
        await books.ledger.report_holds({}, **report)  # type: ignore[arg-type]
        await books.ledger.release(lease_id=lease_id, released_nanos=100, is_last=True)
        assert await books.ledger.snapshot(org_id) == Balance(700, 0, 0)


async def test_a_payment_is_credited_once(database: str) -> None:
    async with open_books(database) as books:
        org_id, other = await books.org(), await books.org()
        credit = books.ledger.topup
        outcomes = await asyncio.gather(*(credit(org_id=org_id, amount_nanos=5, reference="pay-1") for _ in range(8)))
        assert sorted(outcomes) == [False] * 7 + [True]
        for payer, amount_nanos in ((org_id, 6), (other, 5)):
            with pytest.raises(ValueError, match="another"):
                await credit(org_id=payer, amount_nanos=amount_nanos, reference="pay-1")
        with pytest.raises(ValueError, match="more than zero"):
            await credit(org_id=org_id, amount_nanos=0, reference="pay-2")
        with pytest.raises(ValueError, match="at most"):
            await credit(org_id=org_id, amount_nanos=4 * 10**18, reference="pay-3")
        with pytest.raises(LookupError):
            await credit(org_id=IDS.new(), amount_nanos=5, reference="pay-4")
        assert await books.ledger.snapshot(org_id) == Balance(5, 0, 0)
        assert (await books.totals()).credited_nanos == 5


async def test_refunds_together_never_exceed_the_charge(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        charged = attempt(org_id, await books.grant(org_id, 1_000), 100)
        await books.ledger.settle_batch([charged])

        async def give(refund_key: str, amount_nanos: int) -> bool:
            return await books.ledger.refund(
                attempt_id=charged.open.attempt_id, refund_key=refund_key, amount_nanos=amount_nanos
            )

        outcomes = await asyncio.gather(*(give(f"key {n}", 30) for n in range(8)), return_exceptions=True)
        assert sum(outcome is True for outcome in outcomes) == 3
        assert sum(isinstance(outcome, ValueError) for outcome in outcomes) == 5
        assert await give("last", 10)
        assert not await give("last", 10)
        with pytest.raises(ValueError, match="another amount"):
            await give("last", 9)
        assert await books.one("SELECT available, refunded FROM wallet, settlement") == (100, 100)
        assert (await books.totals()).charged_nanos == 0


async def test_a_database_that_is_gone_is_told_apart_without_any_text_of_its_own() -> None:
    ledger = PostgresLedger("host=/nonexistent dbname=nothing")
    with pytest.raises(LedgerUnavailable) as failure:
        await ledger.snapshot(IDS.new())
    assert str(failure.value) == ""


async def test_the_ledger_works_on_after_its_connections_were_cut(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=9)
        await asyncio.gather(*(books.ledger.snapshot(org_id) for _ in range(4)))
        async with books.owner.connection() as connection:
            await connection.execute("RESET ROLE")
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await books.ledger.snapshot(org_id) == Balance(9, 0, 0)


async def test_a_cancelled_call_leaves_a_usable_ledger(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = IDS.new()
        call = asyncio.ensure_future(books.grant(org_id, 400, lease_id=lease_id))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await books.grant(org_id, 400, lease_id=lease_id)
        assert await books.one("SELECT available FROM wallet") == (600,)
