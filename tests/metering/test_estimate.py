"""A hold covers whatever a call can come to.

Small in the suite; a million pairs of (prices, usage) by  WAYPOST_MONEY_CASES=1000000 ./run test tests/metering
"""

from __future__ import annotations

import os
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metering.samples import ceilings, price_rows, splits, usage_within
from waypost.kit.money import NANOS_MAX
from waypost.kit.values import fields_of, replace
from waypost.metering.ceiling import Ceiling
from waypost.metering.charge import bill_delivered
from waypost.metering.estimate import affordable_output_tokens, ceiling, likely_tokens, upper_bound
from waypost.metering.price import PARENTS, PriceChange, PriceRow, Tier, amount, price_row
from waypost.wire.canonical import Usage

CASES = int(os.environ.get("WAYPOST_MONEY_CASES", "10000"))  # pairs of (prices, usage), of forty usages each
# A million take some minutes; the suite's own limit is for what runs on every change.
IN_TIME = pytest.mark.timeout(max(120, CASES // 300))
REST = settings(database=None, deadline=None, max_examples=100)


@IN_TIME
@settings(database=None, deadline=None, max_examples=max(1, CASES // 40))
@given(price_row=price_rows, c=ceilings, many=splits)
def test_a_hold_covers_every_usage_within_its_ceiling(price_row: PriceRow, c: Ceiling, many: list[int]) -> None:
    bound = upper_bound(c, price_row)

    for split in many:
        assert amount(usage_within(c, split), price_row) <= bound


@IN_TIME
@settings(database=None, deadline=None, max_examples=max(1, CASES // 40))
@given(prices=price_rows, costs=price_rows, c=ceilings, many=splits)
def test_a_charge_stays_within_its_hold_and_a_cost_within_its_bound(
    prices: PriceRow, costs: PriceRow, c: Ceiling, many: list[int]
) -> None:
    hold, cost_bound = upper_bound(c, prices), upper_bound(c, costs)

    for split in many:
        bill = bill_delivered(
            usage_within(c, split), prices=prices, costs=costs, hold_nanos=hold, has_output=bool(split % 2)
        )
        assert 0 <= bill.charge_nanos <= hold
        assert 0 <= bill.cogs_nanos <= cost_bound
        assert bill.overrun_nanos == 0


@REST
@given(price_row=price_rows, c=ceilings)
def test_a_hold_is_no_higher_than_the_dearest_usage(price_row: PriceRow, c: Ceiling) -> None:
    inputs = ["input", "cache_read", "cache_write_5m", "cache_write_1h"]
    inputs += ["audio_input"] * c.has_audio + ["image_input"] * c.has_images
    outputs = ["output"] + ["audio_output"] * c.has_audio
    reached = [c.input_tokens_max, *(tier.above for tier in price_row.tiers if tier.above < c.input_tokens_max)]
    dearest = [
        replace(
            Usage(images=c.images_max, duration_ms=c.duration_ms_max, characters=c.characters_max),
            **{f"{one}_tokens": tokens, f"{other}_tokens": c.output_tokens_max},
        )
        for one in inputs
        for other in outputs
        for tokens in reached
    ]

    # In a tier that is cheaper than the one above it, the hold is that of a whole context at the dearer price.
    assert upper_bound(c, price_row) >= max(amount(usage, price_row) for usage in dearest)
    if not price_row.tiers:
        assert upper_bound(c, price_row) == max(amount(usage, price_row) for usage in dearest)


@REST
@given(price_row=price_rows, c=ceilings, available=st.integers(0, NANOS_MAX // 10**6))
def test_what_is_affordable_fits_and_one_more_token_does_not(price_row: PriceRow, c: Ceiling, available: int) -> None:
    def with_output(tokens: int) -> Ceiling:
        return Ceiling(c.input_tokens_max, tokens, *[getattr(c, name) for name in fields_of(Ceiling)[2:]])

    tokens = affordable_output_tokens(available, c, price_row)

    assert 0 <= tokens <= c.output_tokens_max
    if upper_bound(with_output(0), price_row) > available:
        assert tokens == 0
    else:
        assert upper_bound(with_output(tokens), price_row) <= available
        if tokens < c.output_tokens_max:
            assert upper_bound(with_output(tokens + 1), price_row) > available


def test_a_ceiling_counts_bytes_images_and_choices_up_to_the_context() -> None:
    def of(text_bytes: int, n: int = 1) -> Ceiling:
        return ceiling(
            text_bytes=text_bytes, image_count=2, image_tokens_max=85, n=n, output_tokens_max=50, context_window=1_000
        )

    assert of(100) == Ceiling(270, 50, has_images=True)
    assert of(900, n=3) == Ceiling(1_000, 150, has_images=True)


def test_the_hold_of_a_long_context_is_that_of_its_tier() -> None:
    long = Tier(200_000, price_row({"input": 5_000_000_000, "output": 20_000_000_000}))
    prices = price_row({"input": 2_500_000_000, "output": 10_000_000_000}, (long,))

    assert upper_bound(Ceiling(200_000, 1_000), prices) == 200_000 * 2_500 + 1_000 * 10_000
    assert upper_bound(Ceiling(200_001, 1_000), prices) == 200_001 * 5_000 + 1_000 * 20_000
    # Just below the step the request is billed by the lower list, though its hold was by the higher one.
    assert amount(Usage(200_000, output_tokens=10), prices) == 200_000 * 2_500 + 10 * 10_000
    assert amount(Usage(1, cache_read_tokens=200_000, output_tokens=10), prices) == 200_001 * 5_000 + 10 * 20_000


@REST
@given(price_row=price_rows, usage=st.builds(Usage, *[st.integers(0, 2_000_000) for _ in range(12)]))
def test_an_amount_is_the_exact_sum_rounded_up_once(price_row: PriceRow, usage: Usage) -> None:
    row = price_row
    for tier in price_row.tiers:
        if usage.all_input_tokens > tier.above:
            row = tier.prices
    units = {
        "request": Fraction(1),
        "image": Fraction(usage.images),
        "second": Fraction(usage.duration_ms, 1000),
        "character": Fraction(usage.characters),
    }
    exact = sum(
        (units.get(name) or Fraction(getattr(usage, f"{name}_tokens", 0))) * getattr(row, name) for name in PARENTS
    )

    assert amount(usage, price_row) == ceil(Fraction(exact) / 10**6)


def test_likely_tokens_round_up() -> None:
    assert [likely_tokens(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_prices_change_at_their_moment() -> None:
    later = PriceChange(2_000, price_row({"input": 5, "output": 5}))
    last = PriceChange(3_000, price_row({"input": 9, "output": 9}))
    prices = price_row({"input": 1, "output": 1}, changes=(later, last))

    assert [prices.in_force(at).input for at in (0, 1_999, 2_000, 2_999, 3_000, 10**13)] == [1, 1, 5, 5, 9, 9]
