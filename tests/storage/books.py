"""What storage tests need again and again: an organisation with money, a node, attempts, and the books' own check."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from waypost.kit.ids import Ids
from waypost.kit.values import fields_of, replace
from waypost.ledger.record import Close, ClosedAttempt, Open, Outcome
from waypost.storage.ledger import PostgresLedger
from waypost.storage.ledger_check import LedgerTotals, check_ledger
from waypost.storage.orgs import create_org
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.wire.canonical import Usage

IDS = Ids()
NOW_MS = time.time_ns() // 1_000_000


class Books:
    """An open ledger with the pools beside it, and one registered node."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.ledger = PostgresLedger(conninfo, connections_max=8)
        self.app = Pool(conninfo, Role.APP)
        self.owner = Pool(conninfo, Role.OWNER)
        self.node_id = IDS.new()
        self.node_epoch = 0

    async def org(self, credit_nanos: int = 0) -> bytes:
        org_id = IDS.new()
        await create_org(self.app, self.ledger, org_id=org_id, name="Acme")
        if credit_nanos:
            await self.ledger.topup(org_id=org_id, amount_nanos=credit_nanos, reference=f"credit {org_id.hex()}")
        return org_id

    async def grant(
        self, org_id: bytes, amount_nanos: int, *, lease_id: bytes | None = None, owners: tuple[bytes, ...] = ()
    ) -> bytes:
        lease_id = lease_id or IDS.new()
        granted = await self.ledger.grant(
            lease_id=lease_id,
            org_id=org_id,
            node_id=self.node_id,
            node_epoch=self.node_epoch,
            amount_nanos=amount_nanos,
            owners=owners,
        )
        assert granted == amount_nanos
        return lease_id

    async def totals(self) -> LedgerTotals:
        """The sums, of books without a violation."""
        checked = await check_ledger(self.app)
        assert checked.violations == ()
        return checked.totals

    async def one(self, statement: str, *parameters: object) -> tuple[object, ...]:
        async with self.app.system() as connection:
            row = await (await connection.execute(statement, parameters)).fetchone()
        assert row is not None
        return row


@asynccontextmanager
async def open_books(conninfo: str) -> AsyncIterator[Books]:
    books = Books(conninfo)
    try:
        books.node_epoch = await books.ledger.register_node(books.node_id)
        yield books
    finally:
        await books.ledger.close_connections()
        await books.app.close()
        await books.owner.close()


def attempt(org_id: bytes, lease_id: bytes, charge_nanos: int, **changes: object) -> ClosedAttempt:
    """A completed, final attempt; `changes` name fields of either record or of the usage."""
    attempt_id = IDS.new()
    opened = Open(
        attempt_id=attempt_id,
        execution_id=IDS.new(),
        lease_id=lease_id,
        org_id=org_id,
        api_key_id=IDS.new(),
        hold_nanos=charge_nanos,
        cost_bound_nanos=charge_nanos,
        price_version=1,
        attempt_number=1,
        opened_at_ms=NOW_MS,
        accepted_at_ms=NOW_MS,
        is_stream=True,
        model="swift-1",
        provider="alpha",
        deployment="alpha/alpha-large",
    )
    closed = Close(
        attempt_id=attempt_id,
        outcome=Outcome.COMPLETED,
        is_final=True,
        charge_nanos=charge_nanos,
        cogs_nanos=charge_nanos // 2,
        closed_at_ms=NOW_MS + 1234,
        first_content_ms=321,
        status=200,
        error_code="",
        usage=Usage(10, 20, 30, 40, 50, 5),
    )
    of_open = {name: value for name, value in changes.items() if name in fields_of(Open)}
    of_close = {name: value for name, value in changes.items() if name in fields_of(Close)}
    of_usage = {name: value for name, value in changes.items() if name in fields_of(Usage)}
    usage = replace(closed.usage, **of_usage)
    return ClosedAttempt(replace(opened, **of_open), replace(closed, usage=usage, **of_close))
