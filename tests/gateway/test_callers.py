"""What one caller may take of a process at a time."""

from __future__ import annotations

from typing import Any

import pytest

from waypost.gateway import allowance as gateway_allowance
from waypost.gateway.allowance import Allowance, Allowances
from waypost.gateway.callers import ADDRESSES_MAX, FAILED_KEYS_PER_MINUTE, FailedKeys
from waypost.gateway.limits import LimitExceeded
from waypost.kit.errors import ErrorCode, Refusal
from waypost.tenancy.api_key import ApiKey, Scope

ORG, OTHER = b"o" * 16, b"p" * 16


def allowance(allowances: Allowances, org_id: bytes, key_id: bytes, **own: Any) -> Allowance:
    return allowances.of(ApiKey(id=key_id, org_id=org_id, digest=b"", scope=Scope.FULL, **own), 0.0)


def is_full(allowances: Allowances, org_id: bytes, key_id: bytes, **own: Any) -> bool:
    try:
        allowance(allowances, org_id, key_id, **own).check_place()
    except Refusal:
        return True
    return False


def test_an_organisation_and_a_key_are_bounded_apart_and_others_do_not_feel_it() -> None:
    allowances = Allowances(per_organisation=3, per_key=2)
    for key_id in (b"1", b"1", b"2"):
        allowance(allowances, ORG, key_id).begin(0, now_s=0.0, now_unix_s=0.0)
    assert is_full(allowances, ORG, b"2"), "the organisation has its three"
    assert not is_full(allowances, OTHER, b"3")
    allowance(allowances, ORG, b"2").leave_place()
    assert is_full(allowances, ORG, b"1"), "the key has its two"
    assert not is_full(allowances, ORG, b"2")
    kept = allowance(allowances, ORG, b"1")
    allowances.bound(per_key=5)
    kept.check_place()  # a changed limit is in force at once
    for _ in range(2):
        kept.leave_place()
    assert allowances.under_way == 0


def test_a_key_and_an_organisation_may_have_bounds_of_their_own_shared_by_the_workers() -> None:
    allowances = Allowances(per_organisation=100, per_key=100, workers=2)
    for _ in range(4):
        allowance(allowances, ORG, b"1").begin(0, now_s=0.0, now_unix_s=0.0)
    assert not is_full(allowances, ORG, b"1")
    assert is_full(allowances, ORG, b"1", in_flight_max=8)
    assert not is_full(allowances, ORG, b"1", in_flight_max=10)
    assert is_full(allowances, ORG, b"2", org_in_flight_max=8)
    assert not is_full(allowances, OTHER, b"3", in_flight_max=1, org_in_flight_max=1), "one is always possible"


def test_what_a_key_has_counted_is_kept_while_it_counts_and_quiet_keys_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_allowance, "_KEPT", 8)
    allowances = Allowances()
    limit = {"tokens_per_minute": 10}
    running = allowance(allowances, ORG, b"running")
    running.begin(0, now_s=0.0, now_unix_s=0.0)
    allowance(allowances, ORG, b"counting", **limit).take(now_s=0.0, now_unix_s=0.0, tokens=10)
    for number in range(100):
        allowance(allowances, OTHER, b"%d" % number)
    assert len(allowances) <= 20
    assert allowance(allowances, ORG, b"running").under_way == 1
    with pytest.raises(LimitExceeded):
        allowance(allowances, ORG, b"counting", **limit).take(now_s=59.0, now_unix_s=0.0, tokens=1)


def test_guesses_are_slowed_down_by_address() -> None:
    failed = FailedKeys()
    for _ in range(FAILED_KEYS_PER_MINUTE):
        failed.count("203.0.113.9", 10.0)
    with pytest.raises(Refusal) as caught:
        failed.count("203.0.113.9", 20.0)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert caught.value.retry_after_s is not None
    assert 40 <= caught.value.retry_after_s <= 66
    failed.count("203.0.113.10", 20.0)
    failed.count("203.0.113.9", 20.0 + caught.value.retry_after_s)


def test_only_so_many_addresses_are_remembered_and_the_busy_ones_stay() -> None:
    failed = FailedKeys()
    for _ in range(FAILED_KEYS_PER_MINUTE):
        failed.count("2001:db8::1", 1.0)
    for at in range(ADDRESSES_MAX + 10):
        failed.count(f"10.{at >> 16}.{(at >> 8) & 255}.{at & 255}", 1.0)
        if at % 1000 == 0:
            with pytest.raises(Refusal):
                failed.count("2001:db8::2", 1.0)  # the same network
    assert len(failed) == ADDRESSES_MAX
