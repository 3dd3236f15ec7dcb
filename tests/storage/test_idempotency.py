"""A key is one call's: from before its effect, for a day, and free again when that call was not charged."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

from tests.storage.books import IDS, Books, attempt, open_books
from waypost.kit.values import replace
from waypost.ledger.claim import Claim, Claimed, Earlier
from waypost.storage.idempotency import PostgresClaims


def a_claim(org_id: bytes, *, key: bytes = b"k" * 32, body: bytes = b"b" * 32, endpoint: str = "/v1/x") -> Claim:
    return Claim(org_id, endpoint, key, body, IDS.new())


async def book(books: Books, claim: Claim, charge_nanos: int) -> None:
    lease_id = await books.grant(claim.org_id, 1_000)
    one = attempt(claim.org_id, lease_id, charge_nanos, execution_id=claim.execution_id)
    await books.ledger.settle_batch([one])


async def test_a_second_call_is_told_of_the_first_by_what_became_of_it(database: str) -> None:
    async with open_books(database) as books:
        claims = PostgresClaims(database)
        org_id, other = await books.org(10_000), await books.org(10_000)
        first = a_claim(org_id)

        async def take(claim: Claim) -> Claimed | Earlier:
            return await claims.claim(claim, node_id=books.node_id, node_epoch=books.node_epoch)

        assert await take(first) == Claimed()
        assert await take(a_claim(org_id)) == Earlier(is_same=True, execution_id=first.execution_id, charge_nanos=None)
        mismatch = await take(a_claim(org_id, body=b"c" * 32))
        assert isinstance(mismatch, Earlier)
        assert not mismatch.is_same
        # Of another organisation or endpoint it is another key.
        assert await take(a_claim(other)) == Claimed()
        assert await take(a_claim(org_id, endpoint="/v1/y")) == Claimed()
        await book(books, first, 70)
        assert await take(a_claim(org_id)) == Earlier(
            is_same=True, execution_id=first.execution_id, charge_nanos=70, input_tokens=100, output_tokens=50
        )
        await claims.close_connections()


async def test_a_call_that_was_not_charged_gives_its_key_back(database: str) -> None:
    async with open_books(database) as books:
        claims = PostgresClaims(database)
        org_id = await books.org(10_000)

        async def take(claim: Claim) -> Claimed | Earlier:
            return await claims.claim(claim, node_id=books.node_id, node_epoch=books.node_epoch)

        free, refused = a_claim(org_id), a_claim(org_id, key=b"r" * 32)
        assert await take(free) == Claimed()
        await book(books, free, 0)
        assert await take(a_claim(org_id)) == Claimed()
        assert await take(refused) == Claimed()
        await claims.forget(org_id=org_id, execution_id=refused.execution_id)
        assert await take(a_claim(org_id, key=b"r" * 32)) == Claimed()
        await claims.close_connections()


async def test_of_many_at_once_one_has_the_key(database: str) -> None:
    async with open_books(database) as books:
        claims = PostgresClaims(database)
        org_id = await books.org()
        many = [claims.claim(a_claim(org_id), node_id=books.node_id, node_epoch=books.node_epoch) for _ in range(20)]
        outcomes = Counter(type(outcome) for outcome in await asyncio.gather(*many))
        assert outcomes == {Claimed: 1, Earlier: 19}
        await claims.close_connections()


async def test_a_dead_run_leaves_free_what_it_never_began_and_a_day_frees_the_rest(database: str) -> None:
    async with open_books(database) as books:
        claims = PostgresClaims(database)
        org_id = await books.org(10_000)
        begun, lost, old = (a_claim(org_id, key=bytes([n]) * 32) for n in range(3))
        for claim in (begun, lost, old):
            assert await claims.claim(claim, node_id=books.node_id, node_epoch=books.node_epoch) == Claimed()
        await book(books, begun, 9)
        await claims.forget_interrupted(node_id=books.node_id, node_epoch=books.node_epoch)
        async with books.app.system() as connection:
            rows = await (
                await connection.execute(
                    "SELECT count(*) FROM idempotency_key WHERE org_id = %s", (UUID(bytes=org_id),)
                )
            ).fetchone()
        assert rows == (3,)
        await claims.forget_interrupted(node_id=books.node_id, node_epoch=books.node_epoch + 1)
        for key, expected in ((0, Earlier), (1, Claimed), (2, Claimed)):
            again = replace(a_claim(org_id), key_digest=bytes([key]) * 32)
            outcome = await claims.claim(again, node_id=books.node_id, node_epoch=books.node_epoch + 1)
            assert type(outcome) is expected
        async with books.app.system() as connection:
            await connection.execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
        again = a_claim(org_id, key=bytes([0]) * 32)
        assert await claims.claim(again, node_id=books.node_id, node_epoch=books.node_epoch) == Claimed()
        assert await claims.sweep() >= 2
        await claims.close_connections()
