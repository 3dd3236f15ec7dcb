from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.wire.samples import ENVELOPE, GOLDEN, read
from waypost.kit.errors import Refusal
from waypost.providers import openai_build
from waypost.wire.canonical import Signature
from waypost.wire.conversation import CacheMark, Call, Conversation, Media, Result, Text, Thinking, ToolChoice, Turn
from waypost.wire.formats import conversation_of

PNG = "data:image/png;base64,iVBORw0KGgo="
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}


def converse(*messages: dict[str, Any], **fields: Any) -> Conversation:
    body = {"model": "swift-1", "messages": messages or [{"role": "user", "content": "hi"}]} | fields
    return conversation_of(read(json.dumps(body).encode()))


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_recorded_request_keeps_its_meaning_through_a_conversation(folder: Path) -> None:
    sent = json.loads((folder / "request.json").read_bytes())
    sent.pop("top_k", None)  # a relative's field, which OpenAI itself does not have
    conversation = conversation_of(read(json.dumps(sent).encode()))

    assert openai_build.losses(conversation) == ()
    built = {name: msgspec.json.decode(value) for name, value in openai_build.build(conversation).items()}
    again = conversation_of(read(json.dumps({"model": "swift-1"} | built).encode()))
    assert again == conversation


def test_system_messages_at_the_beginning_are_the_system_prompt_and_later_ones_stay_where_they_are() -> None:
    conversation = converse(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"},
        {"role": "system", "content": "d"},
    )

    assert [part.text for part in conversation.system] == ["a", "b"]
    assert [turn.role for turn in conversation.turns] == ["user", "system"]


def test_results_of_parallel_calls_make_one_turn_and_know_their_function() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    conversation = converse(
        CALLED, result, {**result, "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]}
    )

    assert conversation.turns[1:] == [
        Turn("user", [Result("c1", [Text("1")], name="f"), Result("c2", [Text("2")], name="")])
    ]


def test_media_parts_carry_their_type_and_data_or_their_address() -> None:
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
    ]

    assert converse({"role": "user", "content": parts}).turns[0].parts == [
        Text("look", CacheMark("1h")),
        Media("image", "image/png", "iVBORw0KGgo=", detail="low"),
        Media("image", url="https://example.org/a.png"),
        Media("audio", "audio/mpeg", "UklG"),
        Media("document", "application/pdf", "JVBE", title="a.pdf"),
    ]


def test_reasoning_comes_back_with_the_signature_that_we_sealed_and_without_a_foreign_one() -> None:
    ours, foreign = Signature("anthropic", "EqQB"), "EqQBCgIYAg=="
    details = [{"text": "hm", "signature": ENVELOPE.seal(ours, b"o" * 16)}, {"text": "so", "signature": foreign}]

    assert converse({"role": "assistant", "content": "a", "reasoning_details": details}).turns[0].parts == [
        Thinking("hm", ours),
        Thinking("so"),
        Text("a"),
    ]


def test_legacy_functions_are_tools() -> None:
    conversation = converse(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "1"},
        functions=[{"name": "f"}],
        function_call={"name": "f"},
    )

    assert conversation.tool_choice == ToolChoice("tool", ["f"])
    assert [tool.name for tool in conversation.tools] == ["f"]
    assert conversation.turns[0].parts == [Call("f", "f", '{"a":1}')]
    assert conversation.turns[1].parts == [Result("f", [Text("1")], name="f")]


def test_what_has_no_place_in_a_conversation_is_named() -> None:
    conversation = converse(
        {"role": "assistant", "audio": {"id": "a"}},
        CALLED,
        logit_bias={"1": 2},
        prediction=None,
        metadata={"a": "b"},
        tools=[{"type": "custom"}],
    )

    assert set(conversation.unknown) == {"logit_bias", "messages[0].audio", "tools[0]"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "a"}, "messages[0].role"),
        ({"role": "tool", "content": "a"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": 7}, "messages[0].content"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_by_its_place(message: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        converse(message)

    assert refused.value.param == param
