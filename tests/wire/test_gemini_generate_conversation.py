from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.gemini_samples import SAID, converse, sealed
from waypost.kit.errors import Refusal
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    Call,
    JsonOutput,
    Media,
    Reasoning,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.gemini_thought import hide

OURS = Signature("gemini", "EqQB")


def test_roles_system_and_parts_have_their_place() -> None:
    conversation = converse(
        {"parts": [{"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]},
        {"role": "model", "parts": [{"text": "hm", "thought": True, "thoughtSignature": sealed(OURS)}, {"text": "a"}]},
        {"role": "user", "parts": [{"fileData": {"fileUri": "https://example.org/a.pdf"}}]},
        systemInstruction={"parts": [{"text": "be"}, {"text": "brief"}]},
    )

    assert conversation.system == [Text("be"), Text("brief")]
    assert conversation.turns == [
        Turn("user", [Text("look"), Media("image", "image/png", "iVBO")]),
        Turn("assistant", [Thinking("hm", OURS), Text("a")]),
        Turn("user", [Media("document", url="https://example.org/a.pdf")]),
    ]


def test_calls_and_results_are_tied_by_id_or_by_name_and_order() -> None:
    call, result = {"functionCall": {"name": "f", "args": {"a": 1}}}, {"functionResponse": {"name": "f"}}
    conversation = converse(
        {"role": "model", "parts": [{**call, "thoughtSignature": sealed(OURS)}, call]},
        {"role": "user", "parts": [result, {"functionResponse": {"name": "f", "response": {"output": "2"}}}]},
        {"role": "model", "parts": [{"functionCall": {"id": "x", "name": "g"}}]},
        {"role": "function", "parts": [{"functionResponse": {"id": "x", "name": "g", "response": {"error": "no"}}}]},
    )

    assert [turn.parts for turn in conversation.turns] == [
        [Call("call_0", "f", '{"a":1}', OURS), Call("call_1", "f", '{"a":1}')],
        [Result("call_0", [Text("{}")], name="f"), Result("call_1", [Text("2")], name="f")],
        [Call("x", "g", "{}")],
        [Result("x", [Text("no")], is_error=True, name="g")],
    ]


def test_a_result_may_hold_an_object_and_media() -> None:
    sent = {"name": "f", "response": {"a": 1}, "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]}
    conversation = converse({"parts": [{"functionResponse": sent}]})

    assert conversation.turns[0].parts == [
        Result("f", [Text('{"a":1}'), Media("image", "image/png", "iVBO")], name="f")
    ]


def test_a_foreign_signature_is_dropped_and_one_of_hidden_thinking_kept() -> None:
    conversation = converse(
        {"role": "model", "parts": [{"text": "a", "thoughtSignature": "Zm9yZWlnbg=="}]},
        {"role": "model", "parts": [{"text": "", "thoughtSignature": sealed(OURS)}]},
    )

    assert [turn.parts for turn in conversation.turns] == [[Text("a")], [Thinking("", OURS)]]


def test_thinking_comes_back_whole_shown_in_pieces_or_not_shown() -> None:
    theirs = Signature("anthropic", "ErUB")
    conversation = converse(
        {
            "role": "model",
            "parts": [
                {"text": "h", "thought": True},
                {"text": "m", "thought": True},
                {"text": "", "thoughtSignature": sealed(theirs)},
                {"text": "", "thoughtSignature": sealed(hide("so", theirs))},
                {"text": "a"},
            ],
        },
    )

    assert conversation.turns[0].parts == [Thinking("hm", theirs), Thinking("so", theirs), Text("a")]


def test_functions_come_with_either_kind_of_schema() -> None:
    own = {
        "type": "OBJECT",
        "properties": {
            "max_items": {"type": "STRING", "nullable": True, "enum": ["a"]},
            "b": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "2"},
        },
        "propertyOrdering": ["max_items", "b"],
    }
    plain = {"type": "object", "properties": {"c": {"type": "string"}}}
    conversation = converse(
        tools=[
            {"functionDeclarations": [{"name": "f", "description": "d", "parameters": own}, {"name": "g"}]},
            {"function_declarations": [{"name": "h", "parameters_json_schema": plain}]},
        ],
        toolConfig={"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}},
    )

    expected = {
        "type": "object",
        "properties": {
            "max_items": {"type": ["string", "null"], "enum": ["a", None]},
            "b": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        },
    }
    tools = [Tool(t.name, t.description, json.loads(t.parameters or "null")) for t in conversation.tools]
    assert tools == [Tool("f", "d", expected), Tool("g", "", None), Tool("h", "", plain)]  # type: ignore[arg-type]
    assert conversation.tool_choice == ToolChoice("required", ["f", "g"])


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"mode": "AUTO"}, ToolChoice("auto")),
        ({"mode": "NONE"}, ToolChoice("none")),
        ({"mode": "any", "allowed_function_names": ["f"]}, ToolChoice("tool", ["f"])),
        ({"mode": "VALIDATED"}, ToolChoice("auto")),
    ],
)
def test_calling_modes(config: dict[str, Any], choice: ToolChoice) -> None:
    assert converse(tool_config={"function_calling_config": config}).tool_choice == choice


