"""Messages as callers read them, whole and streamed, judged by Anthropic's SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.anthropic_samples import accumulated, identity, meaning, named_events, opened
from waypost.kit.errors import ErrorCode, Refusal
from waypost.wire.anthropic_messages_answer import UNREAD_ARGUMENTS, render_message
from waypost.wire.anthropic_messages_stream import StreamRenderer
from waypost.wire.canonical import (
    Block,
    Chunk,
    Citation,
    Completion,
    ImageBlock,
    RefusalBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    Usage,
    choice_of,
    has_content,
)

USAGE = Usage(10, 20, 30, 40, 50, 5)
SIGNED = Signature("anthropic", "signed")
CITATION = Citation("page_location", "cited", title="Report", source_index=1, start=2, end=3)


def whole(blocks: list[Block], finish_reason: str = "stop", *, shows: bool = True, **fields: Any) -> Message:
    completion = Completion([choice_of(0, finish_reason, blocks, **fields)])
    rendered = render_message(completion, identity(), USAGE, "0.0012", shows=shows)
    return Message.model_validate_json(rendered)


def streamed(chunks: list[Chunk], *, shows: bool = True) -> Message:
    renderer = StreamRenderer(identity(), shows=shows)
    return accumulated(b"".join([renderer.render([chunk]) for chunk in chunks]) + renderer.finish(USAGE, "0.0012"))


def test_every_block_reads_as_anthropic_writes_it() -> None:
    message = whole(
        [
            ThinkingBlock("hm", SIGNED),
            ThinkingBlock("", Signature("openai", "encrypted")),
            TextBlock("See.", [CITATION]),
            ToolCall("call_1", "now", ""),
            ToolCall("call_2", "add", '{ "a": 1.50, "b": [2] }'),
        ],
        "tool_calls",
    )
    thinking, hidden, text, now, add = [block.model_dump(exclude_none=True) for block in message.content]

    assert opened(thinking.pop("signature")) == SIGNED
    assert thinking == {"type": "thinking", "thinking": "hm"}
    assert opened(hidden.pop("data")) == Signature("openai", "encrypted")
    assert hidden == {"type": "redacted_thinking"}
    assert text["citations"] == [
        {
            "type": "page_location",
            "cited_text": "cited",
            "document_index": 1,
            "document_title": "Report",
            "start_page_number": 2,
            "end_page_number": 3,
        }
    ]
    assert now["input"] == {}
    assert add["input"] == {"a": 1.5, "b": [2]}
    assert now["id"].startswith("toolu_")
    assert now["id"] != add["id"]
    assert message.stop_reason == "tool_use"


def test_usage_is_told_in_anthropics_classes_with_the_cost() -> None:
    usage = whole([TextBlock("a")]).usage

    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (10, 20, 70)
    assert usage.cache_creation is not None
    assert (usage.cache_creation.ephemeral_5m_input_tokens, usage.cache_creation.ephemeral_1h_input_tokens) == (30, 40)
    assert usage.output_tokens == 50
    assert usage.model_extra == {"cost": "0.0012"}


def test_thinking_without_a_signature_is_sealed_like_any_other() -> None:
    signatures = [whole([ThinkingBlock("hm", signed)]).content[0] for signed in (None, SIGNED)]

    lengths = [len(block.signature) for block in signatures if block.type == "thinking"]
    assert lengths[0] == lengths[1]


def test_thinking_that_was_to_be_left_out_is_empty_and_signed() -> None:
    chunks = [Chunk(0, reasoning="hm"), Chunk(0, signature=SIGNED), Chunk(0, "a"), Chunk(0, finish_reason="stop")]
    for message in (
        whole([ThinkingBlock("hm", SIGNED), TextBlock("a")], shows=False),
        streamed(chunks, shows=False),
        streamed(chunks[1:], shows=False),
    ):
        block = message.content[0]
        assert block.type == "thinking"
        assert (block.thinking, opened(block.signature)) == ("", SIGNED)


@pytest.mark.parametrize(
    ("finish_reason", "blocks", "stop_reason"),
    [
        ("stop", [TextBlock("a")], "end_turn"),
        ("length", [TextBlock("a")], "max_tokens"),
        ("content_filter", [TextBlock("a")], "refusal"),
        ("refusal", [], "refusal"),
        ("stop", [RefusalBlock("I can't.")], "refusal"),
        ("pause", [TextBlock("a")], "pause_turn"),
    ],
)
def test_each_end_has_anthropics_word(finish_reason: str, blocks: list[Block], stop_reason: str) -> None:
    assert whole(blocks, finish_reason).stop_reason == stop_reason


def test_the_stop_sequence_is_named() -> None:
    message = whole([TextBlock("a")], "stop_sequence", stop_sequence="END")
    told = streamed([Chunk(0, "a"), Chunk(0, finish_reason="stop_sequence", stop_sequence="END")])

    assert (message.stop_reason, message.stop_sequence) == (told.stop_reason, told.stop_sequence)
    assert message.stop_sequence == "END"


def test_arguments_that_are_no_object_are_not_lost() -> None:
    call = whole([ToolCall("c", "f", '{"city": "Par')], "length").content[0]

    assert call.type == "tool_use"
    assert call.input == {UNREAD_ARGUMENTS: '{"city": "Par'}


def test_a_calls_signature_stands_before_it_and_an_image_in_text() -> None:
    signature, call, image = whole(
        [ToolCall("c", "f", "{}", Signature("gemini", "s")), ImageBlock("image/png", "AAAA")]
    ).content

    assert signature.type == "redacted_thinking"
    assert opened(signature.data) == Signature("call|gemini", "s")
    assert call.type == "tool_use"
    assert image.type == "text"
    assert image.text == "![image](data:image/png;base64,AAAA)"


def test_a_stream_begins_and_ends_as_anthropics() -> None:
    renderer = StreamRenderer(identity(), shows=True)
    stream = renderer.render([Chunk(0, "He"), Chunk(0, "llo"), Chunk(0, finish_reason="stop")])
    stream += renderer.finish(USAGE, "0.0012")

    assert [event["type"] for event in named_events(stream)] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert named_events(stream)[-2]["usage"]["cost"] == "0.0012"


def test_a_broken_stream_ends_in_an_error_event_and_nothing_else() -> None:
    renderer = StreamRenderer(identity(), shows=True)
    stream = renderer.render([Chunk(0, "He")]) + renderer.fail(Refusal(ErrorCode.MODEL_OVERLOADED), "req_1")
    *_, last = named_events(stream)

    assert last == {
        "type": "error",
        "error": {
            "type": "overloaded_error",
            "message": ErrorCode.MODEL_OVERLOADED.message,
            "code": "MODEL_OVERLOADED",
        },
        "request_id": "req_1",
    }
    assert renderer.heartbeat == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_calls_whose_pieces_alternate_come_one_after_another_and_whole() -> None:
    pieces = [(0, "f", '{"a"'), (1, "g", '{"b"'), (0, "", ":1}"), (2, "h", ""), (1, "", ":2}"), (2, "", "{}")]
    chunks = [
        Chunk(0, tool_calls=[ToolCallDelta(index, f"id{index}", name, arguments)]) for index, name, arguments in pieces
    ]
    message = streamed([Chunk(0, "Let me see."), *chunks, Chunk(0, finish_reason="tool_calls")])

    assert [block.input for block in message.content if block.type == "tool_use"] == [{"a": 1}, {"b": 2}, {}]


def test_an_answer_without_anything_is_a_message_without_content() -> None:
    assert streamed([Chunk(0, finish_reason="stop")]).content == []
    assert whole([]).content == []


# Any answer, in any pieces


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3).map(json.dumps)
SIGNATURES = st.builds(Signature, st.sampled_from(["anthropic", "gemini"]), TEXTS)
BLOCKS = st.lists(
    st.builds(ThinkingBlock, TEXTS, SIGNATURES | st.none())
    | st.builds(ThinkingBlock, st.just(""), SIGNATURES)
    | st.builds(TextBlock, TEXTS, st.lists(st.just(CITATION), max_size=2))
    | st.builds(ToolCall, st.just(""), TEXTS, ARGUMENTS, SIGNATURES | st.none()),
    max_size=6,
)


def chunks_of(blocks: list[Block], cut: Any) -> list[Chunk]:
    """The blocks as a stream would bring them, cut by `cut(length)`; neighbouring calls take turns."""
    chunks: list[Chunk] = []
    calls: list[list[Chunk]] = []
    index = 0
    for block in [*blocks, None]:
        if not isinstance(block, ToolCall):
            while any(calls):
                chunks += [pieces.pop(0) for pieces in calls if pieces]
            calls = []
        match block:
            case TextBlock():
                at = cut(len(block.text))
                chunks.append(Chunk(0, block.text[:at], opens_block=True))
                chunks.append(Chunk(0, block.text[at:]))
                chunks.append(Chunk(0, citations=block.citations))
            case ThinkingBlock():
                at = cut(len(block.text))
                if block.text:
                    chunks.append(Chunk(0, reasoning=block.text[:at], opens_block=True))
                    chunks.append(Chunk(0, reasoning=block.text[at:]))
                chunks.append(Chunk(0, signature=block.signature, opens_block=not block.text))
            case ToolCall():
                at = cut(len(block.arguments))
                first = ToolCallDelta(index, block.id, block.name, block.arguments[:at], block.signature)
                rest = ToolCallDelta(index, block.id, "", block.arguments[at:])
                calls.append([Chunk(0, tool_calls=[first]), Chunk(0, tool_calls=[rest])])
                index += 1
    return [chunk for chunk in chunks if has_content(chunk)]


@given(BLOCKS, st.data())
def test_a_stream_in_any_pieces_says_what_the_whole_answer_says(blocks: list[Block], data: st.DataObject) -> None:
    chunks = chunks_of(blocks, lambda length: data.draw(st.integers(1, length)) if length else 0)
    renderer = StreamRenderer(identity(), shows=True)
    stream = b"".join([renderer.render([chunk]) for chunk in chunks])
    stream += renderer.render([Chunk(0, finish_reason="tool_calls")]) + renderer.finish(USAGE, "0.0012")

    assert meaning(accumulated(stream)) == meaning(whole(blocks, "tool_calls"))
