"""How fast a deployment has been lately: what `provider.sort` by latency or throughput goes by."""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest answer in the moving averages: some ten answers are remembered


class Pace:
    """Moving averages over the answers of one deployment; None until there was one."""

    __slots__ = ("first_content_s", "tokens_per_s")

    def __init__(self) -> None:
        self.first_content_s: float | None = None
        self.tokens_per_s: float | None = None

    def observe(self, *, first_content_s: float | None, output_tokens: int, total_s: float) -> None:
        """A whole answer. `first_content_s` is None for one that came at once."""
        if first_content_s is not None:
            before = self.first_content_s
            self.first_content_s = first_content_s if before is None else before + (first_content_s - before) * _WEIGHT
        if total_s > 0:
            before, new = self.tokens_per_s, output_tokens / total_s
            self.tokens_per_s = new if before is None else before + (new - before) * _WEIGHT
