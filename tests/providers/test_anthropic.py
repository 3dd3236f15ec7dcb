"""The anthropic kind: what goes to the provider, and what is read of its answers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.anthropic_samples import around, opened, request_of, sealed
from tests.wire.samples import AROUND
from waypost.kit.errors import ErrorCode
from waypost.providers import KINDS
from waypost.providers.anthropic_fields import hidden_signature, shown_signature
from waypost.providers.kind import BadAnswer, StreamReader, Target, UpstreamError
from waypost.wire.canonical import (
    Chunk,
    Citation,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from waypost.wire.request import Around

KIND = KINDS["anthropic"]
TARGET = KIND.prepare(Target(b"api.example:443", "", "sk-upstream", "claude-sonnet-4-5"))
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 70,
    "cache_read_input_tokens": 20,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 5},
}


def call(headers: Around | None = None, most: int | None = None, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(KIND.call(request_of(headers, **fields), TARGET, output_tokens_max=most)[1])
    return body


def assistant(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": list(blocks)}]


def said(document: dict[str, Any]) -> Any:
    return KIND.completion({}, json.dumps(document).encode())


def message(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "message", "content": list(content), "stop_reason": "end_turn", "usage": USAGE, **fields}


# What goes out


def test_the_head_has_key_and_version_and_the_callers_betas() -> None:
    head = KIND.call(request_of(around(anthropic_beta="a-1,b-2")), TARGET, output_tokens_max=None)[0].decode()

    assert head.splitlines() == [
        "POST /v1/messages HTTP/1.1",
        "host: api.example:443",
        "x-api-key: sk-upstream",
        "anthropic-version: 2023-06-01",
        "content-type: application/json",
        "accept-encoding: identity",
        "user-agent: waypost",
        "anthropic-beta: a-1,b-2",
    ]


@pytest.mark.parametrize("prefix", ["", "/v1", "/proxy", "/proxy/v1"])
def test_the_base_url_may_have_the_version_in_it_or_not(prefix: str) -> None:
    head = KIND.prepare(Target(b"h", prefix, "k", "m")).head

    assert head.startswith(b"POST %b/v1/messages HTTP/1.1\r\n" % prefix.removesuffix("/v1").encode())


def test_the_operator_chooses_another_version() -> None:
    head = KIND.prepare(Target(b"h", "", "k", "m", (("Anthropic-Version", "2026-10-21"),))).head

    assert head.count(b"nthropic-") == 1


def test_a_request_goes_as_it_came() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    sent: dict[str, Any] = {
        "tools": tools,
        "top_k": 5,
        "context_management": {"edits": []},
        "system": [{"type": "text", "text": "x"}],
    }

    body = call(**sent, service_tier="auto", speed="standard")

    assert body == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": "hi"}],
        **sent,
    }


def test_a_user_is_a_pseudonym() -> None:
    known = Around(lambda _: None, pseudonym=lambda user: f"p-{len(user)}")

    assert call(known, metadata={"user_id": "ada@example.org", "more": 1})["metadata"] == {"user_id": "p-15"}
    assert "metadata" not in call(metadata={"user_id": "ada@example.org"})
    assert "metadata" not in call(metadata={})


def test_the_answer_is_bounded_and_thinking_with_it() -> None:
    body = call(max_tokens=9000, most=4000, thinking={"type": "enabled", "budget_tokens": 8000})

    assert body["max_tokens"] == 4000
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert "thinking" not in call(max_tokens=9000, most=1000, thinking={"type": "enabled", "budget_tokens": 8000})


def test_signatures_are_opened_and_foreign_thinking_is_left_out() -> None:
    own, hidden = shown_signature("signed"), hidden_signature("encrypted")
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": sealed(own.origin, own.value)},
        {"type": "redacted_thinking", "data": sealed(hidden.origin, hidden.value)},
        {"type": "thinking", "thinking": "b", "signature": sealed("gemini", "g")},
        {"type": "thinking", "thinking": "c", "signature": "not sealed by us"},
        {"type": "redacted_thinking", "data": sealed(own.origin, own.value)},
        {"type": "text", "text": "d"},
    ]

    assert call(messages=assistant(*blocks))["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "a", "signature": "signed"},
        {"type": "redacted_thinking", "data": "encrypted"},
        {"type": "thinking", "thinking": "", "signature": "signed"},
        {"type": "text", "text": "d"},
    ]


def test_a_message_of_foreign_thinking_alone_is_left_out() -> None:
    foreign = {"type": "thinking", "thinking": "b", "signature": sealed("gemini", "g")}
    messages = [*assistant(foreign), {"role": "user", "content": "go on"}]

    assert [each["content"] for each in call(messages=messages)["messages"]] == ["hi", "go on"]


def test_a_call_under_way_that_lost_its_thinking_goes_on_without_thinking() -> None:
    foreign = {"type": "thinking", "thinking": "b", "signature": sealed("gemini", "g")}
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]}
    own = shown_signature("signed")
    ours = {"type": "thinking", "thinking": "a", "signature": sealed(own.origin, own.value)}
    thinking = {"type": "enabled", "budget_tokens": 1024}

    lost = call(max_tokens=4000, thinking=thinking, messages=[*assistant(foreign, use), result])
    kept = call(max_tokens=4000, thinking=thinking, messages=[*assistant(ours, use), result])
    over = call(
        max_tokens=4000, thinking=thinking, messages=[*assistant(foreign, use), {"role": "user", "content": "x"}]
    )

    assert "thinking" not in lost
    assert kept["thinking"] == over["thinking"] == thinking


def test_citations_that_only_a_search_could_check_are_left_out() -> None:
    page = {"type": "page_location", "cited_text": "c", "document_index": 0}
    text = {"type": "text", "text": "a", "citations": [{"type": "web_search_result_location", "url": "u"}, page]}

    assert call(messages=assistant(text))["messages"][1]["content"] == [
        {"type": "text", "text": "a", "citations": [page]}
    ]


@pytest.mark.parametrize(
    "content", ["thinking", [{"type": 5, "thinking": "x"}], [5], [{"thinking": 1}], {"thinking": 1}]
)
def test_what_is_no_block_is_for_the_provider_to_refuse(content: Any) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]

    assert call(messages=messages)["messages"] == messages


# What comes back, whole


def test_a_whole_answer_is_read_block_by_block() -> None:
    completion, usage = said(
        message(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "See.", "citations": [{"type": "char_location", "cited_text": "c"}]},
            {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, 2]}},
            {"type": "tool_use", "id": "t1", "name": "g", "input": '{"b":1}'},
            {"type": "tool_use", "id": "t2", "name": "h", "input": {}},
            stop_reason="tool_use",
        )
    )

    assert list(completion.choices[0].blocks) == [
        ThinkingBlock("hm", shown_signature("s")),
        ThinkingBlock("", hidden_signature("d")),
        TextBlock("See.", [Citation("char_location", "c")]),
        ToolCall("t1", "f", '{"a":[1,2]}'),
        ToolCall("", "g", '{"b":1}'),
        ToolCall("t2", "h", "{}"),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].content == "See."
    assert usage == Usage(10, 20, 30, 40, 50, 5)


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
        ("pause_turn", "pause"),
        ("stop_sequence", "stop_sequence"),
        ("anything_new", "stop"),
    ],
)
def test_each_stop_reason_is_understood(stop_reason: str, finish_reason: str) -> None:
    completion, _ = said(message({"type": "text", "text": "a"}, stop_reason=stop_reason, stop_sequence="END"))

    assert completion.choices[0].finish_reason == finish_reason
    assert completion.choices[0].stop_sequence == "END"


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, Usage(3, output_tokens=4)),
        ({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 9}, Usage(3, 0, 9, 0, 4)),
        (
            {"input_tokens": 3, "output_tokens": 4, "cache_creation": {"ephemeral_1h_input_tokens": 9}},
            Usage(3, 0, 0, 9, 4),
        ),
        ({"output_tokens": 4}, Usage(0, output_tokens=4)),
        ({}, None),
        (None, None),
        ({"input_tokens": "3"}, Usage(-1)),
        ({"input_tokens": -3, "output_tokens": 4}, Usage(-1)),
    ],
)
def test_usage_is_read_into_disjoint_classes(sent: Any, usage: Usage | None) -> None:
    assert said(message({"type": "text", "text": "a"}, usage=sent))[1] == usage


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"content":[]}',
        b'{"content":"x","stop_reason":"end_turn"}',
        b'{"content":[{"type":"tool_use"}],"stop_reason":"tool_use"}',
        b'{"content":[{"type":"tool_use","name":"f","input":[1]}],"stop_reason":"tool_use"}',
        b'{"content":[],"stop_reason":null}',
        b'{"content":[{"type":"text","text":"\xff"}],"stop_reason":"end_turn"}',
    ],
)
def test_what_is_no_answer_is_a_bad_one(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        KIND.completion({}, body)


# What comes back, streamed


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())


def block(at: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    events = [event("content_block_start", index=at, content_block=start)]
    events += [event("content_block_delta", index=at, delta=delta) for delta in deltas]
    return b"".join([*events, event("content_block_stop", index=at)])


START = event("message_start", message={"id": "m", "content": [], "usage": {**USAGE, "output_tokens": 1}})
END = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 50}) + event("message_stop")
STREAM = b"".join(
    [
        START,
        event("ping"),
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "h"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "sig"},
        ),
        block(1, {"type": "redacted_thinking", "data": "d"}),
        block(
            2,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Zürich."},
            {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "c"}},
        ),
        event("something_new", index=9),
        block(
            3,
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"a'},
            {"type": "input_json_delta", "partial_json": '":1}'},
        ),
        block(4, {"type": "tool_use", "id": "t2", "name": "g", "input": {}}),
        END,
    ]
)
CHUNKS = [
    Chunk(0, reasoning="h", opens_block=True),
    Chunk(0, reasoning="m"),
    Chunk(0, signature=shown_signature("sig")),
    Chunk(0, signature=hidden_signature("d"), opens_block=True),
    Chunk(0, "Zürich.", opens_block=True),
    Chunk(0, citations=(Citation("char_location", "c"),)),
    Chunk(0, tool_calls=(ToolCallDelta(0, "t1", "f", ""),)),
    Chunk(0, tool_calls=(ToolCallDelta(0, "t1", "", '{"a'),)),
    Chunk(0, tool_calls=(ToolCallDelta(0, "t1", "", '":1}'),)),
    Chunk(0, tool_calls=(ToolCallDelta(1, "t2", "g", ""),)),
    Chunk(0, tool_calls=(ToolCallDelta(1, "t2", "", "{}"),)),
    Chunk(0, finish_reason="tool_calls"),
]


def read(*reads: bytes) -> tuple[list[Chunk], StreamReader]:
    reader = KIND.stream()
    return [chunk for data in reads for chunk in reader.feed(data)], reader


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_any_chunking_yields_the_same_chunks(cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    chunks, reader = read(*[STREAM[start:end] for start, end in pairwise(bounds)])
    reader.end()

    assert chunks == CHUNKS
    assert reader.is_done
    assert reader.usage == Usage(10, 20, 30, 40, 50, 5)
    assert reader.output_bytes == len("hm" + "f" + '{"a":1}' + "g" + "{}") + len("Zürich.".encode())


def test_usage_that_is_told_at_the_end_alone_counts() -> None:
    start = event("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}})
    _, reader = read(start, event("message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE))
    reader.end()

    assert reader.usage == Usage(10, 20, 30, 40, 50, 5)


def test_near_copies_are_read_as_they_mean_it() -> None:
    chunks, reader = read(
        b'data: {"type":"message_start","message":{}}\n\n',
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"He"}}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"llo"}}\n\n',
        b'data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":{"a":1}}}\n\n',
        b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
        b"data: [DONE]\n\n",
    )
    reader.end()

    assert chunks == [
        Chunk(0, "He", opens_block=True),
        Chunk(0, "llo"),
        Chunk(0, tool_calls=(ToolCallDelta(0, "", "f", ""),)),
        Chunk(0, tool_calls=(ToolCallDelta(0, "", "", '{"a":1}'),)),
        Chunk(0, finish_reason="tool_calls"),
    ]
    assert reader.usage is None


@pytest.mark.parametrize("cut", ["message_delta", "message_stop", ""])
def test_an_answer_is_whole_once_its_stop_reason_came(cut: str) -> None:
    stream = START + block(0, {"type": "text", "text": "a"}) + END
    _, reader = read(stream[: stream.find(b"event: " + cut.encode())] if cut else stream)

    if cut == "message_delta":
        with pytest.raises(BadAnswer):
            reader.end()
    else:
        reader.end()


def test_an_error_in_the_stream_comes_after_what_was_said() -> None:
    error = {"type": "overloaded_error", "message": "Overloaded"}
    chunks, reader = read(START + block(0, {"type": "text", "text": "a"}) + event("error", error=error))

    assert [chunk.content for chunk in chunks] == ["a"]
    assert reader.is_broken
    with pytest.raises(UpstreamError) as broken:
        reader.end()
    assert broken.value.failure.code is ErrorCode.MODEL_OVERLOADED


@pytest.mark.parametrize(
    "data",
    [
        event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{"}),
        event("content_block_start", index=0, content_block={"type": "tool_use"}),
        b"event: message_delta\ndata: {oops\n\n",
        b"data: [1]\n\n",
    ],
)
def test_what_is_no_event_breaks_the_answer(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(START, data)


# Errors


def failure(status: int, kind: str, message: str = "", **error: Any) -> Any:
    body = {"type": "error", "error": {"type": kind, "message": message, **error}, "request_id": "req_1"}
    return KIND.failure(status, {}, json.dumps(body).encode(), ())


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", ErrorCode.INPUT_VALIDATION_ERROR),
        (413, "request_too_large", ErrorCode.INPUT_VALIDATION_ERROR),
        (429, "rate_limit_error", ErrorCode.MODEL_OVERLOADED),
        (500, "api_error", ErrorCode.GENERATION_FAILED),
        (504, "timeout_error", ErrorCode.GENERATION_TIMEOUT),
        (529, "overloaded_error", ErrorCode.MODEL_OVERLOADED),
    ],
)
def test_each_error_has_our_code(status: int, kind: str, code: ErrorCode) -> None:
    told = failure(status, kind)

    assert told.code is code
    assert not told.is_ours
    assert told.is_rate_limit == (status == 429)


@pytest.mark.parametrize(
    "told",
    [
        failure(401, "authentication_error"),
        failure(402, "billing_error"),
        failure(403, "permission_error"),
        failure(429, "rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}),
        failure(400, "invalid_request_error", "Your credit balance is too low to access the API."),
    ],
)
def test_what_is_wrong_with_our_account_is_ours_and_no_wait_helps(told: Any) -> None:
    assert told.code is ErrorCode.MODEL_UNAVAILABLE
    assert told.is_our_credential
    assert not told.is_rate_limit


def test_an_unknown_model_is_ours_and_a_filter_is_the_callers() -> None:
    assert failure(404, "not_found_error", "model: x").is_our_model_name
    filtered = failure(400, "invalid_request_error", "Output blocked by content filtering policy")
    assert filtered.code is ErrorCode.CONTENT_MODERATION_REJECTED
    assert KIND.failure(502, {}, b"<html>", ()).code is ErrorCode.MODEL_UNAVAILABLE


def test_seals_are_opened_for_the_same_organisation_alone() -> None:
    assert opened(sealed("anthropic", "s|x")) == Signature("anthropic", "s|x")
    assert AROUND.open_sealed("wp1Axxxx") is None
