from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.kit.money import NANOS_MAX
from waypost.metering.estimate import Ceiling, affordable_output_tokens, ceiling, likely_tokens, upper_bound
from waypost.metering.price import PriceRow, amount
from waypost.wire.canonical import Usage

PRICES_MAX = 10**12  # 1,000 USD per million
prices = st.builds(
    PriceRow,
    *[st.integers(0, PRICES_MAX) for _ in range(5)],
    request=st.integers(0, PRICES_MAX),
)
ceilings = st.builds(Ceiling, st.integers(0, 2_000_000), st.integers(0, 2_000_000))
# How much of each bound is used, and where the input splits into its four classes: five parts in a thousand, as one
# number, which is drawn much faster.
splits = st.lists(st.integers(0, 1_001**5 - 1), min_size=40, max_size=40)


def usage_within(c: Ceiling, split: int) -> Usage:
    used, *edges, answered = [split // 1_001**place % 1_001 for place in range(5)]
    input_tokens = c.input_tokens_max * used // 1_000
    first, second, third = sorted(input_tokens * edge // 1_000 for edge in edges)
    output_tokens = c.output_tokens_max * answered // 1_000
    return Usage(first, second - first, third - second, input_tokens - third, output_tokens)


@settings(database=None, deadline=None, max_examples=250)  # of forty usages each: ten thousand pairs
@given(price_row=prices, c=ceilings, many=splits)
def test_a_hold_covers_every_usage_within_its_ceiling(price_row: PriceRow, c: Ceiling, many: list[int]) -> None:
    bound = upper_bound(c, price_row)

    for split in many:
        assert amount(usage_within(c, split), price_row) <= bound


@settings(database=None, deadline=None, max_examples=100)
@given(price_row=prices, c=ceilings)
def test_a_hold_is_no_higher_than_the_dearest_usage(price_row: PriceRow, c: Ceiling) -> None:
    all_in = c.input_tokens_max
    dearest = [
        Usage(all_in, output_tokens=c.output_tokens_max),
        Usage(cache_read_tokens=all_in, output_tokens=c.output_tokens_max),
        Usage(cache_write_5m_tokens=all_in, output_tokens=c.output_tokens_max),
        Usage(cache_write_1h_tokens=all_in, output_tokens=c.output_tokens_max),
    ]

    assert upper_bound(c, price_row) == max(amount(usage, price_row) for usage in dearest)


@settings(database=None, deadline=None, max_examples=100)
@given(price_row=prices, c=ceilings, available=st.integers(0, NANOS_MAX // 10**6))
def test_what_is_affordable_fits_and_one_more_token_does_not(price_row: PriceRow, c: Ceiling, available: int) -> None:
    tokens = affordable_output_tokens(available, c, price_row)
    input_alone = Ceiling(c.input_tokens_max, 0)

    assert 0 <= tokens <= c.output_tokens_max
    if upper_bound(input_alone, price_row) > available:
        assert tokens == 0
    else:
        assert upper_bound(Ceiling(c.input_tokens_max, tokens), price_row) <= available
        if tokens < c.output_tokens_max:
            assert upper_bound(Ceiling(c.input_tokens_max, tokens + 1), price_row) > available


def test_a_ceiling_counts_bytes_images_and_choices_up_to_the_context() -> None:
    def of(text_bytes: int, n: int = 1) -> Ceiling:
        return ceiling(
            text_bytes=text_bytes, image_count=2, image_tokens_max=85, n=n, output_tokens_max=50, context_window=1_000
        )

    assert of(100) == Ceiling(270, 50)
    assert of(900, n=3) == Ceiling(1_000, 150)


@settings(database=None, deadline=None, max_examples=100)
@given(
    price_row=prices,
    usage=st.builds(Usage, *[st.integers(0, 2_000_000) for _ in range(5)]),
)
def test_an_amount_is_the_exact_sum_rounded_up_once(price_row: PriceRow, usage: Usage) -> None:
    exact = Fraction(price_row.request, 10**6)
    for units, price in (
        (usage.input_tokens, price_row.input),
        (usage.cache_read_tokens, price_row.cache_read),
        (usage.cache_write_5m_tokens, price_row.cache_write_5m),
        (usage.cache_write_1h_tokens, price_row.cache_write_1h),
        (usage.output_tokens, price_row.output),
    ):
        exact += Fraction(units * price, 10**6)

    assert amount(usage, price_row) == ceil(exact)


def test_likely_tokens_round_up() -> None:
    assert [likely_tokens(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
