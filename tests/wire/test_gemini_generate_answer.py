from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.gemini_samples import SAID, converse, events_of, identity_for, parsed, read
from tests.wire.samples import COST, ENVELOPE
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.wire.canonical import (
    Block,
    Chunk,
    Citation,
    Completion,
    ImageBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    Usage,
    choice_of,
)
from waypost.wire.conversation import Thinking
from waypost.wire.dialects import render_error
from waypost.wire.gemini_generate_answer import render_answer
from waypost.wire.gemini_generate_stream import GeminiStream
from waypost.wire.logprobs import Logprobs, TokenLogprob, TopLogprob

OURS = Signature("anthropic", "EqQB")
USAGE = Usage(100, cache_read_tokens=20, output_tokens=30, reasoning_tokens=12)
THINKS = {"contents": SAID, "generationConfig": {"thinkingConfig": {"includeThoughts": True}, "responseLogprobs": True}}
BLOCKS = (
    ThinkingBlock("hm", OURS),
    TextBlock("Löwe, ", [Citation("web_search_result_location", url="https://a.example", text_start=0, text_end=4)]),
    ImageBlock("image/png", "iVBORw0KGgo="),
    ToolCall("up-1", "f", '{"b": 1.5,\n"a": [1]}', OURS),
    ToolCall("up-2", "g", ""),
)
CHUNKS = (
    Chunk(0, reasoning="h"),
    Chunk(0, reasoning="m"),
    Chunk(0, signature=OURS),
    Chunk(0, content="Löwe, "),
    Chunk(0, citations=[Citation("web_search_result_location", url="https://a.example", text_start=0, text_end=4)]),
    Chunk(0, images=[ImageBlock("image/png", "iVBORw0KGgo=")]),
    Chunk(0, tool_calls=[ToolCallDelta(0, "up-1", "f", '{"b": 1', OURS), ToolCallDelta(1, "up-2", "g", "")]),
    Chunk(0, tool_calls=[ToolCallDelta(0, "", "", '.5,\n"a": [1]}')], finish_reason="tool_calls"),
)


def stream(chunks: Sequence[Sequence[Chunk]], *, query: str = "alt=sse", asks: Mapping[str, Any] = THINKS) -> bytes:
    request = read(asks, is_stream=True, query=query)
    writer = GeminiStream(request, identity_for(request))
    return b"".join([writer.render(some) for some in chunks]) + writer.finish(USAGE, COST)


def test_a_whole_answer_has_every_block_in_order_and_ids_of_ours() -> None:
    request = read(THINKS)
    answer = render_answer(
        Completion([choice_of(0, "tool_calls", BLOCKS)]), request, identity_for(request), USAGE, COST
    )

    read_back = parsed(answer)
    assert read_back.candidates is not None
    candidate = read_back.candidates[0]
    assert candidate.content is not None
    thought, text, image, first, second = candidate.content.parts or []
    assert (thought.text, thought.thought, text.text) == ("hm", True, "Löwe, ")
    assert image.inline_data is not None
    assert image.inline_data.mime_type == "image/png"
    assert first.function_call is not None
    assert second.function_call is not None
    assert (first.function_call.name, first.function_call.args) == ("f", {"b": 1.5, "a": [1]})
    assert (second.function_call.name, second.function_call.args) == ("g", {})
    assert first.function_call.id != second.function_call.id
    assert candidate.finish_reason == types.FinishReason.STOP
    assert candidate.citation_metadata is not None
    source = (candidate.citation_metadata.citations or [])[0]
    assert (source.start_index, source.end_index, source.uri) == (0, 5, "https://a.example")  # ö is two bytes
    assert (read_back.model_version, read_back.response_id) == ("swift-1", "0123456789abcdef" * 2)
    assert b"up-1" not in answer
    assert b"EqQB" not in answer
    signed = json.loads(answer)["candidates"][0]["content"]["parts"]
    assert [ENVELOPE.open(signed[at]["thoughtSignature"], b"o" * 16) for at in (0, 3)] == [OURS, OURS]


def test_usage_is_told_in_sums_and_with_its_cost() -> None:
    request = read({"contents": SAID})
    answer = json.loads(
        render_answer(
            Completion([choice_of(0, "length", [TextBlock("a")])]), request, identity_for(request), USAGE, COST
        )
    )

    assert answer["usageMetadata"] == {
        "promptTokenCount": 120,
        "cachedContentTokenCount": 20,
        "candidatesTokenCount": 18,
        "thoughtsTokenCount": 12,
        "totalTokenCount": 150,
        "cost": COST,
    }
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"


def test_thoughts_that_nobody_asked_for_leave_their_signature_only() -> None:
    request = read({"contents": SAID})
    blocks: list[Block] = [ThinkingBlock("hm", OURS), ThinkingBlock("unsigned"), TextBlock("a")]
    answer = json.loads(
        render_answer(Completion([choice_of(0, "stop", blocks)]), request, identity_for(request), USAGE, COST)
    )

    parts = answer["candidates"][0]["content"]["parts"]
    assert [part["text"] for part in parts] == ["", "a"]
    assert "thought" not in parts[0]
    assert "thoughtSignature" in parts[0]


