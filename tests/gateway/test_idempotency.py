"""Idempotency keys at a database that comes and goes: no key stays with a call that never began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from waypost.gateway.idempotency import Idempotency
from waypost.kit.errors import ErrorCode, Refusal
from waypost.ledger.claim import Claim, Claimed, Earlier
from waypost.ledger.record import LedgerUnavailable

ORG = b"o" * 16


class Kept:
    """Claims in memory. `lost_replies` and `failures` of the next calls: the first take effect and tell nobody."""

    def __init__(self) -> None:
        self.execution_by_key: dict[bytes, bytes] = {}
        self.lost_replies = 0
        self.failures = 0
        self.is_stuck = False

    async def claim(self, claim: Claim, *, node_id: bytes, node_epoch: int) -> Claimed | Earlier:
        earlier = self.execution_by_key.get(claim.key_digest)
        if earlier is not None:
            return Earlier(is_same=True, execution_id=earlier, charge_nanos=None)
        self.execution_by_key[claim.key_digest] = claim.execution_id
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.lost_replies:
            self.lost_replies -= 1
            raise LedgerUnavailable
        return Claimed()

    async def forget(self, *, org_id: bytes, execution_id: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailable
        kept = self.execution_by_key.items()
        self.execution_by_key = {key: execution for key, execution in kept if execution != execution_id}

    async def forget_interrupted(self, *, node_id: bytes, node_epoch: int) -> None:
        raise NotImplementedError

    async def sweep(self) -> int:
        raise NotImplementedError


def idempotency(kept: Kept, *, waiting_max: int = 100) -> Idempotency:
    return Idempotency(kept, secret=b"s" * 32, node_id=b"n" * 16, node_epoch=1, retry_s=0.001, waiting_max=waiting_max)


def claim(calls: Idempotency, execution_id: bytes) -> Claim:
    headers = {b"idempotency-key": b"order-66"}
    made = calls.claim_of(headers, org_id=ORG, endpoint="/v1/messages", body=b"{}", execution_id=execution_id)
    assert made is not None
    return made


async def refused(calls: Idempotency, execution_id: bytes) -> ErrorCode:
    """As the pipeline does: a refused call has ended, uncharged."""
    with pytest.raises(Refusal) as caught:
        await calls.take(claim(calls, execution_id))
    calls.ended(execution_id, 0)
    return caught.value.code


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be so")


async def test_a_claim_whose_reply_was_lost_gives_its_key_back() -> None:
    kept = Kept()
    calls = idempotency(kept)
    kept.lost_replies, kept.failures = 1, 3

    assert await refused(calls, b"1") is ErrorCode.SERVICE_UNAVAILABLE
    await until(lambda: not kept.execution_by_key)

    await calls.take(claim(calls, b"2"))


async def test_a_call_that_ended_uncharged_gives_its_key_back_however_long_the_database_is_away() -> None:
    kept = Kept()
    calls = idempotency(kept)
    await calls.take(claim(calls, b"1"))
    kept.failures = 5

    calls.ended(b"1", 0)

    await until(lambda: not kept.execution_by_key)


async def test_a_claim_that_a_drain_cancels_gives_its_key_back() -> None:
    kept = Kept()
    calls = idempotency(kept)
    kept.is_stuck = True
    taking = asyncio.ensure_future(calls.take(claim(calls, b"1")))
    await until(lambda: bool(kept.execution_by_key))
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking

    calls.ended(b"1", 0)

    await until(lambda: not kept.execution_by_key)


async def test_a_key_that_is_another_calls_stays_its_own() -> None:
    kept = Kept()
    calls = idempotency(kept)
    await calls.take(claim(calls, b"1"))

    assert await refused(calls, b"2") is ErrorCode.CONFLICT

    assert list(kept.execution_by_key.values()) == [b"1"]


async def test_while_the_database_is_away_only_so_many_keys_wait_to_be_given_back() -> None:
    kept = Kept()
    calls = idempotency(kept, waiting_max=2)
    kept.lost_replies, kept.failures = 1, 5
    assert await refused(calls, b"1") is ErrorCode.SERVICE_UNAVAILABLE  # its row is there

    for execution_id in (b"2", b"3"):
        kept.execution_by_key, rows = {}, kept.execution_by_key
        kept.lost_replies = 1
        assert await refused(calls, execution_id) is ErrorCode.SERVICE_UNAVAILABLE
        kept.execution_by_key = rows
    kept.failures = 0
    await until(lambda: not calls.waiting)

    assert list(kept.execution_by_key.values()) == [b"1"], "the oldest was let go: a day frees it"
