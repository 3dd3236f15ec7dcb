"""A lagging standby is promoted: no money leaves a wallet until nodes have told what it lost, and then all is exact."""

from __future__ import annotations

import pytest

from tests.storage.books import IDS, Books, attempt, open_books
from tests.storage.lagging import copied, pass_time, promote
from waypost.kit.money import NANOS_MAX
from waypost.ledger.record import Balance, LedgerPromoted, NodeSuperseded, ServerTerm
from waypost.storage.budgets import set_budget
from waypost.storage.orphans import ORPHANED_AFTER_S
from waypost.storage.promotion import GRACE_S, ledger_state
from waypost.tenancy.budget import Budget, Period


async def begin(books: Books) -> ServerTerm:
    return await books.ledger.begin_presenting(node_id=books.node_id, node_epoch=books.node_epoch)


async def finish(books: Books, term: ServerTerm) -> None:
    await books.ledger.finish_presenting(node_id=books.node_id, node_epoch=books.node_epoch, term=term)


async def present(books: Books, org_id: bytes, lease_id: bytes, granted: int, released: int = 0, *owners: bytes) -> int:
    return await books.ledger.present(
        lease_id=lease_id,
        org_id=org_id,
        node_id=books.node_id,
        node_epoch=books.node_epoch,
        granted_nanos=granted,
        released_nanos=released,
        owners=owners,
    )


async def is_promoted(books: Books) -> bool:
    beat = await books.ledger.report_holds({}, node_id=books.node_id, node_epoch=books.node_epoch)
    return beat.is_promoted


async def test_no_money_leaves_a_wallet_until_every_node_that_lived_has_presented_itself(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        lease_id = await books.grant(org_id, 100)
        other = IDS.new()
        other_epoch = await books.ledger.register_node(other)
        assert not await is_promoted(books)

        promote(database, silent_s=10 * ORPHANED_AFTER_S)
        for _ in range(2):
            with pytest.raises(LedgerPromoted):
                await books.grant(org_id, 1)
            with pytest.raises(LedgerPromoted):
                await books.ledger.extend(lease_id=lease_id, from_nanos=100, to_nanos=101)
            with pytest.raises(LedgerPromoted):
                await books.ledger.extend(lease_id=IDS.new(), from_nanos=100, to_nanos=101)
            with pytest.raises(LedgerPromoted):
                await books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=1)
            assert await books.ledger.sweep() == 0  # nor is anybody's silence held against him
        assert await is_promoted(books)

        await finish(books, await begin(books))
        assert not await is_promoted(books)
        pass_time(database, GRACE_S + 1)
        assert not await books.ledger.resume_granting()
        term = await books.ledger.begin_presenting(node_id=other, node_epoch=other_epoch)
        assert not await books.ledger.resume_granting()
        await books.ledger.finish_presenting(node_id=other, node_epoch=other_epoch, term=term)
        assert await books.ledger.resume_granting()

        await books.ledger.extend(lease_id=lease_id, from_nanos=100, to_nanos=101)
        await books.ledger.create_hold(hold_id=IDS.new(), org_id=org_id, amount_nanos=9)
        assert await books.ledger.snapshot(org_id) == Balance(991, 9, 0)
        await books.totals()


async def test_a_node_that_the_server_does_not_know_has_a_moment_and_one_that_does_not_come_a_minute(
    database: str,
) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        promote(database)
        assert not await books.ledger.resume_granting()
        pass_time(database, ORPHANED_AFTER_S - 1)
        assert not await books.ledger.resume_granting()  # this node lived
        state = await ledger_state(books.app)
        assert (state.is_unpresented, state.timeline) == (True, 0)

        pass_time(database, 2)
        await books.ledger.sweep()
        assert not (await ledger_state(books.app)).is_unpresented
        await books.grant(org_id, 100)

        promote(database)
        await finish(books, await begin(books))
        assert not await books.ledger.resume_granting()  # all that are known, but somebody may be new
        pass_time(database, GRACE_S + 1)
        assert await books.ledger.resume_granting()


