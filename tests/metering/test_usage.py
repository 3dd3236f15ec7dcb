from __future__ import annotations

import pytest

from waypost.metering.usage import meter
from waypost.wire.canonical import Usage

ESTIMATE = Usage(input_tokens=11, output_tokens=7)


def metered(reported: Usage | None) -> tuple[Usage, bool, bool]:
    result = meter(reported, input_estimate=11, output_estimate=7, context_window=1_000, max_output=100, n=2)
    return result.usage, result.is_estimated, result.is_alarming


def test_missing_usage_is_estimated_without_an_alarm() -> None:
    assert metered(None) == (ESTIMATE, True, False)


def test_explicit_zeros_are_zero() -> None:
    assert metered(Usage()) == (Usage(), False, False)


@pytest.mark.parametrize(
    "reported",
    [
        Usage(5, 4, 3, 2, 10, 9),
        Usage(input_tokens=1_100, output_tokens=2_200),  # just over what fits is an overrun, not a misreport
        Usage(output_tokens=5, reasoning_tokens=5),
    ],
)
def test_plausible_usage_counts_as_reported(reported: Usage) -> None:
    assert metered(reported) == (reported, False, False)


@pytest.mark.parametrize("field", Usage.__struct_fields__)
def test_a_negative_count_is_estimated_with_an_alarm(field: str) -> None:
    assert metered(Usage(**({"input_tokens": 5, "output_tokens": 5} | {field: -1}))) == (ESTIMATE, True, True)


@pytest.mark.parametrize(
    "reported",
    [
        Usage(input_tokens=1_101),
        Usage(input_tokens=600, cache_read_tokens=501),
        Usage(output_tokens=2_201),
        Usage(input_tokens=10**30),
        Usage(output_tokens=5, reasoning_tokens=6),
    ],
)
def test_an_absurd_count_is_estimated_with_an_alarm(reported: Usage) -> None:
    assert metered(reported) == (ESTIMATE, True, True)
