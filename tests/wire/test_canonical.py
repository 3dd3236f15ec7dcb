"""What counts as an answer: whoever got nothing pays nothing."""

from __future__ import annotations

import pytest

from waypost.wire.canonical import (
    Audio,
    Choice,
    Completion,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    choice_of,
)


@pytest.mark.parametrize(
    "completion",
    [
        Completion([Choice(0, "stop", content="é")]),
        Completion([Choice(0, "stop"), Choice(1, "stop", reasoning="Hm")]),
        Completion([Choice(0, "stop", refusal="No")]),
        Completion([Choice(0, "tool_calls", tool_calls=[ToolCall("", "look", "")])]),
        Completion([Choice(0, "stop", audio=Audio(data="AAAA"))]),
        Completion([choice_of(0, "stop", [ImageBlock("image/png", "AAAA")])]),
        Completion([], vectors=[b"\0\0\0\0"]),
    ],
)
def test_whatever_was_said_is_output(completion: Completion) -> None:
    assert completion.has_output
    assert completion.output_bytes > 0


@pytest.mark.parametrize(
    "completion",
    [
        Completion([]),
        Completion([Choice(0, "stop")]),
        Completion([choice_of(0, "stop", [ThinkingBlock(""), TextBlock("")])]),
        Completion([], vectors=[b""]),
    ],
)
def test_an_answer_that_says_nothing_has_no_output(completion: Completion) -> None:
    assert not completion.has_output
    assert completion.output_bytes == 0
