"""What the ends of an attempt come to, as the table at the head of `metering.charge` has it."""

from __future__ import annotations

from waypost.metering.charge import bill_delivered, bill_lost
from waypost.metering.price import price_row
from waypost.wire.canonical import Usage

PRICES = price_row({"input": 2_000_000_000, "output": 8_000_000_000})
COSTS = price_row({"input": 1_000_000_000, "output": 4_000_000_000})
USAGE = Usage(input_tokens=100, output_tokens=10)


def test_an_attempt_that_was_lost_costs_its_input_and_the_customer_nothing() -> None:
    bill = bill_lost(input_estimate=100, costs=COSTS)

    assert (bill.charge_nanos, bill.cogs_nanos, bill.usage.is_estimated) == (0, 100_000, True)


def test_an_answer_is_charged_by_price_and_booked_by_cost() -> None:
    bill = bill_delivered(USAGE, prices=PRICES, costs=COSTS, hold_nanos=1_000_000, has_output=True)

    assert (bill.charge_nanos, bill.cogs_nanos, bill.overrun_nanos) == (280_000, 140_000, 0)


def test_what_is_above_the_hold_is_the_houses() -> None:
    bill = bill_delivered(USAGE, prices=PRICES, costs=COSTS, hold_nanos=200_000, has_output=True)

    assert (bill.charge_nanos, bill.cogs_nanos, bill.overrun_nanos) == (200_000, 140_000, 80_000)


def test_an_answer_without_any_output_is_charged_nothing() -> None:
    bill = bill_delivered(Usage(input_tokens=100), prices=PRICES, costs=COSTS, hold_nanos=1_000_000, has_output=False)

    assert (bill.charge_nanos, bill.cogs_nanos) == (0, 100_000)
