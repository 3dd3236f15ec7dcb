"""Conversations of other formats, written as Gemini's requests.

`WAYPOST_GENERATED=100000 ./run test tests/providers/test_gemini_build.py --timeout 0` generates that many.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.gemini_samples import read as read_gemini
from tests.wire.samples import GOLDEN, read
from waypost.providers import KINDS, gemini_build
from waypost.providers.gemini_build import SKIPS_VALIDATION
from waypost.providers.kind import Target
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Reasoning,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.formats import conversation_of

GENERATED = int(os.environ.get("WAYPOST_GENERATED", "150"))


def built(conversation: Conversation, model: str = "gemini-9") -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in gemini_build.build(conversation, model).items()}


def asked(**fields: Any) -> Conversation:
    body = {"model": "swift-1", "messages": [{"role": "user", "content": "hi"}]} | fields
    return conversation_of(read(json.dumps(body).encode()))


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_every_recorded_openai_request_can_be_asked_or_its_losses_are_named(folder: Path) -> None:
    request = read((folder / "request.json").read_bytes())
    losses = KINDS["gemini"].losses(conversation_of(request))
    expected = {"parallel_tool_calls", "the name of a participant"}
    assert set(losses) <= expected | {"logit_bias"}

    _, body = KINDS["gemini"].call(
        request, KINDS["gemini"].prepare(Target(b"host", "", "k", "gemini-9")), output_tokens_max=100
    )
    again = conversation_of(read_gemini(body))
    assert [turn.role for turn in again.turns if turn.parts]


def test_tools_choices_and_schemas() -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}}
    fields = built(
        asked(
            tools=[{"type": "function", "function": tool}],
            tool_choice={"type": "function", "function": {"name": "f"}},
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"$schema": "x", "oneOf": [{"const": 1}, {"type": "null"}]}},
            },
        )
    )

    declaration = {"name": "f", "parametersJsonSchema": tool["parameters"]}
    assert fields["tools"] == [{"functionDeclarations": [declaration]}]
    assert fields["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}
    assert fields["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"anyOf": [{"enum": [1]}, {"type": "null"}]},
    }


def test_a_strict_tool_is_validated() -> None:
    tool = {"name": "f", "strict": True, "parameters": {"type": "object"}}
    assert built(asked(tools=[{"type": "function", "function": tool}]))["toolConfig"] == {
        "functionCallingConfig": {"mode": "VALIDATED"}
    }


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"verbosity": "low"}, {"verbosity"}),
        ({"logit_bias": {"1": 1}}, {"logit_bias"}),
        ({"stop": list("abcdef")[:4]}, set()),
        (
            {"parallel_tool_calls": False, "tools": [{"type": "function", "function": {"name": "f"}}]},
            {"parallel_tool_calls"},
        ),
        ({"messages": [{"role": "user", "name": "ann", "content": "hi"}]}, {"the name of a participant"}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "n",
                        "strict": True,
                        "schema": {"properties": {"a": {"type": "string", "pattern": "x", "minLength": 1}}},
                    },
                }
            },
            {"'pattern' in the schema of the answer", "'minLength' in the schema of the answer"},
        ),
        ({"user": "u", "service_tier": "flex", "seed": 1, "temperature": 1}, set()),
    ],
)
def test_what_cannot_be_said_is_named(fields: dict[str, Any], lost: set[str]) -> None:
    assert set(gemini_build.losses(asked(**fields))) == lost


@pytest.mark.parametrize(
    ("reasoning", "model", "config"),
    [
        (Reasoning(effort="high"), "gemini-3-pro", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        (Reasoning(effort="high"), "gemini-2.5-pro", {"includeThoughts": True, "thinkingBudget": 24_576}),
        (Reasoning(effort="none"), "gemini-2.5-flash", {"includeThoughts": False, "thinkingBudget": 0}),
        (Reasoning(budget_tokens=77, shows=False), "gemini-9", {"includeThoughts": False, "thinkingBudget": 77}),
        (Reasoning(is_adaptive=True), "gemini-9", {"includeThoughts": True}),
    ],
)
def test_thinking_is_asked_for_as_the_family_takes_it(reasoning: Reasoning, model: str, config: dict[str, Any]) -> None:
    conversation = Conversation([], [Turn("user", [Text("a")])], reasoning=reasoning)
    assert built(conversation, model)["generationConfig"]["thinkingConfig"] == config


def test_calls_made_elsewhere_are_marked_so_that_a_model_that_thinks_takes_them() -> None:
    ours, foreign = Signature("gemini", "EqQB"), Signature("anthropic", "ErUB")
    made = built(
        Conversation(
            [],
            [
                Turn("assistant", [Thinking("x", foreign), Call("1", "f", "{}", foreign), Call("2", "g", '{"a":1}')]),
                Turn("user", [Result("1", [Text("1")], name="f"), Result("2", [Text("no")], is_error=True)]),
                Turn("assistant", [Thinking("y", ours), Call("3", "f", "{}", ours)]),
            ],
        )
    )["contents"]

    assert made[0]["parts"] == [
        {"functionCall": {"name": "f", "args": {}, "id": "1"}, "thoughtSignature": SKIPS_VALIDATION},
        {"functionCall": {"name": "g", "args": {"a": 1}, "id": "2"}},
    ]
    assert made[1]["parts"] == [
        {"functionResponse": {"name": "f", "id": "1", "response": {"output": "1"}}},
        {"functionResponse": {"name": "g", "id": "2", "response": {"error": "no"}}},
    ]
    assert made[2]["parts"] == [
        {"text": "y", "thought": True, "thoughtSignature": "EqQB"},
        {"functionCall": {"name": "f", "args": {}, "id": "3"}, "thoughtSignature": "EqQB"},
    ]


# ── there and back ──────────────────────────────────────────────────────────────────────────────────────────────────

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    ['{"a":1}', '{"output":"x"}', '{ "a": 1 }', "[1]", "{}", '{"error":"x"}', '{"a":1.50}', '{"ä":1}']
)
names = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(names, values, max_size=3).map(lambda value: msgspec.json.encode(value).decode())
media = st.builds(
    Media,
    kind=st.just("image"),
    media_type=st.just("image/png"),
    data=st.sampled_from(["iVBORw0KGgo=", "AAAA"]),
)
results = st.builds(
    Result,
    call_id=names,
    parts=st.lists(texts.map(Text), min_size=1, max_size=1),
    is_error=st.booleans(),
    name=names,
)
user_parts: st.SearchStrategy[Part] = st.one_of(texts.map(Text), media, results)
model_parts: st.SearchStrategy[Part] = st.one_of(
    texts.map(Text), st.builds(Call, id=names, name=names, arguments=objects)
)
turns = st.builds(Turn, role=st.just("user"), parts=st.lists(user_parts, min_size=1, max_size=3)) | st.builds(
    Turn, role=st.just("assistant"), parts=st.lists(model_parts, min_size=1, max_size=3)
)
schemas = names.map(lambda name: json.dumps({"type": "object", "properties": {name: {"type": "string"}}}))
tools = st.builds(Tool, name=names, description=st.just("") | texts, parameters=schemas)
conversations = st.builds(
    Conversation,
    system=st.lists(texts.map(Text), max_size=2),
    turns=st.lists(turns, min_size=1, max_size=4),
    tools=st.lists(tools, max_size=2),
    tool_choice=st.none() | st.sampled_from([ToolChoice("auto"), ToolChoice("none"), ToolChoice("required")]),
    n=st.integers(1, 8),
    output_tokens_max=st.none() | st.integers(1, 10_000),
    temperature=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.none() | st.integers(1, 100),
    seed=st.none() | st.integers(-(2**31), 2**31 - 1),
    stop=st.lists(texts, max_size=3),
    output=st.none() | st.builds(JsonOutput) | st.builds(JsonOutput, schema=schemas),
    reasoning=st.none()
    | st.builds(Reasoning, effort=st.sampled_from(["minimal", "low", "medium", "high"]), shows=st.booleans()),
    logprobs=st.booleans(),
)


@settings(max_examples=GENERATED, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversation=conversations)
def test_a_generated_conversation_keeps_its_meaning_there_and_back(conversation: Conversation) -> None:
    assert gemini_build.losses(conversation) == ()
    again = conversation_of(read_gemini(built(conversation)))

    expected = json.loads(msgspec.json.encode(conversation))
    if not conversation.tools:
        expected["tool_choice"] = None
    for tool in expected["tools"]:
        tool["parameters"] = json.loads(tool["parameters"])
    actual = json.loads(msgspec.json.encode(again))
    for tool in actual["tools"]:
        tool["parameters"] = json.loads(tool["parameters"])
    for output in (expected["output"], actual["output"]):
        if output and output["schema"]:
            output["schema"] = json.loads(output["schema"])
    assert actual == expected
    assert SKIPS_VALIDATION not in str(actual)
