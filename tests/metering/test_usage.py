"""The five cases of usage: missing, zero, plausible, negative, absurd. Null is missing: see the provider's tests."""

from __future__ import annotations

import msgspec
import pytest

from waypost.metering.usage import CHARACTERS_MAX, DURATION_MS_MAX, IMAGES_MAX, meter
from waypost.wire.canonical import Usage

ESTIMATE = Usage(input_tokens=11, output_tokens=7, is_estimated=True)
COUNTS = [name for name in Usage.__struct_fields__ if name != "is_estimated"]


def metered(reported: Usage | None) -> tuple[Usage, bool]:
    estimate = msgspec.structs.replace(ESTIMATE, is_estimated=False)
    result = meter(reported, estimate, context_window=1_000, max_output=100, n=2)
    return result.usage, result.is_alarming


def test_missing_usage_is_estimated_without_an_alarm() -> None:
    assert metered(None) == (ESTIMATE, False)


def test_explicit_zeros_are_zero() -> None:
    assert metered(Usage()) == (Usage(), False)


@pytest.mark.parametrize(
    "reported",
    [
        Usage(5, 4, 3, 2, 10, 9),
        Usage(input_tokens=1_100, output_tokens=2_200),  # just over what fits is an overrun, not a misreport
        Usage(output_tokens=5, reasoning_tokens=5),
        Usage(audio_input_tokens=600, image_input_tokens=500, audio_output_tokens=2_200),
        Usage(images=IMAGES_MAX, duration_ms=DURATION_MS_MAX, characters=CHARACTERS_MAX),
    ],
)
def test_plausible_usage_counts_as_reported(reported: Usage) -> None:
    assert metered(reported) == (reported, False)


@pytest.mark.parametrize("field", COUNTS)
def test_a_negative_count_is_estimated_with_an_alarm(field: str) -> None:
    assert metered(msgspec.structs.replace(Usage(input_tokens=5, output_tokens=5), **{field: -1})) == (ESTIMATE, True)


@pytest.mark.parametrize(
    "reported",
    [
        Usage(input_tokens=1_101),
        Usage(input_tokens=600, cache_read_tokens=501),
        Usage(audio_input_tokens=600, image_input_tokens=501),
        Usage(output_tokens=2_201),
        Usage(audio_output_tokens=2_201),
        Usage(input_tokens=10**30),
        Usage(output_tokens=5, reasoning_tokens=6),
        Usage(images=IMAGES_MAX + 1),
        Usage(duration_ms=DURATION_MS_MAX + 1),
        Usage(characters=CHARACTERS_MAX + 1),
    ],
)
def test_an_absurd_count_is_estimated_with_an_alarm(reported: Usage) -> None:
    assert metered(reported) == (ESTIMATE, True)
