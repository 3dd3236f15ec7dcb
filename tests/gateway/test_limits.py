"""Limits of keys when several processes share them."""

from __future__ import annotations

import pytest

from waypost.gateway.limits import KeyLimits, LimitExceeded
from waypost.tenancy.api_key import ApiKey, Scope


@pytest.mark.parametrize(
    ("limit", "processes", "allowed"),
    [
        (10, 1, 10),
        (10, 4, 8),
        (4, 4, 4),
        (1, 4, 4),  # a key that may call may call at every worker: the one case of more than the limit
    ],
)
def test_processes_together_allow_the_limit_at_most_or_one_request_each(
    limit: int, processes: int, allowed: int
) -> None:
    api_key = ApiKey(id=b"k" * 16, org_id=b"o" * 16, digest=b"", scope=Scope.FULL, requests_per_minute=limit)

    assert sum(_allowed(KeyLimits(processes), api_key) for _ in range(processes)) == allowed


def _allowed(limits: KeyLimits, api_key: ApiKey) -> int:
    for count in range(100):
        try:
            limits.take(api_key, now_s=0.0, now_unix_s=0.0, tokens=0)
        except LimitExceeded:
            return count
    raise AssertionError("there is no limit")
