"""Whether a provider's usage can be believed, and what counts when it cannot.

missing      no usage, or null                 estimated
zero         an explicit 0                     zero
plausible                                      as reported
negative     or no whole number                estimated, with an alarm
absurd       more than can be                  estimated, with an alarm
"""

from __future__ import annotations

import msgspec

from waypost.wire.canonical import Usage

IMAGES_MAX = 1_000  # of one call; no provider makes so many
DURATION_MS_MAX = 24 * 3_600_000
CHARACTERS_MAX = 10_000_000


class Metered(msgspec.Struct, frozen=True, gc=False):
    usage: Usage  # says itself whether it is estimated
    is_alarming: bool  # the provider reported something that cannot be


def meter(
    reported: Usage | None,
    estimate: Usage,
    *,
    context_window: int,
    max_output: int = 0,
    n: int = 1,
) -> Metered:
    """The usage to bill by: the reported one, or where that cannot be, the estimate."""
    if reported is None:
        return Metered(_estimated(estimate), False)
    if is_plausible(reported, context_window, max_output, n):
        return Metered(reported, False)
    return Metered(_estimated(estimate), True)


def is_plausible(reported: Usage, context_window: int, max_output: int, n: int) -> bool:
    """Whether that can be. Bounds are generous (a context and an answer more than fits), because an answer somewhat
    longer than allowed is an overrun to be booked, not a misreport."""
    per_choice_max = context_window + max_output
    return (
        min(
            reported.input_tokens,
            reported.cache_read_tokens,
            reported.cache_write_5m_tokens,
            reported.cache_write_1h_tokens,
            reported.audio_input_tokens,
            reported.image_input_tokens,
            reported.audio_output_tokens,
            reported.reasoning_tokens,
            reported.images,
            reported.duration_ms,
            reported.characters,
        )
        >= 0
        and reported.reasoning_tokens <= reported.output_tokens <= n * per_choice_max
        and reported.audio_output_tokens <= n * per_choice_max
        and reported.all_input_tokens <= per_choice_max
        and reported.images <= IMAGES_MAX
        and reported.duration_ms <= DURATION_MS_MAX
        and reported.characters <= CHARACTERS_MAX
    )


def _estimated(usage: Usage) -> Usage:
    return msgspec.structs.replace(usage, is_estimated=True)
