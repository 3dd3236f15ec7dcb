"""OpenAI Responses as a caller's format: what is refused, what a conversation keeps, and how an answer breaks."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseErrorEvent

from tests.wire.samples import AROUND, ENVELOPE
from tests.wire.test_openai_responses_golden import (
    FORMAT,
    GOLDEN,
    KIND,
    OURS,
    STREAMED,
    TARGET,
    answered_streamed,
    ask,
    events_of,
    identity,
)
from tests.wire.test_openai_responses_golden import read as golden_read
from waypost.kit.errors import ErrorCode, Refusal
from waypost.providers import KINDS, openai_responses_build
from waypost.providers.kind import UpstreamError
from waypost.wire.canonical import Chunk, Signature, ToolCallDelta, Usage
from waypost.wire.conversation import (
    CacheMark,
    Call,
    Conversation,
    Media,
    Reasoning,
    Result,
    Text,
    Thinking,
    ToolChoice,
    Turn,
)
from waypost.wire.formats import conversation_of
from waypost.wire.request import MORE_THAN_A_CONTEXT, ChatRequest

PNG = "data:image/png;base64,iVBORw0KGgo="


def read(asked: object = "hi", **fields: Any) -> ChatRequest:
    return FORMAT.read(json.dumps({"model": "swift-1", "input": asked} | fields).encode(), AROUND)


def converse(asked: object = "hi", **fields: Any) -> Conversation:
    return conversation_of(read(asked, **fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "a"}, {"type": "computer_call"}]}, "input[1]"),
        ({"input": [{"content": "a"}]}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "encrypted_content": 7}]}, "input[0].encrypted_content"),
        ({"input": 7}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"truncation": "sometimes"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "warm"}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(**{"asked": fields.pop("input", "hi"), **fields})

    assert (refused.value.code, refused.value.param) == (ErrorCode.INPUT_VALIDATION_ERROR, param)


def test_what_nobody_asked_for_may_be_null() -> None:
    fields = dict.fromkeys(("previous_response_id", "conversation", "prompt", "background", "tools", "text", "store"))

    assert json.loads(KIND.call(read(**fields), TARGET, output_tokens_max=None)[1])["store"] is False


def test_images_are_counted_wherever_they_stand_and_files_of_unknown_length_as_more_than_fits() -> None:
    image = {"type": "input_image", "image_url": PNG}
    output = {"type": "function_call_output", "call_id": "c", "output": [image]}
    request = read([{"role": "user", "content": [image, {"type": "input_text", "text": "x"}]}, output])

    assert request.image_count == 2
    assert request.text_bytes == len(json.dumps({"model": "swift-1", "input": []})) + len(
        bytes(request.fields["input"])
    ) - 2 - 2 * len(PNG)
    by_url = {"type": "input_file", "file_url": "https://example.org/a.pdf"}
    assert read([{"role": "user", "content": [by_url]}]).image_count == MORE_THAN_A_CONTEXT
    inline = {"type": "input_file", "file_data": "data:application/pdf;base64,JVBE"}
    assert read([{"role": "user", "content": [inline]}]).image_count == MORE_THAN_A_CONTEXT
    text = {"type": "input_file", "file_data": "data:text/plain;base64,aGk="}
    assert read([{"role": "user", "content": [text]}]).image_count == 0
    assert read([{"role": "user", "content": [{**text, "file_url": "https://x"}]}]).image_count == MORE_THAN_A_CONTEXT


# ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_recorded_request_keeps_its_meaning_through_a_conversation(folder: Path) -> None:
    sent = json.loads((folder / "request.json").read_bytes())
    conversation = conversation_of(golden_read(json.dumps(sent).encode()))

    assert openai_responses_build.losses(conversation) == ()
    built = openai_responses_build.build(conversation, OURS.origin)
    fields = {name: msgspec.json.decode(value) for name, value in built.items()}
    for item in fields["input"]:
        if item["type"] == "reasoning":  # as it would come back: sealed by us
            item["encrypted_content"] = ENVELOPE.seal(Signature(OURS.origin, item["encrypted_content"]), b"o" * 16)
    fields.pop("store")
    again = converse(fields.pop("input"), **fields)
    again.service_tier, conversation.service_tier = "", ""  # not for providers
    for turn in conversation.turns:
        turn.parts = [part if not isinstance(part, Text) else Text(part.text) for part in turn.parts]  # cache marks
    for tool in (*conversation.tools, *again.tools):
        tool.is_strict = bool(tool.is_strict)
    if conversation.reasoning is not None:
        assert again.reasoning == conversation.reasoning
    assert again == conversation


def test_what_an_assistant_said_in_several_items_is_one_turn() -> None:
    sealed = ENVELOPE.seal(OURS, b"o" * 16)
    conversation = converse(
        [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "input_text", "text": "b", "prompt_cache_breakpoint": {}}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": sealed},
            {"role": "assistant", "content": "c"},
            {"type": "function_call", "call_id": "k1", "name": "f", "arguments": ""},
            {"type": "function_call", "call_id": "k2", "name": "g", "arguments": '{"a":1}'},
            {"type": "function_call_output", "call_id": "k1", "output": "1"},
            {
                "type": "function_call_output",
                "call_id": "k2",
                "output": [{"type": "input_image", "image_url": PNG, "detail": "auto"}],
            },
            {"role": "developer", "content": "d"},
        ],
        instructions="first",
    )

    assert [part.text for part in conversation.system] == ["first", "a"]
    assert conversation.turns == [
        Turn("user", [Text("b", CacheMark("1h"))]),
        Turn(
            "assistant",
            [Thinking("hm"), Thinking("", OURS), Text("c"), Call("k1", "f", "{}"), Call("k2", "g", '{"a":1}')],
        ),
        Turn(
            "user",
            [
                Result("k1", [Text("1")], name="f"),
                Result("k2", [Media("image", "image/png", "iVBORw0KGgo=")], name="g"),
            ],
        ),
        Turn("system", [Text("d")]),
    ]


def test_fields_find_their_place_and_those_without_one_are_named() -> None:
    conversation = converse(
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
        tools=[{"type": "function", "name": "f", "parameters": None}],
        reasoning={"summary": "auto", "context": "all_turns"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        top_logprobs=3,
        include=["message.output_text.logprobs"],
        truncation="auto",
        context_management=[{"type": "compaction"}],
        stop=["x"],
        metadata={"a": "b"},
        store=True,
    )

    assert conversation.tool_choice == ToolChoice("required", ["f"])
    assert conversation.reasoning == Reasoning(is_adaptive=True)
    assert conversation.output is not None
    assert (conversation.output.schema, conversation.verbosity) == ("", "low")
    assert (conversation.logprobs, conversation.top_logprobs) == (True, 3)
    assert set(conversation.unknown) == {"truncation", "context_management", "stop", "reasoning.context"}


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ({"role": "robot", "content": "a"}, "input[0].role", ErrorCode.INPUT_VALIDATION_ERROR),
        ({"role": "user", "content": [{"type": "hologram"}]}, "input[0].content[0]", ErrorCode.INPUT_VALIDATION_ERROR),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
            "input[0].content[0].file_id",
            ErrorCode.FILE_NOT_FOUND,
        ),
        ({"type": "function_call", "name": "f"}, "input[0].call_id", ErrorCode.INPUT_VALIDATION_ERROR),
        ({"type": "function_call", "call_id": "c"}, "input[0].name", ErrorCode.INPUT_VALIDATION_ERROR),
        ({"type": "function_call_output", "output": ""}, "input[0].call_id", ErrorCode.INPUT_VALIDATION_ERROR),
    ],
)
def test_an_item_that_makes_no_sense_is_refused_by_its_place(item: dict[str, Any], param: str, code: ErrorCode) -> None:
    with pytest.raises(Refusal) as refused:
        converse([item])

    assert (refused.value.code, refused.value.param) == (code, param)


def test_a_signed_call_brings_its_signature_back() -> None:
    request = read(tools=[{"type": "function", "name": "f"}], stream=True)
    signature = Signature("gemini", "CiQB")
    writer = FORMAT.stream(request, identity(request))
    answer = writer.render(
        [Chunk(0, tool_calls=[ToolCallDelta(0, "", "f", "{}", signature)], finish_reason="tool_calls")]
    )
    output = events_of(answer + writer.finish(Usage(), "0"))[-1]["response"]["output"]

    assert [item["type"] for item in output] == ["reasoning", "function_call"]
    again = converse([{"role": "user", "content": "a"}, *output]).turns[1]
    assert again.parts == [Call(output[1]["call_id"], "f", "{}", signature)]


# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────

LONGEST = max(STREAMED, key=lambda name: len((GOLDEN / name / "upstream.sse").read_bytes()))


@settings(database=None, deadline=None, max_examples=60)
@given(name=st.sampled_from(STREAMED), data=st.data())
def test_any_chunking_of_the_provider_reads_the_same_to_the_caller(name: str, data: st.DataObject) -> None:
    stream = (GOLDEN / name / "upstream.sse").read_bytes()
    cuts = data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=30))
    edges = [0, *sorted(cuts), len(stream)]
    reads = [stream[a:b] for a, b in pairwise(edges)]

    answer = answered_streamed(ask(name), reads)

    assert len(events_of(answer)) == len(events_of((GOLDEN / name / "answer.sse").read_bytes()))


def test_a_broken_stream_ends_in_an_error_that_sdks_raise_and_no_end() -> None:
    request = ask("text")
    writer = FORMAT.stream(request, identity(request))
    writer.render([Chunk(0, "It began")])
    (event,) = events_of(writer.fail(Refusal(ErrorCode.GENERATION_FAILED), "req_1"))

    assert event["error"]["code"] == "GENERATION_FAILED"
    assert ResponseErrorEvent.model_validate(event).code == "GENERATION_FAILED"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"type": "error", "code": "server_error", "message": "x"}, ErrorCode.GENERATION_FAILED),
        ({"type": "error", "error": {"code": "rate_limit_exceeded"}}, ErrorCode.MODEL_OVERLOADED),
        (
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "invalid_image_url"}}},
            ErrorCode.FILE_NOT_FOUND,
        ),
        (
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "invalid_prompt"}}},
            ErrorCode.CONTENT_MODERATION_REJECTED,
        ),
        ({"type": "response.failed", "response": {"status": "failed"}}, ErrorCode.GENERATION_FAILED),
    ],
)
def test_a_first_event_is_no_success(event: dict[str, Any], code: ErrorCode) -> None:
    reader = KIND.stream(target=TARGET)
    created = {"type": "response.created", "response": {"status": "in_progress", "output": []}}

    assert reader.feed(b"data: %b\n\n" % json.dumps(created).encode()) == []
    with pytest.raises(UpstreamError) as failed:
        reader.feed(b"data: %b\n\n" % json.dumps(event).encode())
    assert failed.value.failure.code is code


def test_a_provider_of_chat_completions_answers_a_responses_caller() -> None:
    chat = KINDS["openai"]
    request = read("Weather?", tools=[{"type": "function", "name": "f", "parameters": {}}], stream=True)
    recorded = Path(__file__).parent / "golden" / "tools_parallel" / "upstream.sse"
    reader, writer = chat.stream(), FORMAT.stream(request, identity(request))
    answer = writer.render(reader.feed(recorded.read_bytes())) + writer.finish(reader.usage or Usage(), "0.1")

    response = events_of(answer)[-1]["response"]
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert len(calls) >= 2
    assert all(json.loads(call["arguments"]) is not None for call in calls)
    _, body = chat.call(request, TARGET, output_tokens_max=100)
    assert json.loads(body)["messages"] == [{"role": "user", "content": "Weather?"}]
