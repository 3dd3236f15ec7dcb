from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.kit.money import NANOS_MAX, format_usd, format_usd_floor, parse_usd


@settings(database=None, deadline=None, max_examples=100)
@given(nanos=st.integers(0, NANOS_MAX))
def test_what_is_written_reads_back_exactly(nanos: int) -> None:
    assert parse_usd(format_usd(nanos)) == nanos


@pytest.mark.parametrize(
    ("text", "nanos"), [("10", 10**10), ("2.50", 2_500_000_000), ("0.000000001", 1), ("4000000000", NANOS_MAX)]
)
def test_decimal_text_is_read(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.", ".5", "0.0000000001", "4000000000.000000001", "1,0", " 1", "1\n", "٣", "NaN"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_usd(text)


def test_amounts_are_written_with_two_decimals_at_least() -> None:
    assert [format_usd(n) for n in (0, 1, 12_000, 10**9, -(10**9) // 2)] == [
        *("0.00", "0.000000001", "0.000012", "1.00", "-0.50")
    ]


def test_a_balance_is_never_shown_higher_than_it_is() -> None:
    assert format_usd_floor(9_998_712_999) == "9.998712"
