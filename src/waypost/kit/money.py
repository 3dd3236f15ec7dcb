"""Money is a whole number of nano-dollars (1e-9 USD); text is decimal; a float never touches it."""

from __future__ import annotations

import re

Nanos = int
"""Nano-USD, 0 … 4e18 in storage (`bigint` with a CHECK)."""

NANOS_PER_USD = 1_000_000_000
NANOS_MAX = 4_000_000_000_000_000_000
_USD = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")


def parse_usd(value: str) -> Nanos:
    """`"2.50"` → 2_500_000_000. Raises ValueError for signs, exponents, more than nine decimals, or over 4e9 USD."""
    found = _USD.fullmatch(value)
    if found is None:
        raise ValueError("an amount in USD is digits with at most nine decimals, such as 10 or 0.25")
    nanos = int(found[1]) * NANOS_PER_USD + int((found[2] or "").ljust(9, "0"))
    if nanos > NANOS_MAX:
        raise ValueError("the largest amount is 4000000000 USD")
    return nanos


def format_usd(nanos: Nanos) -> str:
    """Exact, without trailing zeros, at least two decimals: 12_000 → `0.000012`, 2_500_000_000 → `2.50`."""
    if nanos < 0:
        return "-" + format_usd(-nanos)
    digits = f"{nanos % NANOS_PER_USD:09d}".rstrip("0")
    return f"{nanos // NANOS_PER_USD}.{digits if len(digits) > 1 else digits.ljust(2, '0')}"


def format_usd_floor(nanos: Nanos) -> str:
    """Six decimals, rounded down: how a balance is shown, so that nobody sees money that is not there."""
    whole, part = divmod(nanos, NANOS_PER_USD)
    return f"{whole}.{part // 1000:06d}"
