"""The deadline that a caller gives."""

from __future__ import annotations

import pytest

from waypost.gateway.deadline import HEADER, ends_at_s
from waypost.kit.errors import ErrorCode, Refusal


@pytest.mark.parametrize(("given", "seconds"), [("1", 1), ("30", 30), ("2.5", 2.5), ("1.000", 1), ("600", 600)])
def test_seconds_count_from_now(given: str, seconds: float) -> None:
    assert ends_at_s({HEADER: given.encode()}, 100.0) == 100.0 + seconds


@pytest.mark.parametrize(
    "given",
    ["", "0", "0.9", "600.1", "601", "9999", "-5", "+5", "1e2", "30s", "inf", "nan", "30, 30", ".5", "5.", " 5", "5\n"],
)
def test_what_is_no_number_of_seconds_in_bounds_is_refused(given: str) -> None:
    with pytest.raises(Refusal) as refused:
        ends_at_s({HEADER: given.encode()}, 100.0)
    assert (refused.value.code, refused.value.detail) == (ErrorCode.INPUT_VALIDATION_ERROR, "OUT_OF_RANGE")
