"""Whether a provider's usage can be believed, and what counts when it cannot.

Five cases: missing (estimated), zero (zero), plausible (as reported), negative or unreadable, and absurd (both
estimated, and somebody should look at that provider).
"""

from __future__ import annotations

import msgspec

from waypost.wire.canonical import Usage


class Metered(msgspec.Struct, frozen=True, gc=False):
    usage: Usage
    is_estimated: bool
    is_alarming: bool  # the provider reported something that cannot be


def meter(
    reported: Usage | None,
    *,
    input_estimate: int,
    output_estimate: int,
    context_window: int,
    max_output: int = 0,
    n: int = 1,
) -> Metered:
    """The usage to bill by. Bounds are generous (a context and an answer more than fits), because an answer somewhat
    longer than allowed is an overrun to be booked, not a misreport."""
    if reported is None:
        return Metered(Usage(input_tokens=input_estimate, output_tokens=output_estimate), True, False)
    per_choice_max = context_window + max_output
    is_possible = (
        min(
            reported.input_tokens,
            reported.cache_read_tokens,
            reported.cache_write_5m_tokens,
            reported.cache_write_1h_tokens,
            reported.reasoning_tokens,
        )
        >= 0
        and reported.reasoning_tokens <= reported.output_tokens <= n * per_choice_max
        and reported.all_input_tokens <= per_choice_max
    )
    if is_possible:
        return Metered(reported, False, False)
    return Metered(Usage(input_tokens=input_estimate, output_tokens=output_estimate), True, True)
