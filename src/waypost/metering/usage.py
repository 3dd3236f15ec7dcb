"""Whether a provider's usage can be believed.

missing      no usage, or null                 is counted by us
zero         an explicit 0                     counts as zero
plausible                                      counts as reported
negative     or no whole number                is counted by us, with an alarm
absurd       more than can be                  is counted by us, with an alarm

The second to the last are decided here; `dispatch.attempt` and `dispatch.meter` do what follows.
"""

from __future__ import annotations

from waypost.wire.canonical import Usage

IMAGES_MAX = 1_000  # of one call; no provider makes so many
DURATION_MS_MAX = 24 * 3_600_000
CHARACTERS_MAX = 10_000_000


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
