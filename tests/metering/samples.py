"""Generated price lists, ceilings and usages."""

from __future__ import annotations

from hypothesis import strategies as st

from waypost.kit.values import replace
from waypost.metering.ceiling import Ceiling
from waypost.metering.price import PARENTS, Tier, price_row
from waypost.wire.canonical import Usage

PRICES_MAX = 10**12  # 1,000 USD per million
UNITS = 2_000_000
_PARTS = 1_001

# All twelve prices as one number, which is drawn much faster than twelve.
_rows = st.integers(0, (PRICES_MAX + 1) ** len(PARENTS) - 1).map(
    lambda drawn: price_row(
        {name: drawn // (PRICES_MAX + 1) ** at % (PRICES_MAX + 1) for at, name in enumerate(PARENTS)}
    )
)
price_rows = st.one_of(
    _rows,
    st.builds(
        lambda base, above, more: replace(
            base, tiers=tuple(Tier(above * (at + 1), row) for at, row in enumerate(more))
        ),
        _rows,
        st.integers(1, UNITS // 2),
        st.lists(_rows, min_size=1, max_size=2),
    ),
)
ceilings = st.builds(
    Ceiling,
    st.integers(0, UNITS),
    st.integers(0, UNITS),
    has_audio=st.booleans(),
    has_images=st.booleans(),
    images_max=st.integers(0, 10),
    duration_ms_max=st.integers(0, 600_000),
    characters_max=st.integers(0, 10_000),
)
# How much of each bound is used, and where input and output split into their classes: in thousandths, as one number.
splits = st.lists(st.integers(0, _PARTS**11 - 1), min_size=40, max_size=40)


def usage_within(c: Ceiling, split: int) -> Usage:
    """A usage within the ceiling."""
    used, *edges, answered, spoken, others = [split // _PARTS**place % _PARTS for place in range(9)]
    input_tokens = c.input_tokens_max * used // 1_000
    cuts = sorted(input_tokens * edge // 1_000 for edge in edges)
    parts = [end - start for start, end in zip((0, *cuts), (*cuts, input_tokens), strict=True)]
    output_tokens = c.output_tokens_max * answered // 1_000
    audio_output = output_tokens * spoken // 1_000 if c.has_audio else 0
    audio, images = (parts[4] if c.has_audio else 0), (parts[5] if c.has_images else 0)
    return Usage(
        input_tokens=parts[0] + parts[4] - audio + parts[5] - images,
        cache_read_tokens=parts[1],
        cache_write_5m_tokens=parts[2],
        cache_write_1h_tokens=parts[3],
        output_tokens=output_tokens - audio_output,
        audio_input_tokens=audio,
        image_input_tokens=images,
        audio_output_tokens=audio_output,
        images=c.images_max * others // 1_000,
        duration_ms=c.duration_ms_max * others // 1_000,
        characters=c.characters_max * others // 1_000,
    )
