"""Our own counts: of text alone, whatever format it came in."""

from __future__ import annotations

import msgspec
import pytest

from waypost.metering.tokens import TokenCounter, chunk_text, least_tokens, prompt_texts, text_bytes
from waypost.wire.canonical import Chunk, ToolCallDelta

COUNTER = TokenCounter()


def fields(document: dict[str, object]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in document.items()}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("Hello, world!", 4),  # as OpenAI's own counter says for o200k_base
        ("tiktoken is great!", 6),
        ("<|endoftext|>", 7),  # of a caller it is text like any other
        ("\ud800 half", 2),
    ],
)
def test_counts_are_those_of_the_vocabulary(text: str, tokens: int) -> None:
    assert COUNTER.count([text]) == tokens


def test_nothing_is_loaded_before_the_first_count() -> None:
    counter = TokenCounter()
    assert not counter.is_loaded
    counter.count([])
    assert counter.is_loaded


def test_a_long_text_is_counted_in_pieces_to_nearly_the_same() -> None:
    words = "All the world's a stage, and all the men and women merely players. " * 1_000
    once = COUNTER.count(["All the world's a stage, and all the men and women merely players. "])
    assert abs(COUNTER.count([words]) - 1_000 * once) <= 1_000 * 2 + 20


def test_the_texts_of_a_prompt_leave_out_media_ids_and_the_words_of_the_format() -> None:
    chat: dict[str, object] = {
        "model": "swift-1",
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "21 °C"},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells the weather."}}],
    }
    assert prompt_texts(fields(chat)) == [
        "Be brief.",
        "What is this?",
        "21 °C",
        "weather",
        "Tells the weather.",
    ]
    gemini: dict[str, object] = {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "x", "data": "AA"}}]}],
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
    }
    assert prompt_texts(fields(gemini)) == ["Hi", "Be kind."]


def test_a_piece_of_a_stream_says_text_reasoning_and_calls() -> None:
    assert chunk_text(Chunk(0, "Hel")) == "Hel"
    assert chunk_text(Chunk(0, "a", "b", tool_calls=[ToolCallDelta(0, "", "f", "{}")])) == "abf{}"
    assert chunk_text(Chunk(0, finish_reason="stop")) == ""
    assert text_bytes(["é", "ab"]) == 4


def test_the_least_of_a_stream_is_a_token_a_piece() -> None:
    assert (least_tokens(8), least_tokens(80, 4), least_tokens(5, 3)) == (1, 10, 3)
