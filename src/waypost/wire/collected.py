"""A streamed answer put together to a whole one, for a caller who wants it whole although the provider streams it."""

from __future__ import annotations

import binascii
from collections.abc import Iterable

from waypost.wire.canonical import (
    Audio,
    Block,
    Choice,
    Chunk,
    Citation,
    Completion,
    RefusalBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    choice_of,
)
from waypost.wire.logprobs import Logprobs, TokenLogprob


class Collector:
    """Takes the chunks of one answer in order."""

    def __init__(self) -> None:
        self._choices: dict[int, _Collected] = {}
        self._exposed: dict[str, bytes] = {}

    def add(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            choice = self._choices.get(chunk.index)
            if choice is None:
                choice = self._choices[chunk.index] = _Collected()
            choice.add(chunk)
            if chunk.exposed_top:
                self._exposed.update(chunk.exposed_top)

    def completion(self) -> Completion:
        """What has been said, choices in the order of their indexes."""
        choices = [self._choices[index].choice(index) for index in sorted(self._choices)]
        return Completion(choices, exposed=self._exposed or None)


class _Text:
    """A block of text, reasoning or refusal under way."""

    __slots__ = ("citations", "kind", "parts", "signature")

    def __init__(self, kind: type[TextBlock | ThinkingBlock | RefusalBlock]) -> None:
        self.kind = kind
        self.parts: list[str] = []
        self.signature: Signature | None = None
        self.citations: list[Citation] = []

    def block(self) -> Block:
        text = "".join(self.parts)
        if self.kind is TextBlock:
            return TextBlock(text, self.citations)
        return RefusalBlock(text) if self.kind is RefusalBlock else ThinkingBlock(text, self.signature)


class _Call:
    """A tool call under way."""

    __slots__ = ("id", "name", "parts", "signature")

    def __init__(self, opening: ToolCallDelta) -> None:
        self.id = opening.id
        self.name = opening.name
        self.parts: list[str] = []
        self.signature = opening.signature

    def block(self) -> Block:
        return ToolCall(self.id, self.name, "".join(self.parts), self.signature)


class _Collected:
    """One choice."""

    def __init__(self) -> None:
        self._blocks: list[_Text | _Call | Block] = []
        self._calls: dict[int, _Call] = {}
        self._open: _Text | None = None
        self._audio: list[Audio] = []
        self._logprobs: Logprobs | None = None
        self._exposed: dict[str, bytes] = {}
        self._finish_reason = ""
        self._stop_sequence = ""

    def add(self, chunk: Chunk) -> None:
        if chunk.opens_block:
            self._open = None
        if chunk.reasoning:
            self._text(ThinkingBlock).parts.append(chunk.reasoning)
        if chunk.signature is not None:
            self._text(ThinkingBlock).signature = chunk.signature
            self._open = None
        if chunk.content:
            self._text(TextBlock).parts.append(chunk.content)
        if chunk.citations:
            self._text(TextBlock).citations += chunk.citations
        if chunk.refusal:
            self._text(RefusalBlock).parts.append(chunk.refusal)
        for delta in chunk.tool_calls:
            self._call(delta)
        if chunk.images:
            self._open = None
            self._blocks += chunk.images
        self._add_rest(chunk)

    def choice(self, index: int) -> Choice:
        blocks = [each.block() if isinstance(each, _Text | _Call) else each for each in self._blocks]
        choice = choice_of(index, self._finish_reason or "stop", blocks, stop_sequence=self._stop_sequence)
        if self._audio:
            choice.audio = _joined(self._audio)
        choice.logprobs = self._logprobs
        choice.exposed = self._exposed or None
        return choice

    def _text(self, kind: type[TextBlock | ThinkingBlock | RefusalBlock]) -> _Text:
        if self._open is None or self._open.kind is not kind:
            self._open = _Text(kind)
            self._blocks.append(self._open)
        return self._open

    def _call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            call = self._calls[delta.index] = _Call(delta)
            self._blocks.append(call)
            self._open = None
        call.parts.append(delta.arguments)

    def _add_rest(self, chunk: Chunk) -> None:
        if chunk.audio is not None:
            self._audio.append(chunk.audio)
        if chunk.logprobs is not None:
            so_far = self._logprobs or Logprobs()
            self._logprobs = Logprobs(
                content=_longer(so_far.content, chunk.logprobs.content),
                refusal=_longer(so_far.refusal, chunk.logprobs.refusal),
            )
        if chunk.exposed:
            self._exposed.update(chunk.exposed)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._stop_sequence = chunk.stop_sequence or self._stop_sequence


def _longer(before: list[TokenLogprob] | None, more: list[TokenLogprob] | None) -> list[TokenLogprob] | None:
    return before if more is None else [*(before or ()), *more]


def _joined(pieces: list[Audio]) -> Audio:
    """Each piece is base64 of its own bytes, perhaps padded."""
    try:
        data = b"".join([binascii.a2b_base64(piece.data) for piece in pieces])
        text = binascii.b2a_base64(data, newline=False).decode()
    except ValueError:  # whatever it is, it comes as it came
        text = "".join([piece.data for piece in pieces])
    return Audio(
        id=next((piece.id for piece in pieces if piece.id), ""),
        data=text,
        transcript="".join([piece.transcript for piece in pieces]),
    )
