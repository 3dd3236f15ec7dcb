"""Before a call: the most it can use and cost, and how much of an answer a balance affords."""

from __future__ import annotations

from waypost.kit.money import Nanos
from waypost.metering.ceiling import Ceiling
from waypost.metering.price import DIVISOR, PriceRow

_BYTES_PER_TOKEN = 4  # English text under today's vocabularies; for guesses only, never for a bound
_MS_PER_S = 1_000


def ceiling(
    *,
    text_bytes: int,
    image_count: int,
    image_tokens_max: int,
    n: int,
    output_tokens_max: int,
    context_window: int,
    has_audio: bool = False,
) -> Ceiling:
    """A byte-level vocabulary never makes more tokens than bytes; images count at the model's maximum for one; nothing
    reads more than its context. `output_tokens_max` is per choice."""
    input_tokens_max = min(text_bytes + image_count * image_tokens_max, context_window)
    return Ceiling(input_tokens_max, n * output_tokens_max, has_audio, image_count > 0)


def upper_bound(c: Ceiling, prices: PriceRow) -> Nanos:
    """At least `price.amount` of every usage within the ceiling, however its input splits into classes and whichever
    price tier it reaches."""
    if not (prices.tiers or c.has_audio or c.has_images or c.images_max or c.duration_ms_max or c.characters_max):
        # Words alone, as most are: the general way takes three times as long.
        by_unit = c.input_tokens_max * prices.dearest_text_input + c.output_tokens_max * prices.output + prices.request
        return -(-by_unit * _MS_PER_S // DIVISOR)
    return -(-max(_fixed(c, row) + c.output_tokens_max * _output(c, row) for row in _reachable(c, prices)) // DIVISOR)


def affordable_output_tokens(available: Nanos, c: Ceiling, prices: PriceRow) -> int:
    """The most output, over all choices and within the ceiling, whose upper bound `available` covers; 0 when not even
    the input fits."""
    return min(_affordable(available, c, row) for row in _reachable(c, prices))


def likely_tokens(text_bytes: int) -> int:
    """A guess at the tokens of UTF-8 text, for usage that a provider did not report."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def _affordable(available: Nanos, c: Ceiling, row: PriceRow) -> int:
    left, price = available * DIVISOR - _fixed(c, row), _output(c, row)
    if left < 0:
        return 0
    return c.output_tokens_max if price == 0 else min(left // price, c.output_tokens_max)


def _reachable(c: Ceiling, prices: PriceRow) -> tuple[PriceRow, ...]:
    """A request may stay below every tier that its ceiling reaches, and a lower one may be the dearer."""
    if not prices.tiers:
        return (prices,)
    return (prices, *(tier.prices for tier in prices.tiers if c.input_tokens_max > tier.above))


def _fixed(c: Ceiling, row: PriceRow) -> int:
    """Everything but the output, in nano-USD times DIVISOR."""
    dearest = row.dearest_text_input
    if c.has_audio:
        dearest = max(dearest, row.audio_input)
    if c.has_images:
        dearest = max(dearest, row.image_input)
    total = c.input_tokens_max * dearest + row.request
    if c.images_max or c.characters_max:
        total += c.images_max * row.image + c.characters_max * row.character
    return total * _MS_PER_S + c.duration_ms_max * row.second


def _output(c: Ceiling, row: PriceRow) -> int:
    dearest = max(row.output, row.audio_output) if c.has_audio else row.output
    return dearest * _MS_PER_S
