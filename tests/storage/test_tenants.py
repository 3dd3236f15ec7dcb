"""Whose rows a connection sees and what it may do: the database itself refuses the rest."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo as conninfos

from tests.storage.books import IDS, attempt, open_books
from waypost.ledger.record import Balance
from waypost.privacy.data_map import drift
from waypost.storage.database import live_columns, migrate
from waypost.storage.orgs import HOUSE_CREDIT_NANOS, create_org, find_org, list_orgs
from waypost.storage.roles import Role, RolesMissing
from waypost.storage.tables import data_map
from waypost.storage.usage import UsageRow, total_of, usage_of

TENANT_TABLES = (
    *("org", "api_key", "api_key_digest", "wallet", "lease", "topup", "refund", "settlement", "execution"),
    *("account", "transfer", "project", "budget", "budget_window", "budget_draw", "long_hold", "chargeback"),
    *("idempotency_key", "asynchronous_execution", "webhook_endpoint", "webhook_secret", "webhook_delivery"),
    *("file", "file_storage", "file_audit", "usage_day", "settled_sum"),
)


async def test_an_organisation_sees_its_own_rows_only_and_nobody_sees_any_without_saying_who(database: str) -> None:
    async with open_books(database) as books:
        for _ in range(2):
            org_id = await books.org(credit_nanos=1_000)
            await books.ledger.settle_batch([attempt(org_id, await books.grant(org_id, 500), 100)])

        for table in ("org", "wallet", "lease", "topup", "settlement", "execution"):
            count = f"SELECT count(*) FROM {table}"
            async with books.app.tenant(org_id) as connection:
                assert await (await connection.execute(count)).fetchone() == (1,), table
            async with books.app.tenant(IDS.new()) as connection:
                assert await (await connection.execute(count)).fetchone() == (0,), table
            for pool in (books.app, books.owner):
                async with pool.connection() as connection:
                    assert await (await connection.execute(count)).fetchone() == (0,), table
            assert await books.one(count) == (2,), table


async def test_every_table_with_an_organisation_is_under_forced_row_level_security(database: str) -> None:
    async with open_books(database) as books:
        rows = await books.one(
            "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class"
            " WHERE relrowsecurity AND relforcerowsecurity AND NOT relispartition"
        )
        assert rows == (sorted(TENANT_TABLES),)


async def test_an_organisation_cannot_write_into_another(database: str) -> None:
    async with open_books(database) as books:
        other = await books.org()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with books.app.tenant(IDS.new()) as connection:
                await connection.execute(
                    "INSERT INTO org (id, name, is_unlimited) VALUES (%s, 'x', false)", (IDS.new().hex(),)
                )
        async with books.app.tenant(IDS.new()) as connection:
            renamed = await connection.execute("UPDATE org SET name = 'x' WHERE id = %s", (other.hex(),))
            assert renamed.rowcount == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE wallet SET available = 5",
        "INSERT INTO wallet (org_id, available) VALUES (gen_random_uuid(), 5)",
        "INSERT INTO topup (reference, org_id, amount) VALUES ('x', gen_random_uuid(), 5)",
        "UPDATE settlement SET charge = 0",
        "DELETE FROM execution",
        "DROP TABLE wallet",
    ],
)
async def test_the_app_role_moves_no_money_and_removes_nothing(database: str, statement: str) -> None:
    async with open_books(database) as books:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with books.app.system() as connection:
                await connection.execute(statement)


async def test_no_partition_can_be_read_past_its_table(database: str) -> None:
    async with open_books(database) as books:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with books.app.system() as connection:
                await connection.execute("SELECT FROM settlement_default")


async def test_an_unlimited_organisation_holds_against_a_credit_of_the_house(database: str) -> None:
    async with open_books(database) as books:
        org_id = IDS.new()
        await create_org(books.app, books.ledger, org_id=org_id, name="Ourselves", is_unlimited=True)
        assert await books.ledger.snapshot(org_id) == Balance(HOUSE_CREDIT_NANOS, 0, 0)
        await books.totals()


async def test_organisations_are_found_and_listed(database: str) -> None:
    async with open_books(database) as books:
        org_id, second = await books.org(), await books.org()
        found = await find_org(books.app, org_id)
        assert found is not None
        assert (found.id, found.name, found.is_unlimited) == (org_id, "Acme", False)
        assert await find_org(books.app, IDS.new()) is None
        assert [org.id for org in await list_orgs(books.app)] == [org_id, second]


async def test_usage_is_summed_by_day_and_model(database: str) -> None:
    async with open_books(database) as books:
        org_id, other = await books.org(credit_nanos=10**6), await books.org(credit_nanos=10**6)
        lease_id = await books.grant(org_id, 10**6)
        second = attempt(org_id, lease_id, 7, model="grand-1", accepted_at_ms=86_400_000 * 20_000)
        await books.ledger.settle_batch(
            [attempt(org_id, lease_id, 100), attempt(org_id, lease_id, 30, is_estimated=True), second]
        )
        await books.ledger.settle_batch([attempt(other, await books.grant(other, 500), 1)])

        rows = await usage_of(books.app, org_id)
        assert [(row.model, row.requests, row.input_tokens, row.output_tokens, row.charge_nanos) for row in rows] == [
            ("grand-1", 1, 100, 50, 7),
            ("swift-1", 2, 200, 100, 130),
        ]
        assert str(rows[0].day) == "2024-10-04"
        assert total_of(rows) == UsageRow(None, "", 3, 300, 150, 0, 0, 0, 1, 137, 0)
        assert await usage_of(books.app, org_id, since_ms=1 << 47) == []


@pytest.fixture
def plain_user(postgres: str) -> Iterator[str]:
    """A log-in with no rights at all."""
    user = f"plain_{IDS.new().hex()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN")
        yield user
        connection.execute(f"DROP ROLE {user}")


def test_a_log_in_that_may_not_take_the_roles_is_told_what_an_administrator_runs(
    empty_database: str, plain_user: str
) -> None:
    names = ", ".join(role.value for role in Role)
    with pytest.raises(RolesMissing, match=f"GRANT {names} TO {plain_user};"):
        migrate(conninfos.make_conninfo(empty_database, user=plain_user))


def test_an_ordinary_owner_who_was_given_the_roles_can_migrate(empty_database: str, plain_user: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"GRANT {', '.join(role.value for role in Role)} TO {plain_user}")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} OWNER TO {plain_user}")
        try:
            migrate(conninfos.make_conninfo(empty_database, user=plain_user))
            assert drift(data_map(), live_columns(empty_database)) == []
        finally:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} OWNER TO CURRENT_USER")
            connection.execute(f"DROP OWNED BY {plain_user}")
