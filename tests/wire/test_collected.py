"""A stream put together says what the same answer says whole."""

from __future__ import annotations

import base64

import pytest

from waypost.wire.canonical import (
    Audio,
    Choice,
    Chunk,
    Citation,
    ImageBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
)
from waypost.wire.collected import Collector
from waypost.wire.logprobs import Logprobs, TokenLogprob

SIGNED = Signature("anthropic", "sealed")


def collected(*chunks: Chunk, cut: int = 1) -> list[Choice]:
    """The choices, after the chunks came so many at a time."""
    collector = Collector()
    for at in range(0, len(chunks), cut):
        collector.add(chunks[at : at + cut])
    return collector.completion().choices


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_pieces_of_text_become_one_text(cut: int) -> None:
    (choice,) = collected(
        Chunk(0, content="Good "), Chunk(0, content="mor"), Chunk(0, content="ning"), Chunk(0, finish_reason="length"),
        cut=cut,
    )  # fmt: skip
    assert (choice.content, choice.finish_reason) == ("Good morning", "length")
    assert choice.blocks == [TextBlock("Good morning", [])]


def test_reasoning_keeps_its_stretches_and_their_signatures() -> None:
    (choice,) = collected(
        Chunk(0, reasoning="First"),
        Chunk(0, reasoning=" this."),
        Chunk(0, signature=SIGNED),
        Chunk(0, signature=SIGNED),
        Chunk(0, content="So."),
        Chunk(0, reasoning="Then that."),
        Chunk(0, finish_reason="stop"),
    )
    assert choice.blocks == [
        ThinkingBlock("First this.", SIGNED),
        ThinkingBlock("", SIGNED),
        TextBlock("So.", []),
        ThinkingBlock("Then that."),
    ]
    assert choice.reasoning == "First this.Then that."


def test_calls_are_put_together_by_their_index() -> None:
    (choice,) = collected(
        Chunk(0, content="Let me look."),
        Chunk(0, tool_calls=[ToolCallDelta(0, "a", "weather", ""), ToolCallDelta(1, "b", "time", '{"zone":')]),
        Chunk(0, tool_calls=[ToolCallDelta(0, "", "", '{"city":')]),
        Chunk(0, tool_calls=[ToolCallDelta(1, "", "", '"CET"}'), ToolCallDelta(0, "", "", '"Oslo"}')]),
        Chunk(0, finish_reason="tool_calls"),
    )
    assert choice.tool_calls == [ToolCall("a", "weather", '{"city":"Oslo"}'), ToolCall("b", "time", '{"zone":"CET"}')]
    assert choice.finish_reason == "tool_calls"


def test_choices_stand_in_the_order_of_their_indexes() -> None:
    first, second = collected(
        Chunk(1, refusal="No."), Chunk(0, content="Yes."), Chunk(1, finish_reason="refusal"),
        Chunk(0, finish_reason="stop"),
    )  # fmt: skip
    assert (first.index, first.content, first.finish_reason) == (0, "Yes.", "stop")
    assert (second.index, second.refusal, second.finish_reason) == (1, "No.", "refusal")


def test_what_else_belongs_to_an_answer_is_there() -> None:
    sounds = [b"one", b"two!"]
    token = TokenLogprob("Hi", -0.5)
    (choice,) = collected(
        Chunk(0, content="Hi", logprobs=Logprobs(content=[token])),
        Chunk(0, content=" there", citations=[Citation("char_location")], logprobs=Logprobs(content=[token])),
        Chunk(0, content="New", opens_block=True),
        *(Chunk(0, audio=Audio("a1", base64.b64encode(sound).decode(), "la ")) for sound in sounds),
        Chunk(0, images=[ImageBlock("image/png", "AAAA")]),
        Chunk(0, finish_reason="stop_sequence", stop_sequence="###", exposed={"citations": b"[]"}),
    )
    assert choice.audio == Audio("a1", base64.b64encode(b"onetwo!").decode(), "la la ")
    assert choice.logprobs == Logprobs(content=[token, token])
    assert choice.blocks[0] == TextBlock("Hi there", [Citation("char_location")])
    assert choice.blocks[1:] == [TextBlock("New", []), ImageBlock("image/png", "AAAA")]
    assert (choice.stop_sequence, choice.exposed) == ("###", {"citations": b"[]"})