def test_thinking_that_is_not_shown_comes_back_with_its_text() -> None:
    """Some providers take a signature back only beside what it signs."""
    request = read({"contents": SAID}, is_stream=True, query="alt=sse")
    writer = GeminiStream(request, identity_for(request))
    streamed = writer.render([Chunk(0, reasoning="h "), Chunk(0, reasoning="m"), Chunk(0, signature=OURS)])
    blocks: list[Block] = [ThinkingBlock("h m", OURS)]
    whole = render_answer(Completion([choice_of(0, "stop", blocks)]), request, identity_for(request), USAGE, COST)

    for answer in (events_of(streamed)[0], whole):
        assert b"h m" not in answer  # with a blank, which no seal has
        content = json.loads(answer)["candidates"][0]["content"]
        assert converse(content).turns[0].parts == [Thinking("h m", OURS)]


def test_a_call_whose_arguments_are_no_object_is_malformed_and_not_made_up() -> None:
    request = read({"contents": SAID})
    blocks: list[Block] = [ToolCall("1", "f", '{"a":'), ToolCall("2", "g", "[]")]
    completion = Completion([choice_of(0, "tool_calls", blocks)])
    chunks = [Chunk(0, tool_calls=[ToolCallDelta(0, "1", "f", '{"a":')], finish_reason="tool_calls")]

    whole = json.loads(render_answer(completion, request, identity_for(request), USAGE, COST))
    streamed = [json.loads(event) for event in events_of(stream([chunks]))]

    assert whole["candidates"][0]["content"]["parts"] == []
    assert whole["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert streamed[-1]["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"


@given(cuts=st.lists(st.integers(1, len(CHUNKS)), max_size=4))
def test_a_stream_adds_up_to_the_whole_however_its_pieces_arrive(cuts: list[int]) -> None:
    bounds = sorted({0, *cuts, len(CHUNKS)})
    batches = [CHUNKS[begin:end] for begin, end in pairwise(bounds)]
    events = [parsed(event) for event in events_of(stream(batches))]

    parts = [
        part
        for event in events
        for candidate in event.candidates or []
        for part in (candidate.content and candidate.content.parts) or []
    ]
    assert "".join(part.text or "" for part in parts if part.thought) == "hm"
    assert "".join(part.text or "" for part in parts if not part.thought) == "Löwe, "
    assert [(part.function_call.name, part.function_call.args) for part in parts if part.function_call] == [
        ("f", {"b": 1.5, "a": [1]}),
        ("g", {}),
    ]
    assert sum(part.inline_data is not None for part in parts) == 1
    assert sum(part.thought_signature is not None for part in parts) == 2
    reasons = [candidate.finish_reason for event in events for candidate in event.candidates or []]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert reasons[-1] == types.FinishReason.STOP
    assert events[-1].usage_metadata is not None
    assert events[-1].usage_metadata.total_token_count == 150


def test_without_events_a_stream_is_one_array() -> None:
    chunks = [Chunk(0, content="a"), Chunk(0, content="b", finish_reason="stop")]
    elements = json.loads(stream([chunks[:1], chunks[1:]], query=""))
    assert elements == [json.loads(event) for event in events_of(stream([chunks]))]
    assert len(elements) == 3


def test_a_broken_stream_ends_with_an_error_and_no_finish() -> None:
    refusal = Refusal(ErrorCode.GENERATION_FAILED)
    for query in ("", "alt=sse"):
        request = read({"contents": SAID}, is_stream=True, query=query)
        writer = GeminiStream(request, identity_for(request))
        sent = writer.heartbeat + writer.render([Chunk(0, content="a")]) + writer.fail(refusal, "req_1")
        assert b"finishReason" not in sent
        if query:
            last = events_of(sent)[-1]
            assert last.startswith(b'{"error":{"code":500,')  # as the SDK looks for it
        else:
            assert json.loads(sent)[-1]["error"]["status"] == "INTERNAL"


def test_log_probabilities_are_there_when_asked_for() -> None:
    logprobs = Logprobs([TokenLogprob("a", -0.5, None, [TopLogprob("a", -0.5), TopLogprob("b", -1.5)])])
    choice = choice_of(0, "stop", [TextBlock("a")])
    choice.logprobs = logprobs
    asked, not_asked = read(THINKS), read({"contents": SAID})

    answer = parsed(render_answer(Completion([choice]), asked, identity_for(asked), USAGE, COST))
    assert answer.candidates is not None
    result = answer.candidates[0].logprobs_result
    assert result is not None
    assert [(each.token, each.log_probability) for each in result.chosen_candidates or []] == [("a", -0.5)]
    assert answer.candidates[0].avg_logprobs == -0.5
    assert b"ogprobs" not in render_answer(Completion([choice]), not_asked, identity_for(not_asked), USAGE, COST)
    assert b"logprobsResult" in stream([[Chunk(0, content="a", logprobs=logprobs, finish_reason="stop")]])


def test_errors_name_our_code_and_the_field() -> None:
    error = json.loads(render_error("gemini", invalid("contents", "No."), "req_1"))["error"]
    assert (error["code"], error["status"], error["message"]) == (400, "INVALID_ARGUMENT", "No.")
    details = {each["@type"].rpartition(".")[2]: each for each in error["details"]}
    assert details["ErrorInfo"]["reason"] == "INPUT_VALIDATION_ERROR"
    assert details["BadRequest"]["fieldViolations"][0]["field"] == "contents"
    assert details["RequestInfo"]["requestId"] == "req_1"
    assert "RetryInfo" not in details
    error = json.loads(render_error("gemini", Refusal(ErrorCode.RATE_LIMITED, retry_after_s=7), "req_1"))["error"]
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert error["details"][1]["retryDelay"] == "7s"
