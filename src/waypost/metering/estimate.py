"""Before a call: the most it can use and cost, and how much of an answer a balance affords."""

from __future__ import annotations

import msgspec

from waypost.kit.money import Nanos
from waypost.metering.price import UNITS_PER_PRICE, PriceRow

_BYTES_PER_TOKEN = 4  # English text under today's vocabularies; for guesses only, never for a bound


class Ceiling(msgspec.Struct, frozen=True, gc=False):
    """What a call cannot exceed."""

    input_tokens_max: int
    output_tokens_max: int  # over all choices


def ceiling(
    *,
    text_bytes: int,
    image_count: int,
    image_tokens_max: int,
    n: int,
    output_tokens_max: int,
    context_window: int,
) -> Ceiling:
    """A byte-level vocabulary never makes more tokens than bytes; images count at the model's maximum for one; nothing
    reads more than its context. `output_tokens_max` is per choice."""
    input_tokens_max = min(text_bytes + image_count * image_tokens_max, context_window)
    return Ceiling(input_tokens_max, n * output_tokens_max)


def upper_bound(c: Ceiling, prices: PriceRow) -> Nanos:
    """At least `price.amount` of every usage within the ceiling, however its input splits into classes."""
    total = _input_total(c, prices) + c.output_tokens_max * prices.output
    return -(-total // UNITS_PER_PRICE)


def affordable_output_tokens(available: Nanos, c: Ceiling, prices: PriceRow) -> int:
    """The most output, over all choices and within the ceiling, whose upper bound `available` covers; 0 when not even
    the input fits."""
    left = available * UNITS_PER_PRICE - _input_total(c, prices)
    if left < 0:
        return 0
    return c.output_tokens_max if prices.output == 0 else min(left // prices.output, c.output_tokens_max)


def likely_tokens(text_bytes: int) -> int:
    """A guess at the tokens of UTF-8 text, for usage that a provider did not report."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def _input_total(c: Ceiling, prices: PriceRow) -> int:
    dearest = max(prices.input, prices.cache_read, prices.cache_write_5m, prices.cache_write_1h)
    return c.input_tokens_max * dearest + prices.request