@pytest.mark.parametrize(
    ("config", "reasoning"),
    [
        ({"thinkingBudget": 0}, Reasoning(effort="none", shows=False)),
        ({"thinkingBudget": -1, "includeThoughts": True}, Reasoning(is_adaptive=True)),
        ({"thinkingBudget": 512}, Reasoning(budget_tokens=512, shows=False)),
        ({"thinkingLevel": "low"}, Reasoning(effort="low", shows=False)),
    ],
)
def test_thinking(config: dict[str, Any], reasoning: Reasoning) -> None:
    assert converse(generationConfig={"thinkingConfig": config}).reasoning == reasoning


def test_generation_configuration() -> None:
    config = {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "maxOutputTokens": 10,
        "stopSequences": ["x"],
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "candidateCount": 2,
        "responseLogprobs": True,
        "logprobs": 3,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    c = converse(generationConfig=config)

    assert (c.temperature, c.top_p, c.top_k, c.output_tokens_max, c.seed) == (0.5, 0.9, 40, 10, 7)
    assert (c.stop, c.presence_penalty, c.frequency_penalty, c.n) == (["x"], 0.1, 0.2, 2)
    assert (c.logprobs, c.top_logprobs, c.output) == (True, 3, JsonOutput('{"type":"object"}'))
    assert converse(generationConfig={"responseMimeType": "application/json"}).output == JsonOutput()


def test_what_has_no_place_in_a_conversation_is_named() -> None:
    conversation = converse(
        {"role": "model", "parts": [{"text": "a", "videoMetadata": {}}]},
        tools=[{"computerUse": {}}],
        toolConfig={"retrievalConfig": {}},
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}],
        generationConfig={"responseModalities": ["IMAGE"], "speechConfig": {}},
        labels={"a": "b"},
        newThing=1,
    )

    assert set(conversation.unknown) == {
        "contents[0].parts.videoMetadata",
        "tools[0].computerUse",
        "toolConfig.retrievalConfig",
        "safetySettings",
        "generationConfig.responseModalities",
        "generationConfig.speechConfig",
        "newThing",
    }
    allows_all = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert not converse(safetySettings=allows_all, generationConfig={"responseModalities": ["TEXT"]}).unknown


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": "a", "functionCall": {"args": {}}}]}]}, None),
        ({"toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "deep"}}}, None),
        ({"generationConfig": {"responseMimeType": "image/png"}}, "generationConfig.responseMimeType"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_place(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        converse(*fields.pop("contents", SAID), **fields)

    assert param is None or refused.value.param == param
