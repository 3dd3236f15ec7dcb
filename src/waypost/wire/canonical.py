"""Where wire formats meet."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens in disjoint classes: input, cache and output classes add up to everything billed by token.

    `reasoning_tokens` is a part of `output_tokens` and is not counted again. Values are as a provider reported them;
    `metering.usage` decides whether they can be believed.
    """

    input_tokens: int = 0  # neither read from nor written to a cache
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def all_input_tokens(self) -> int:
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
