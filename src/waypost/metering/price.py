"""Prices, and the one division that turns units into money.

A price is whole nano-USD per million units, so any price in USD per million with up to nine decimals is exact.
The products are summed first and divided once, rounded up.
"""

from __future__ import annotations

import msgspec

from waypost.kit.money import Nanos
from waypost.wire.canonical import Usage

UNITS_PER_PRICE = 1_000_000


class PriceRow(msgspec.Struct, frozen=True, gc=False):
    """Nano-USD per million units. A class that a price list leaves out costs what its parent class costs
    (cache classes: `input`); that default is filled in when the catalogue is read, so every number here counts."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    image: int = 0  # per million images
    request: int = 0  # per million requests


def amount(usage: Usage, prices: PriceRow) -> Nanos:
    """What one attempt with this usage costs under these prices."""
    total = (
        usage.input_tokens * prices.input
        + usage.cache_read_tokens * prices.cache_read
        + usage.cache_write_5m_tokens * prices.cache_write_5m
        + usage.cache_write_1h_tokens * prices.cache_write_1h
        + usage.output_tokens * prices.output
        + prices.request
    )
    return -(-total // UNITS_PER_PRICE)
