"""Books of before the general ledger open it with what they hold."""

from __future__ import annotations

import asyncio

import psycopg

from tests.storage.books import Books
from waypost.storage.database import migrate
from waypost.storage.ledger_check import check_ledger
from waypost.storage.migration import upgrade
from waypost.storage.roles import Role, ensure_roles

_ORG, _NODE = "'00000000-0000-7000-8000-000000000001'", "'00000000-0000-7000-8000-000000000002'"
_UNITS = "1, 0, 0, 0, 1, 0"
# Credit of 1,000 and of 50 from the house; an open lease of 400 that settled 100, a closed one of 200 that settled 30
# and gave 170 back; 20 refunded; costs of each kind.
_EARLIER = f"""
INSERT INTO org (id, name, is_unlimited) VALUES ({_ORG}, 'Acme', true);
INSERT INTO wallet (org_id, available) VALUES ({_ORG}, 1050 - 400 - 30 + 20);
INSERT INTO topup (reference, org_id, amount) VALUES ('pay', {_ORG}, 1000), ('house_00000000', {_ORG}, 50);
INSERT INTO node (id, epoch) VALUES ({_NODE}, 1);
INSERT INTO lease (id, org_id, node_id, node_epoch, granted, settled, released, is_closed)
VALUES ('00000000-0000-7000-8000-0000000000a1', {_ORG}, {_NODE}, 1, 400, 100, 0, false),
       ('00000000-0000-7000-8000-0000000000a2', {_ORG}, {_NODE}, 1, 200, 30, 170, true);
INSERT INTO settlement (attempt_id, execution_id, org_id, lease_id, charge, house, cogs, refunded, price_version,
                        input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
                        reasoning_tokens, outcome, is_estimated, model, provider, deployment)
SELECT ('00000000-0000-7000-8000-0000000000b' || n)::uuid, ('00000000-0000-7000-8000-0000000000c' || n)::uuid, {_ORG},
       ('00000000-0000-7000-8000-0000000000a' || lease)::uuid, charge, house, cogs, refunded, 1, {_UNITS}, outcome,
       false, 'm', 'p', 'd'
  FROM (VALUES (1, 1, 100, 0, 80, 20, 1), (2, 2, 30, 0, 25, 0, 1), (3, 2, 0, 0, 7, 0, 2), (4, 1, 0, 0, 9, 0, 6),
               (5, 2, 0, 40, 33, 0, 1)) AS row (n, lease, charge, house, cogs, refunded, outcome);
INSERT INTO refund (attempt_id, refund_key, org_id, amount)
VALUES ('00000000-0000-7000-8000-0000000000b1', 'one', {_ORG}, 20);
"""


def test_every_rule_holds_for_books_of_an_earlier_version(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        ensure_roles(connection)
        connection.execute(f"SET ROLE {Role.OWNER.value}")
        upgrade(connection, "0002")
        connection.execute("SET waypost.scope = 'system'")
        connection.execute(_EARLIER)

    migrate(empty_database)

    asyncio.run(_check(empty_database))


async def _check(conninfo: str) -> None:
    books = Books(conninfo)
    assert await books.ledger.seal() > 0
    checked = await check_ledger(books.app)
    assert checked.violations == ()
    assert (checked.totals.credited_nanos, checked.totals.charged_nanos, checked.totals.cogs_nanos) == (1_050, 110, 154)
    for part in (books.ledger.close_connections, books.app.close, books.owner.close):
        await part()
