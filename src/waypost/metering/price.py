"""Prices, and the one division that turns units into money.

A price is whole nano-USD per million units, so any price in USD per million with up to nine decimals is exact.
The products are summed first and divided once, rounded up.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import force_setattr

from waypost.kit.money import Nanos
from waypost.wire.canonical import Usage

UNITS_PER_PRICE = 1_000_000
_MS_PER_S = 1_000  # durations are counted in milliseconds and priced by the second
DIVISOR = UNITS_PER_PRICE * _MS_PER_S


class PriceRow(msgspec.Struct, frozen=True, gc=False):
    """Nano-USD per million units. What a price list leaves out costs what its parent class costs (`PARENTS`); that
    default is filled in when the catalogue is read, so every number here counts.

    `tiers` are the rows of long contexts, ascending: the last whose `above` the request's input exceeds prices all of
    its units. `changes` are the lists that replace this one, ascending in time. The last two follow from the others;
    every bound of a call asks for them."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    audio_input: int
    audio_output: int
    image_input: int
    image: int = 0  # per million generated images
    request: int = 0  # per million requests
    second: int = 0  # per million seconds
    character: int = 0  # per million characters
    tiers: tuple[Tier, ...] = ()
    changes: tuple[PriceChange, ...] = ()
    dearest_text_input: int = 0  # whichever class of input tokens it is counted in
    is_dearer_by_kind: bool = False  # whether what is no short text of words may cost more: sound, or a long context

    def __post_init__(self) -> None:
        dearest = max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)
        is_sound_dear = self.audio_input > self.input or self.audio_output > self.output
        force_setattr(self, "dearest_text_input", dearest)
        force_setattr(self, "is_dearer_by_kind", is_sound_dear or bool(self.tiers))

    def in_force(self, now_ms: int) -> PriceRow:
        """The list that counts at this moment."""
        row = self
        for change in self.changes:
            if change.effective_from_ms > now_ms:
                break
            row = change.prices
        return row

    def at(self, all_input_tokens: int) -> PriceRow:
        """The row that prices a request with so much input."""
        row = self
        for tier in self.tiers:
            if all_input_tokens > tier.above:
                row = tier.prices
        return row


class Tier(msgspec.Struct, frozen=True, gc=False):
    above: int  # input tokens of all classes together
    prices: PriceRow  # itself without tiers and changes


class PriceChange(msgspec.Struct, frozen=True, gc=False):
    """A price list that counts from a moment (Unix milliseconds) on."""

    effective_from_ms: int
    prices: PriceRow  # itself without changes


# What a price list leaves out costs what its parent costs; a class whose parent is "" then costs nothing.
PARENTS = {
    "input": "",
    "output": "",
    "cache_read": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "cache_write_5m",
    "audio_input": "input",
    "audio_output": "output",
    "image_input": "input",
    "image": "",
    "request": "",
    "second": "",
    "character": "",
}


def price_row(prices: dict[str, int], tiers: tuple[Tier, ...] = (), changes: tuple[PriceChange, ...] = ()) -> PriceRow:
    """A row from the classes that a price list names, the others by `PARENTS`."""
    filled: dict[str, int] = {}
    for name, parent in PARENTS.items():
        filled[name] = prices[name] if name in prices else filled.get(parent, 0)
    return PriceRow(**filled, tiers=tiers, changes=changes)  # type: ignore[arg-type]  # PARENTS are numbers


def amount(usage: Usage, prices: PriceRow) -> Nanos:
    """What one attempt with this usage costs under these prices."""
    if prices.tiers:
        prices = prices.at(usage.all_input_tokens)
    by_unit = (
        usage.input_tokens * prices.input
        + usage.cache_read_tokens * prices.cache_read
        + usage.cache_write_5m_tokens * prices.cache_write_5m
        + usage.cache_write_1h_tokens * prices.cache_write_1h
        + usage.output_tokens * prices.output
        + usage.audio_input_tokens * prices.audio_input
        + usage.image_input_tokens * prices.image_input
        + usage.audio_output_tokens * prices.audio_output
        + usage.images * prices.image
        + usage.characters * prices.character
        + prices.request
    )
    return -(-(by_unit * _MS_PER_S + usage.duration_ms * prices.second) // DIVISOR)
