"""What of a streamed answer was relayed, and what that comes to while its provider has not said it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.metering.tokens import TokenCounter, chunk_text, least_tokens, prompt_texts, text_bytes
from waypost.wire.canonical import Chunk, Usage

_READ_AT_ONCE_BYTES = 65_536  # of a request: its texts are found in 0.1 ms; a longer one is not read for a guess
_BYTES_PER_PROMPT_TOKEN_MOST = 16  # of a whole request, syntax and names of fields included


class Tally:
    """The texts of one stream, in memory for as long as it runs."""

    __slots__ = ("_counted", "_input_least", "_texts", "deltas")

    def __init__(self) -> None:
        self.deltas = 0  # pieces that say something: each is one token at least
        self._texts: list[str] = []  # not counted yet
        self._counted = 0  # tokens of what came before them
        self._input_least: int | None = None

    def add(self, chunks: Sequence[Chunk]) -> None:
        texts = self._texts
        for chunk in chunks:
            text = chunk.content or chunk_text(chunk)
            if text:
                texts.append(text)
                self.deltas += 1

    def count(self, counter: TokenCounter) -> int:
        """Tokens relayed so far. What is counted once is not counted again. In any thread, one at a time."""
        texts, self._texts = self._texts, []
        self._counted += counter.count(["".join(texts)])
        return self._counted

    def pack(self) -> None:
        """Thousands of pieces as one text, which takes a tenth of the room."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]

    def least(self, reported: Usage | None, output_bytes: int, fields: Mapping[str, msgspec.Raw], size: int) -> Usage:
        """No more than what was read and relayed until now. `fields` of the request are `size` bytes of text."""
        output_tokens = least_tokens(output_bytes, self.deltas)
        if reported is None or reported.all_input_tokens < 0:
            if self._input_least is None:
                self._input_least = _least_input(fields, size)
            return Usage(input_tokens=self._input_least, output_tokens=output_tokens)
        return replace(reported, output_tokens=max(reported.output_tokens, output_tokens))


def count_input(counter: TokenCounter, fields: Mapping[str, msgspec.Raw], images: int) -> int:
    """Tokens of a request's texts, and of its images as far as one can guess."""
    return counter.count(prompt_texts(fields)) + images * _IMAGE_TOKENS


_IMAGE_TOKENS = 765  # of an image in high detail at OpenAI; others come to 250 … 1,600


def _least_input(fields: Mapping[str, msgspec.Raw], size: int) -> int:
    if size > _READ_AT_ONCE_BYTES:
        return size // _BYTES_PER_PROMPT_TOKEN_MOST
    return least_tokens(text_bytes(prompt_texts(fields)))
