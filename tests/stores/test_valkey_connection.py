"""Answers of a Valkey server, however they are cut, and a connection on which many are asked at a time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stores.vaults import valkey
from waypost.stores.valkey_connection import AnswerReader, ValkeyError, ValkeyGone, connect_pipelined

STREAM = b"+OK\r\n:-7\r\n$5\r\na\r\nbc\r\n$-1\r\n*3\r\n:1\r\n*1\r\n$0\r\n\r\n*-1\r\n-ERR no\r\n*0\r\n"
ANSWERS = [b"OK", -7, b"a\r\nbc", None, [1, [b""], None], "refused", []]


def shown(answers: list[object]) -> list[object]:
    return ["refused" if isinstance(each, ValkeyError) else each for each in answers]


@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_chunking_yields_the_same_answers(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader, found = AnswerReader(), list[object]()
    for begin, end in pairwise(edges):
        found += reader.feed(STREAM[begin:end])
    assert shown(found) == ANSWERS


@given(noise=st.binary(max_size=60))
def test_noise_is_answers_or_a_value_error(noise: bytes) -> None:
    reader = AnswerReader()
    try:
        reader.feed(noise)
    except ValueError:
        return


async def test_many_are_asked_at_a_time_and_each_gets_its_own() -> None:
    async with valkey() as url:
        connection = await connect_pipelined(url)
        answers = await asyncio.gather(*(connection.call(b"ECHO", b"%d" % n) for n in range(500)))
        assert answers == [b"%d" % n for n in range(500)]
        with pytest.raises(ValkeyError):
            await connection.call(b"NONSENSE")
        given_up = connection.call(b"ECHO", b"nobody waits")
        given_up.cancel()
        assert await connection.call(b"ECHO", b"still in step") == b"still in step"
        last = connection.call(b"SHUTDOWN", b"NOSAVE")
        with pytest.raises(ValkeyGone):
            await last
        with pytest.raises(ValkeyGone):
            connection.call(b"PING")


async def test_a_password_and_a_database_are_told_and_a_wrong_one_is_refused() -> None:
    async with valkey({"save": "", "appendonly": "no", "requirepass": "hidden"}) as url:
        path = url.removeprefix("unix://")
        connection = await connect_pipelined(f"unix://:hidden@{path}?db=3")
        assert b" db=3 " in await connection.call(b"CLIENT", b"LIST")
        connection.close()
        with pytest.raises(ValkeyError):
            await connect_pipelined(f"unix://:wrong@{path}")
