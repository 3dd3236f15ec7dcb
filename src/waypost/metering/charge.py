"""What an attempt's end means in money: what the customer pays and what we book as the provider's cost.

completed               customer: price of the usage · house: nothing but an overrun
no output at all        customer: nothing · cost as reported
broken after output     customer: input and what was received · the same units as cost
broken before output    customer: nothing · cost: the input, if the request had been sent and no answer refused it
refused by the provider nobody pays: providers do not bill refusals
the caller left         as broken after output; or as completed, when the attempt was drained to its usage
"""

from __future__ import annotations

from waypost.kit.money import Nanos
from waypost.metering.bill import Bill
from waypost.metering.price import PriceRow, amount
from waypost.wire.canonical import Usage


def bill_delivered(usage: Usage, *, prices: PriceRow, costs: PriceRow, hold_nanos: Nanos, has_output: bool) -> Bill:
    """The attempt delivered, wholly or in part. Without any output unit the customer pays nothing."""
    cogs = amount(usage, costs)
    was_served = has_output or usage.all_output_tokens or usage.images or usage.duration_ms or usage.characters
    price = amount(usage, prices) if was_served else 0
    charge = min(price, hold_nanos)
    return Bill(usage, charge, cogs, price - charge)


def bill_lost(*, input_estimate: int, costs: PriceRow) -> Bill:
    """The request went out, nothing usable came back, and the provider may have billed the input."""
    usage = Usage(input_tokens=input_estimate, is_estimated=True)
    return Bill(usage=usage, charge_nanos=0, cogs_nanos=amount(usage, costs))
