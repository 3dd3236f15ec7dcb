"""Which usage can be. What a missing one and one that cannot be come to: see `e2e.test_money`."""

from __future__ import annotations

import pytest

from waypost.kit.values import fields_of, replace
from waypost.metering.usage import CHARACTERS_MAX, DURATION_MS_MAX, IMAGES_MAX, is_plausible
from waypost.wire.canonical import Usage

COUNTS = [name for name in fields_of(Usage) if name != "is_estimated"]


def can_be(reported: Usage) -> bool:
    return is_plausible(reported, context_window=1_000, max_output=100, n=2)


@pytest.mark.parametrize(
    "reported",
    [
        Usage(),  # explicit zeros are zero
        Usage(5, 4, 3, 2, 10, 9),
        Usage(input_tokens=1_100, output_tokens=2_200),  # just over what fits is an overrun, not a misreport
        Usage(output_tokens=5, reasoning_tokens=5),
        Usage(audio_input_tokens=600, image_input_tokens=500, audio_output_tokens=2_200),
        Usage(images=IMAGES_MAX, duration_ms=DURATION_MS_MAX, characters=CHARACTERS_MAX),
    ],
)
def test_what_fits_or_nearly_fits_can_be(reported: Usage) -> None:
    assert can_be(reported)


@pytest.mark.parametrize("field", COUNTS)
def test_a_negative_count_cannot_be(field: str) -> None:
    assert not can_be(replace(Usage(input_tokens=5, output_tokens=5), **{field: -1}))


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
def test_an_absurd_count_cannot_be(reported: Usage) -> None:
    assert not can_be(reported)
