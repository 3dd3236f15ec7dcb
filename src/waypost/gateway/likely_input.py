"""How many tokens a conversation has, as a guess of ours: no provider is asked, and nothing is charged by it."""

from __future__ import annotations

from waypost.metering.estimate import likely_tokens
from waypost.wire.conversation import Conversation, Media, Part, Result


def likely_input_tokens(conversation: Conversation, *, medium_tokens: int) -> int:
    """A guess from the length of all text, and `medium_tokens` for each medium."""
    text_bytes = sum(len(part.text.encode()) for part in conversation.system)
    media = 0
    for turn in conversation.turns:
        for part in turn.parts:
            inner: list[Part] = list(part.parts) if isinstance(part, Result) else [part]
            media += sum(isinstance(each, Media) for each in inner)
            text_bytes += sum(_text_bytes(each) for each in inner)
    for tool in conversation.tools:
        text_bytes += len(f"{tool.name}{tool.description}{tool.parameters}".encode())
    return likely_tokens(text_bytes) + media * medium_tokens


def _text_bytes(part: Part) -> int:
    """Of text, thinking, refusals; of a call its name and arguments."""
    text = getattr(part, "text", "") or f"{getattr(part, 'name', '')}{getattr(part, 'arguments', '')}"
    return len(text.encode())
