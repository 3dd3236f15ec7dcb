"""Budgets hold together or not at all, and what comes back goes where it came from."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.books import IDS, Books, attempt, open_books
from waypost.ledger.record import InsufficientFunds
from waypost.storage.api_keys import Limits, Secret, api_keys_since, create_api_key
from waypost.storage.budgets import list_budgets, set_budget
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.projects import create_project
from waypost.tenancy.api_key import ApiKey, Scope
from waypost.tenancy.budget import Budget, Period

TAKEN = """
SELECT array_agg(taken ORDER BY owner_kind DESC, period) FROM budget_window JOIN budget USING (owner_id, period)
"""


async def project(books: Books, org_id: bytes, budget: Budget | None) -> bytes:
    project_id = IDS.new()
    await create_project(books.app, project_id=project_id, org_id=org_id, name="search", budget=budget)
    return project_id


async def key(books: Books, org_id: bytes, project_id: bytes | None, budget: Budget | None) -> ApiKey:
    """As a gateway sees it."""
    key_id = IDS.new()
    await create_api_key(
        books.app,
        api_key_id=key_id,
        org_id=org_id,
        secret=Secret(key_id * 2, "sk_", "cafe"),
        name="key",
        scope=Scope.FULL,
        limits=Limits(),
        project_id=project_id,
        budget=budget,
    )
    found, _ = await api_keys_since(books.app, 0)
    return next(one for one in found if one.id == key_id)


async def grant(books: Books, api_key: ApiKey, amount_nanos: int) -> bytes:
    lease_id = IDS.new()
    await books.ledger.grant(
        lease_id=lease_id,
        org_id=api_key.org_id,
        node_id=books.node_id,
        node_epoch=books.node_epoch,
        amount_nanos=amount_nanos,
        owners=() if api_key.chain is None else api_key.chain.owners,
    )
    return lease_id


async def test_keys_share_the_lease_of_the_innermost_budget_that_they_have(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        budgeted = await project(books, org_id, Budget(500, Period.MONTH))
        plain = await project(books, org_id, None)
        own = await key(books, org_id, budgeted, Budget(100, Period.DAY))
        of_project = await key(books, org_id, budgeted, None)
        free = await key(books, org_id, plain, None)

        assert own.chain is not None
        assert own.chain.owners == (own.id, budgeted)
        assert set(own.chain.periods) == {Period.DAY, Period.MONTH}
        assert of_project.chain is not None
        assert of_project.chain.owners == (budgeted,)
        assert free.chain is None
        with pytest.raises(LookupError):
            await key(books, await books.org(), budgeted, None)


async def test_a_grant_takes_from_every_window_of_the_chain_or_from_none(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10_000)
        project_id = await project(books, org_id, Budget(500, Period.MONTH))
        first = await key(books, org_id, project_id, Budget(300, Period.DAY))
        second = await key(books, org_id, project_id, None)

        lease_id = await grant(books, first, 250)
        assert await books.one(TAKEN) == ([250, 250],)
        with pytest.raises(InsufficientFunds) as refusal:
            await grant(books, first, 51)
        budget = refusal.value.budget
        assert budget is not None
        assert (budget.owner_kind, budget.period, refusal.value.available_nanos) == ("key", "day", 50)
        assert budget.renews_at_ms is not None
        with pytest.raises(InsufficientFunds) as refusal:
            await grant(books, second, 251)
        assert refusal.value.budget is not None
        assert refusal.value.budget.owner_kind == "project"
        with pytest.raises(InsufficientFunds):
            await books.ledger.extend(lease_id=lease_id, from_nanos=250, to_nanos=301)
        assert await books.one(TAKEN) == ([250, 250],)
        assert await books.one("SELECT available FROM wallet") == (9_750,)

        await books.ledger.extend(lease_id=lease_id, from_nanos=250, to_nanos=300)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 80)])
        await books.ledger.release(lease_id=lease_id, released_nanos=220, is_last=True)
        assert await books.one(TAKEN) == ([80, 80],)
        await books.totals()


async def test_a_wallet_that_is_empty_is_told_apart_from_a_budget(database: str) -> None:
    async with open_books(database) as books:
        api_key = await key(books, await books.org(credit_nanos=100), None, Budget(1_000, Period.LIFETIME))
        with pytest.raises(InsufficientFunds) as refusal:
            await grant(books, api_key, 101)
        assert refusal.value.budget is None
        assert refusal.value.available_nanos == 100


async def test_of_grants_extensions_and_holds_at_once_as_many_succeed_as_the_tightest_budget_has(
    database: str,
) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100_000)
        project_id = await project(books, org_id, Budget(1_000, Period.WEEK))
        keys = [await key(books, org_id, project_id, Budget(400, Period.LIFETIME)) for _ in range(4)]
        owners = [one.chain.owners for one in keys if one.chain is not None]
        grants = [grant(books, one, 90) for one in keys for _ in range(5)]
        holds = [
            books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=90, owners=chain)
            for chain in owners
        ]
        outcomes = await asyncio.gather(*grants, *holds, return_exceptions=True)
        assert sum(isinstance(outcome, InsufficientFunds) for outcome in outcomes) == 24 - 11
        assert await books.one("SELECT taken FROM budget_window WHERE period = 'week'") == (990,)
        of_keys = "SELECT max(taken) <= 400, sum(taken)::bigint FROM budget_window WHERE period <> 'week'"
        assert await books.one(of_keys) == (True, 990)
        await books.totals()


async def test_the_next_window_is_another_one_and_what_was_cut_for_the_last_goes_back_there(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10_000)
        api_key = await key(books, org_id, None, Budget(100, Period.DAY))
        yesterday = await grant(books, api_key, 100)
        async with books.owner.system() as connection:
            constraint = "budget_draw_owner_id_period_starts_at_fkey"
            await connection.execute(f"ALTER TABLE budget_draw DROP CONSTRAINT {constraint}")
            for table in ("budget_draw", "budget_window"):
                await connection.execute(f"UPDATE {table} SET starts_at = starts_at - interval '1 day'")

        with pytest.raises(LookupError):  # its window has ended
            await books.ledger.extend(lease_id=yesterday, from_nanos=100, to_nanos=101)
        await grant(books, api_key, 100)
        await books.ledger.settle_batch([attempt(org_id, yesterday, 30)])
        await books.ledger.release(lease_id=yesterday, released_nanos=70, is_last=True)

        windows = "SELECT array_agg(taken ORDER BY starts_at) FROM budget_window"
        assert await books.one(windows) == ([30, 100],)
        await books.totals()


async def test_what_a_lost_node_had_counts_until_it_is_back(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=10_000)
        api_key = await key(books, org_id, None, Budget(100, Period.LIFETIME))
        lease_id = await grant(books, api_key, 100)
        async with books.owner.system() as connection:
            silent = "UPDATE node SET heartbeat_at = heartbeat_at - make_interval(secs => %s)"
            await connection.execute(silent, (ORPHANED_AFTER_S + 1,))
        await books.ledger.sweep()
        assert await books.one(TAKEN) == ([100],)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 30)])
        await books.ledger.retire_node(books.node_id)
        assert await books.one(TAKEN) == ([30],)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 20)])  # it lived after all
        assert await books.one(TAKEN) == ([50],)
        await books.totals()


async def test_a_changed_budget_counts_what_was_taken_before(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        api_key = await key(books, org_id, None, Budget(100, Period.MONTH))
        await grant(books, api_key, 100)
        with pytest.raises(InsufficientFunds):
            await grant(books, api_key, 1)

        await set_budget(books.app, Budget(140, Period.MONTH), owner_id=api_key.id, owner_kind="key")
        await grant(books, api_key, 40)
        await set_budget(books.app, Budget(50, Period.MONTH), owner_id=api_key.id, owner_kind="key")
        with pytest.raises(InsufficientFunds) as refused:
            await grant(books, api_key, 1)

        assert refused.value.available_nanos == 0
        (listed,) = await list_budgets(books.app, org_id)
        assert (listed.amount_nanos, listed.taken_nanos) == (50, 140)
        await books.totals()
