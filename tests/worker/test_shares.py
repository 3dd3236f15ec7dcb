"""How places are shared: nobody has all of them, and whoever comes later finds one."""

from __future__ import annotations

import pytest

from waypost.worker.shares import AGAIN_S, AGAIN_S_MAX, APART_S, Shares


def begun(shares: Shares, org: str, model: str, asked: int, now_s: float = 0.0) -> int:
    return sum(shares.begin(org.encode(), model, now_s=now_s) is None for _ in range(asked))


def test_an_organisation_alone_has_half_and_each_further_one_half_of_the_rest() -> None:
    shares = Shares(64)
    assert [begun(shares, f"org{number}", f"model{number}", 100) for number in range(4)] == [32, 16, 8, 4]


def test_a_model_that_many_organisations_wait_for_has_three_quarters() -> None:
    shares = Shares(64)
    assert sum(begun(shares, f"org{number}", "slow", 100) for number in range(50)) == 48
    assert begun(shares, "org0", "other", 1) == 0  # it has its own share at work
    assert begun(shares, "late", "other", 100) == 8


def test_what_ends_makes_room() -> None:
    shares = Shares(4)
    assert begun(shares, "org", "model", 9) == 2
    shares.end(b"org", "model")
    assert begun(shares, "org", "model", 9) == 1
    for _ in range(2):
        shares.end(b"org", "model")
    assert begun(shares, "other", "model", 9) == 2


def test_what_waits_comes_one_after_the_other_and_each_owners_by_themselves() -> None:
    shares = Shares(2)
    assert begun(shares, "org", "model", 1) == 1
    waits = [shares.begin(b"org", "model", now_s=10.0) for _ in range(10_000)]
    assert waits[:3] == pytest.approx([AGAIN_S, AGAIN_S + APART_S, AGAIN_S + 2 * APART_S])
    assert waits == sorted(waits, key=lambda wait_s: wait_s or 0.0)
    assert waits[-1] == AGAIN_S_MAX
