"""Windows of UTC: where they end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from waypost.tenancy.budget import Chain, Period, chain_ends_at, ends_at


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("period", "now", "end"),
    [
        (Period.DAY, "2026-11-26T13:00:00", "2026-11-27"),
        (Period.DAY, "2026-11-26T00:00:00", "2026-11-27"),
        (Period.DAY, "2028-02-28T23:59:59.999", "2028-02-29"),
        (Period.WEEK, "2026-11-26T13:00:00", "2026-11-30"),  # a Thursday; weeks begin on Monday
        (Period.WEEK, "2026-11-30T00:00:00", "2026-12-07"),
        (Period.MONTH, "2026-12-31T23:00:00", "2027-01-01"),
        (Period.MONTH, "2027-01-31T00:00:00", "2027-02-01"),
    ],
)
def test_a_window_ends_at_midnight_utc(period: Period, now: str, end: str) -> None:
    assert ends_at(period, ms(now)) == ms(end)


def test_a_lifetime_never_ends_and_a_chain_with_its_first_window() -> None:
    now = ms("2026-11-29T13:00:00")
    assert ends_at(Period.LIFETIME, now) is None
    assert chain_ends_at(Chain(b"", (), (Period.LIFETIME,)), now) is None
    assert chain_ends_at(Chain(b"", (), (Period.MONTH, Period.WEEK, Period.LIFETIME)), now) == ms("2026-11-30")