async def test_what_is_charged_to_a_lost_lease_waits_until_the_lease_is_presented(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await set_budget(books.app, Budget(500, Period.DAY), owner_id=org_id, owner_kind="organisation")
        await books.ledger.stand_for(node_id=books.node_id, node_epoch=books.node_epoch)
    with copied(database) as standby:
        async with open_books(database) as other:  # a standby as well, promoted first, and lost then
            promote(database)
            other.node_id, other.node_epoch = books.node_id, books.node_epoch
            before = await begin(other)
        promote(standby)
        async with open_books(standby) as new:
            new.node_id, new.node_epoch = books.node_id, books.node_epoch
            new.ledger.may_book_late(node_id=books.node_id, node_epoch=1, term=before)  # said to another
            lease_id = IDS.new()
            rows = [attempt(org_id, lease_id, 30), attempt(org_id, lease_id, 20)]
            with pytest.raises(LedgerPromoted):
                await new.ledger.settle_batch(rows)
            assert (await new.totals()).house_nanos == 0

            term = await begin(new)
            assert term.timeline == before.timeline  # the number is the same
            for _ in range(2):
                assert await present(new, org_id, lease_id, 400, 100, org_id) == 100
            assert await new.ledger.snapshot(org_id) == Balance(1_000, 0, 0)
            assert await new.one("SELECT taken FROM budget_window") == (300,)
            new.ledger.may_book_late(node_id=books.node_id, node_epoch=1, term=term)
            for _ in range(2):
                await new.ledger.settle_batch(rows)
            await new.ledger.release(lease_id=lease_id, released_nanos=NANOS_MAX, is_last=True)

            assert await new.ledger.snapshot(org_id) == Balance(950, 0, 0)
            totals = await new.totals()
            assert (totals.charged_nanos, totals.house_nanos) == (50, 0)


async def test_a_lease_that_nobody_presents_any_more_is_paid_from_the_wallet_for_a_day(database: str) -> None:
    async with open_books(database) as books:
        org_id, stranger = await books.org(credit_nanos=1_000), await books.org(credit_nanos=1_000)
        kept = await books.grant(org_id, 10)
        promote(database)
        term = await begin(books)
        books.ledger.may_book_late(node_id=books.node_id, node_epoch=books.node_epoch, term=term)
        lost = IDS.new()
        rows = [attempt(org_id, lost, 30), attempt(org_id, kept, 25), attempt(org_id, lost, 20)]

        for batch in (rows, rows, rows[1:]):
            await books.ledger.settle_batch(batch)
        foreign = attempt(stranger, kept, 7)  # of another's lease nothing is made
        await books.ledger.settle_batch([foreign])

        assert await books.ledger.snapshot(org_id) == Balance(925, 0, 0)
        assert await books.ledger.snapshot(stranger) == Balance(1_000, 0, 0)
        totals = await books.totals()
        assert (totals.charged_nanos, totals.house_nanos) == (75, 7)

        await finish(books, term)
        pass_time(database, 24 * 3600 + 1)
        await books.ledger.settle_batch([attempt(org_id, IDS.new(), 11)])
        assert (await books.totals()).house_nanos == 18


async def test_what_a_wallet_does_not_hold_counts_as_given_back_until_it_does(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100)
        lease_id = await books.grant(org_id, 60)
        promote(database)
        await begin(books)

        assert await present(books, org_id, lease_id, 300, 20) == 200  # of 280 that it should have there are 100
        await books.totals()
        await books.ledger.topup(org_id=org_id, amount_nanos=500, reference="sent again")
        assert await present(books, org_id, lease_id, 300, 20) == 20
        await books.ledger.settle_batch([attempt(org_id, lease_id, 280)])

        assert await books.ledger.snapshot(org_id) == Balance(320, 0, 0)
        assert (await books.totals()).house_nanos == 0


async def test_a_lease_that_is_closed_there_takes_nothing_a_second_time(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=1_000)
        await set_budget(books.app, Budget(500, Period.DAY), owner_id=org_id, owner_kind="organisation")
        lease_id = await books.grant(org_id, 100, owners=(org_id,))
        await books.ledger.settle_batch([attempt(org_id, lease_id, 30)])
        await books.ledger.release(lease_id=lease_id, released_nanos=NANOS_MAX, is_last=True)  # and nobody hears of it
        promote(database)
        term = await begin(books)

        for _ in range(2):
            assert await present(books, org_id, lease_id, 100, 0, org_id) == 70  # so nothing of it is free
        assert await present(books, org_id, lease_id, 150, 0, org_id) == 120
        await books.ledger.release(lease_id=lease_id, released_nanos=NANOS_MAX, is_last=True)

        assert await books.ledger.snapshot(org_id) == Balance(970, 0, 0)
        assert await books.one("SELECT taken FROM budget_window") == (30,)
        assert (await books.totals()).house_nanos == 0
        books.ledger.may_book_late(node_id=books.node_id, node_epoch=books.node_epoch, term=term)
        await books.ledger.settle_batch([attempt(org_id, lease_id, 20)])  # what ran on it all the same
        assert await books.ledger.snapshot(org_id) == Balance(950, 0, 0)
        assert (await books.totals()).house_nanos == 0


async def test_a_node_that_registered_in_what_is_lost_goes_on_and_an_older_one_does_not(database: str) -> None:
    async with open_books(database) as books:
        org_id = await books.org(credit_nanos=100)
        promote(database)
        books.node_epoch = 2
        assert await is_promoted(books)
        term = await begin(books)
        await finish(books, term)
        pass_time(database, GRACE_S + 1)
        assert await books.ledger.resume_granting()
        await books.grant(org_id, 10)

        books.node_epoch = 1
        with pytest.raises(NodeSuperseded):
            await begin(books)
        books.node_id, books.node_epoch = IDS.new(), 4
        assert await is_promoted(books)
        with pytest.raises(LedgerPromoted):
            await books.grant(org_id, 10)
        await finish(books, await begin(books))
        await books.grant(org_id, 10)
        with pytest.raises(LedgerPromoted):
            await finish(books, ServerTerm(0, None))  # the server has moved on meanwhile


async def test_a_restart_after_a_promotion_says_that_its_whole_journal_counts(database: str) -> None:
    async with open_books(database) as books:
        await books.org()
        assert not await books.ledger.stand_for(node_id=books.node_id, node_epoch=1)
        promote(database)
        await books.ledger.register_node(books.node_id)
        assert await books.ledger.stand_for(node_id=books.node_id, node_epoch=2)
        assert await books.ledger.has_to_present(books.node_id)
        newcomer = IDS.new()
        await books.ledger.register_node(newcomer)
        assert await books.ledger.has_to_present(newcomer)  # it may be one that is forgotten
