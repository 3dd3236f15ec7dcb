"""What one caller may take of a process at a time."""

from __future__ import annotations

from typing import Any

import pytest

from waypost.gateway.callers import ADDRESSES_MAX, FAILED_KEYS_PER_MINUTE, FailedKeys, InFlight
from waypost.kit.errors import ErrorCode, Refusal
from waypost.tenancy.api_key import ApiKey, Scope

ORG, OTHER = b"o" * 16, b"p" * 16


def is_full(in_flight: InFlight, org_id: bytes, api_key_id: bytes, **own: Any) -> bool:
    try:
        in_flight.check(ApiKey(id=api_key_id, org_id=org_id, digest=b"", scope=Scope.FULL, **own))
    except Refusal:
        return True
    return False


def test_an_organisation_and_a_key_are_bounded_apart_and_others_do_not_feel_it() -> None:
    in_flight = InFlight(per_org=3, per_key=2)
    for api_key_id in (b"1", b"1", b"2"):
        assert not is_full(in_flight, ORG, api_key_id)
        in_flight.begin(ORG, api_key_id)
    assert is_full(in_flight, ORG, b"2"), "the organisation has its three"
    assert not is_full(in_flight, OTHER, b"3")
    in_flight.end(ORG, b"2")
    assert is_full(in_flight, ORG, b"1"), "the key has its two"
    assert not is_full(in_flight, ORG, b"2")
    in_flight.per_key = 5
    assert not is_full(in_flight, ORG, b"1"), "a changed limit is in force at once"
    for _ in range(2):
        in_flight.end(ORG, b"1")
    assert len(in_flight) == 0
    assert in_flight._of_key == {}, "nothing is kept of whom has nothing under way"


def test_a_key_and_an_organisation_may_have_bounds_of_their_own_shared_by_the_workers() -> None:
    in_flight = InFlight(per_org=100, per_key=100, workers=2)
    for _ in range(4):
        in_flight.begin(ORG, b"1")
    assert not is_full(in_flight, ORG, b"1")
    assert is_full(in_flight, ORG, b"1", in_flight_max=8)
    assert not is_full(in_flight, ORG, b"1", in_flight_max=10)
    assert is_full(in_flight, ORG, b"2", org_in_flight_max=8)
    assert not is_full(in_flight, OTHER, b"3", in_flight_max=1, org_in_flight_max=1), "one is always possible"


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
