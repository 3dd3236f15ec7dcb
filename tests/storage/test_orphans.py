"""Leases of lost nodes: frozen while rows of theirs may come, back when none can, and never spent twice."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.books import IDS, Books, attempt, open_books
from waypost.ledger.record import Balance, NodeSuperseded
from waypost.storage.nodes import list_nodes
from waypost.storage.orphans import ORPHANED_AFTER_S, SUSPENSE_S, NodeAlive


async def silence(books: Books, seconds: float) -> None:
    """Let the nodes have been silent, and the orphans orphaned, for so much longer."""
    async with books.owner.system() as connection:
        for column, table in (("heartbeat_at", "node"), ("registered_at", "node"), ("orphaned_at", "lease")):
            await connection.execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)",
                (seconds,),
            )


async def test_a_silent_nodes_rest_waits_in_suspense_pays_what_comes_late_and_then_comes_back(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 50)])
        assert await books.ledger.sweep() == 0

        await silence(books, ORPHANED_AFTER_S + 1)
        assert await books.ledger.snapshot(org_id) == Balance(600, 0, 350)
        for _ in range(2):
            await books.ledger.sweep()
            assert await books.ledger.snapshot(org_id) == Balance(600, 0, 350)
        assert await books.one("SELECT state, suspended, suspense FROM lease, wallet") == ("ORPHANED", 350, 350)
        late = attempt(org_id, lease_id, 100)
        for _ in range(2):
            await books.ledger.settle_batch([late])
        assert await books.ledger.snapshot(org_id) == Balance(600, 0, 250)

        await silence(books, SUSPENSE_S + 1)
        await asyncio.gather(*(books.ledger.sweep() for _ in range(4)))
        assert await books.ledger.snapshot(org_id) == Balance(850, 0, 0)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 30)])  # after the day: from what is available
        assert await books.ledger.snapshot(org_id) == Balance(820, 0, 0)
        totals = await books.totals()
        assert (totals.charged_nanos, totals.house_nanos) == (180, 0)


async def test_a_restarted_nodes_rest_comes_back_when_its_journal_is_booked(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        books.node_epoch = await books.ledger.register_node(books.node_id)
        new_lease = await books.grant(org_id, 100)
        await books.ledger.sweep()  # others do not touch it while the journal is being read
        await books.ledger.settle_batch([attempt(org_id, lease_id, 70)])
        assert await books.ledger.snapshot(org_id) == Balance(600, 0, 330)

        for _ in range(2):
            await books.ledger.finish_recovery(node_id=books.node_id, node_epoch=2)

        assert await books.ledger.snapshot(org_id) == Balance(930, 0, 0)
        assert await books.one("SELECT state FROM lease WHERE granted = 100") == ("ACTIVE",)
        await books.ledger.extend(lease_id=new_lease, from_nanos=100, to_nanos=101)
        await books.totals()


async def test_a_grant_of_an_older_epoch_that_arrives_last_comes_back_too(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await books.grant(org_id, 400)
        epoch = await books.ledger.register_node(books.node_id)
        await books.ledger.finish_recovery(node_id=books.node_id, node_epoch=epoch)
        async with books.owner.system() as connection:  # as if its statement had seen the node before it was renewed
            await connection.execute("UPDATE lease SET state = 'ACTIVE', released = 0")
            await connection.execute("UPDATE wallet SET available = 600")
            await connection.execute("ALTER TABLE transfer DISABLE TRIGGER transfer_immutable")
            await connection.execute("DELETE FROM transfer WHERE code = 5")
            await connection.execute("ALTER TABLE transfer ENABLE TRIGGER transfer_immutable")
        await books.ledger.sweep()
        assert await books.ledger.snapshot(org_id) == Balance(1_000, 0, 0)
        await books.totals()


async def test_a_node_that_comes_back_to_life_learns_what_it_lost_and_loses_no_row(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        await silence(books, ORPHANED_AFTER_S + 1)
        await books.ledger.sweep()

        beat = await books.ledger.report_holds({lease_id: 300}, node_id=books.node_id, node_epoch=1)
        assert beat.lost == {lease_id}
        with pytest.raises(LookupError):
            await books.ledger.extend(lease_id=lease_id, from_nanos=400, to_nanos=500)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 250)])
        await books.ledger.release(lease_id=lease_id, released_nanos=150, is_last=True)

        assert await books.ledger.snapshot(org_id) == Balance(750, 0, 0)
        assert await books.one("SELECT state, settled, released, suspended FROM lease") == ("CLOSED", 250, 150, 0)
        await books.totals()


async def test_a_retired_node_gives_everything_back_and_is_granted_nothing_more(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 400)
        with pytest.raises(NodeAlive):
            await books.ledger.retire_node(books.node_id)
        with pytest.raises(LookupError):
            await books.ledger.retire_node(IDS.new())
        await silence(books, ORPHANED_AFTER_S + 1)
        await books.ledger.sweep()

        await books.ledger.retire_node(books.node_id)

        assert await books.ledger.snapshot(org_id) == Balance(1_000, 0, 0)
        (node,) = await list_nodes(books.app)
        assert not node.is_alive
        assert node.retired_at is not None
        with pytest.raises(NodeSuperseded):
            await books.grant(org_id, 1)
        with pytest.raises(NodeSuperseded):
            await books.ledger.report_holds({}, node_id=books.node_id, node_epoch=1)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 100)])  # it lived after all
        assert await books.ledger.snapshot(org_id) == Balance(900, 0, 0)
        await books.totals()


async def test_a_failed_grant_recalls_what_others_have_and_counts_those_who_share(database: str) -> None:
    async with open_books(database) as books:
        org_id, neighbour = await books.org(credit_nanos=1_000), IDS.new()
        epoch = await books.ledger.register_node(neighbour)
        lease_id = await books.grant(org_id, 700)
        await books.ledger.wait_for_recall(0.05)  # it listens from then on
        waiting = asyncio.ensure_future(books.ledger.wait_for_recall(30))

        with pytest.raises(Exception, match="insufficient") as refusal:
            await books.ledger.grant(
                lease_id=IDS.new(), org_id=org_id, node_id=neighbour, node_epoch=epoch, amount_nanos=500
            )
        assert (refusal.value.available_nanos, refusal.value.recallable_nanos) == (300, 700)  # type: ignore[attr-defined]
        await asyncio.wait_for(waiting, 20)
        beat = await books.ledger.report_holds({lease_id: 100}, node_id=books.node_id, node_epoch=1)
        assert (beat.nodes, beat.recalled, beat.lost) == (2, frozenset({lease_id}), frozenset())

        for _ in range(2):
            await books.ledger.release(lease_id=lease_id, released_nanos=600, is_last=False)
        assert await books.one("SELECT available, state FROM wallet, lease") == (900, "ACTIVE")
        beat = await books.ledger.report_holds({lease_id: 100}, node_id=books.node_id, node_epoch=1)
        assert beat.recalled == frozenset()
        await books.ledger.extend(lease_id=lease_id, from_nanos=700, to_nanos=710)
        assert await books.ledger.snapshot(org_id) == Balance(900, 100, 0)
        await books.totals()
