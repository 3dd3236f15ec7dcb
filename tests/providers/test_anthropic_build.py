"""A conversation on its way to Anthropic: what is written, and that reading it again gives the same conversation."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.providers.anthropic_build import CACHE_MARKS_MAX, build, losses
from waypost.providers.anthropic_fields import shown_signature
from waypost.providers.anthropic_schema import input_schema, output_schema
from waypost.wire.anthropic_messages import read_request
from waypost.wire.anthropic_messages_conversation import converse
from waypost.wire.canonical import Signature
from waypost.wire.conversation import (
    CacheMark,
    Call,
    Conversation,
    JsonOutput,
    Media,
    Reasoning,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.request import Around

AROUND = Around(shown_signature, pseudonym=lambda user: f"p-{user}")
HI = [Turn("user", [Text("hi")])]
TOOL = Tool("f", "does f", '{"type":"object","properties":{"a":{"type":"integer"}}}')
EXAMPLES = int(os.environ.get("WAYPOST_CONVERSATIONS", "200"))


def built(turns: list[Turn] | None = None, *, model: str = "kimi", most: int = 8192, **fields: Any) -> dict[str, Any]:
    conversation = Conversation(fields.pop("system", []), turns or HI, **fields)
    return {name: json.loads(bytes(value)) for name, value in build(conversation, AROUND, model, most).items()}


def test_turns_of_one_role_become_one_message_with_results_first() -> None:
    turns = [
        Turn("assistant", [Text("I begin.")]),
        Turn("user", [Text("a")]),
        Turn("system", [Text("b")]),
        Turn("assistant", [Text("c"), Call("id 1", "f", "{}")]),
        Turn("user", [Text("d")]),
        Turn("user", [Result("id 1", [Text("e")], is_error=True), Result("t2", [Media("image", "image/png", "AA==")])]),
    ]
    messages = built(turns)["messages"]

    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["text"] for block in messages[2]["content"]] == ["a", "b"]
    call = messages[3]["content"][1]
    first, second = messages[4]["content"][:2]
    assert first == {"type": "tool_result", "tool_use_id": call["id"], "content": "e", "is_error": True}
    assert call["id"].startswith("toolu_")
    assert second["content"][0]["source"] == {"type": "base64", "media_type": "image/png", "data": "AA=="}
    assert messages[4]["content"][2] == {"type": "text", "text": "d"}


def test_blanks_are_no_text_and_do_not_end_what_is_to_be_gone_on_from() -> None:
    messages = built(
        [Turn("user", [Text(" \n"), Text("a")]), Turn("user", [Text("")]), Turn("assistant", [Text("b \n")])]
    )

    assert messages["messages"][0]["content"] == [{"type": "text", "text": "a"}]
    assert messages["messages"][1]["content"] == [{"type": "text", "text": "b"}]


def test_documents_are_sent_as_pages_text_or_by_address() -> None:
    text = Media("document", "text/markdown", base64.b64encode("# Zürich".encode()).decode(), title="T", context="C")
    page = Media("document", "application/pdf", "JVBERi0=", wants_citations=True, cache=CacheMark("1h"))
    far = Media("document", url="https://example.org/a.pdf")
    content = built([Turn("user", [text, page, far])])["messages"][0]["content"]

    assert content[0] == {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "# Zürich"},
        "title": "T",
        "context": "C",
    }
    assert content[1]["source"] == {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert content[1]["citations"] == {"enabled": True}
    assert content[1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert content[2]["source"] == {"type": "url", "url": "https://example.org/a.pdf"}


def test_no_more_caches_are_asked_for_than_there_may_be() -> None:
    parts = [Text(str(at), CacheMark()) for at in range(6)]
    content = built([Turn("user", parts)], system=[Text("s", CacheMark())])

    marked = [block["text"] for block in content["messages"][0]["content"] if "cache_control" in block]
    assert marked == ["2", "3", "4", "5"]
    assert len(marked) == CACHE_MARKS_MAX
    assert "cache_control" not in content["system"][0]


@pytest.mark.parametrize(
    ("choice", "is_parallel", "written"),
    [
        (None, None, None),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), None, {"type": "none"}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("tool", ["f"]), None, {"type": "tool", "name": "f"}),
        (ToolChoice("required", ["f", "g"]), None, {"type": "any"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choices(choice: ToolChoice | None, is_parallel: bool | None, written: Any) -> None:
    body = built(tools=[TOOL, Tool("h")], tool_choice=choice, is_parallel=is_parallel)

    assert body.get("tool_choice") == written
    assert [tool["name"] for tool in body["tools"]] == (["f"] if choice is not None and choice.names else ["f", "h"])
    assert "tool_choice" not in built(tool_choice=choice)


@pytest.mark.parametrize(
    ("reasoning", "model", "most", "written"),
    [
        (Reasoning(effort="low"), "kimi-k3", 8192, {"type": "enabled", "budget_tokens": 4096}),
        (Reasoning(effort="high"), "claude-sonnet-4-5-20250929", 8192, {"type": "enabled", "budget_tokens": 4096}),
        (Reasoning(effort="minimal"), "claude-3-7-sonnet-latest", 1024, None),
        (Reasoning(budget_tokens=3000), "glm", 9000, {"type": "enabled", "budget_tokens": 3000}),
        (Reasoning(effort="none"), "kimi", 8192, {"type": "disabled"}),
        (Reasoning(budget_tokens=0), "kimi", 8192, {"type": "disabled"}),
        (Reasoning(effort="medium"), "claude-opus-4-7", 8192, {"type": "adaptive", "display": "summarized"}),
        (Reasoning(is_adaptive=True, shows=False), "claude-opus-5", 8192, {"type": "adaptive", "display": "omitted"}),
        (Reasoning(is_adaptive=True), "kimi", 8192, {"type": "enabled", "budget_tokens": 4096}),
    ],
)
def test_reasoning_becomes_what_the_model_takes(reasoning: Reasoning, model: str, most: int, written: Any) -> None:
    body = built(reasoning=reasoning, model=model, most=most, temperature=0.5)

    assert body.get("thinking") == written
    assert ("temperature" in body) == (written in (None, {"type": "disabled"}))
    assert body.get("output_config") == ({"effort": "medium"} if reasoning.effort == "medium" else None)


def test_a_tool_that_must_be_called_wins_over_thinking_and_so_does_a_call_under_way() -> None:
    low = Reasoning(effort="low")
    calling = [*HI, Turn("assistant", [Call("t", "f", "{}")]), Turn("user", [Result("t", [Text("1")])])]
    signed = [*HI, Turn("assistant", [Thinking("a", shown_signature("s")), Call("t", "f", "{}")]), calling[2]]

    assert "thinking" not in built(reasoning=low, tools=[TOOL], tool_choice=ToolChoice("required"))
    assert "thinking" not in built(calling, reasoning=low, tools=[TOOL])
    assert "thinking" in built(signed, reasoning=low, tools=[TOOL])


def test_sampling_stops_users_and_json() -> None:
    body = built(temperature=1.7, top_p=0.5, top_k=3, stop=["a", " "], user="ada", output=JsonOutput())

    assert (body["temperature"], body["top_k"], body["stop_sequences"]) == (1, 3, ["a"])
    assert "top_p" not in body
    assert body["metadata"] == {"user_id": "p-ada"}
    assert "JSON" in body["system"]
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
    form = built(output=JsonOutput(json.dumps(schema)))["output_config"]["format"]
    assert form["schema"]["additionalProperties"] is False
    assert form["schema"]["properties"]["a"] == {"type": "integer", "description": '{"minimum":1}'}


def test_schemas_are_closed_all_the_way_down_and_inputs_are_objects() -> None:
    sent = {"oneOf": [{"type": "object", "properties": {"b": {"type": "array", "items": {"properties": {}}}}}]}

    closed = json.loads(bytes(output_schema(json.dumps(sent))))
    assert closed == {
        "anyOf": [
            {
                "type": "object",
                "properties": {"b": {"type": "array", "items": {"properties": {}, "additionalProperties": False}}},
                "additionalProperties": False,
            }
        ]
    }
    assert json.loads(bytes(input_schema(""))) == {"type": "object", "properties": {}}
    assert json.loads(bytes(input_schema('{"properties":{}}')))["type"] == "object"


def test_what_cannot_be_said_is_named() -> None:
    conversation = Conversation(
        [],
        [Turn("user", [Media("audio", "audio/wav", "AA=="), Media("image", "image/tiff", "AA==")])],
        tools=[Tool("has.dot")],
        n=2,
        presence_penalty=0.5,
        frequency_penalty=0.0,
        seed=1,
        stop=["\n"],
        logprobs=True,
        verbosity="low",
        unknown=["logit_bias"],
    )

    assert set(losses(conversation)) == {
        *("logit_bias", "presence_penalty", "seed", "n", "logprobs", "verbosity", "stop", "tools[0].name"),
        *("audio", "image"),
    }
    assert losses(Conversation([Text("s")], [Turn("user", [Text(" ")])])) == ("an empty conversation",)
    assert losses(Conversation([], HI)) == ()


# There and back

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=10).map(
    lambda t: f"x{t}x"
)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS, lambda v: st.lists(v, max_size=3))
ARGUMENTS = st.dictionaries(TEXTS, JSON, max_size=3).map(lambda value: msgspec.json.encode(value).decode())
CACHES = st.none() | st.builds(CacheMark, st.sampled_from(["5m", "1h"]))
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
MEDIA = st.builds(
    Media,
    st.just("image"),
    st.sampled_from(["image/png", "image/jpeg"]),
    st.binary().map(lambda b: base64.b64encode(b).decode() or "AA=="),
) | st.builds(
    Media, st.just("document"), url=st.just("https://example.org/a.pdf"), title=TEXTS, wants_citations=st.booleans()
)
SIGNED = st.builds(Thinking, TEXTS, st.builds(shown_signature, TEXTS))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """What a caller of any format may have said so far; calls have their results."""
    turns: list[Turn] = []
    for at in range(draw(st.integers(1, 4))):
        turns.append(
            Turn("user", [*_results(turns), *draw(st.lists(st.builds(Text, TEXTS) | MEDIA, min_size=1, max_size=3))])
        )
        if at and draw(st.booleans()):
            break
        said: list[Any] = [
            *draw(st.lists(SIGNED, max_size=1)),
            *draw(st.lists(st.builds(Text, TEXTS), min_size=1, max_size=2)),
        ]
        calls = draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3))
        said += [Call(f"toolu_{at}_{number}", name, arguments) for number, (name, arguments) in enumerate(calls)]
        turns.append(Turn("assistant", said))
    if turns[-1].role == "assistant":
        turns.append(Turn("user", [*_results(turns), Text("go on")]))
    return Conversation(
        draw(st.lists(st.builds(Text, TEXTS, CACHES), max_size=2)),
        turns,
        tools=[
            Tool(name, "d", '{"type":"object"}', cache=None) for name in draw(st.lists(NAMES, unique=True, max_size=3))
        ],
        stop=draw(st.lists(TEXTS, max_size=2)),
        top_k=draw(st.none() | st.integers(0, 100)),
    )


def _results(turns: list[Turn]) -> list[Result]:
    called = [part for part in (turns[-1].parts if turns else ()) if isinstance(part, Call)]
    return [
        Result(call.id, [Text(f"result of {call.id}")], number % 2 == 1, call.name)
        for number, call in enumerate(called)
    ]


@settings(max_examples=EXAMPLES, deadline=None)
@given(conversations())
def test_a_conversation_there_and_back_is_the_same(conversation: Conversation) -> None:
    assert losses(conversation) == ()
    fields = build(conversation, AROUND, "m", 100)
    body = msgspec.json.encode({**fields, "model": "m", "max_tokens": 100})

    back = converse(read_request(body, AROUND))

    assert back.turns == conversation.turns
    assert [tool.name for tool in back.tools] == [tool.name for tool in conversation.tools]
    assert "\n\n".join(part.text for part in back.system) == "\n\n".join(part.text for part in conversation.system)
    assert (list(back.stop), back.top_k, back.unknown) == (list(conversation.stop), conversation.top_k, [])


def test_foreign_thinking_and_refusals() -> None:
    turn = Turn("assistant", [Thinking("x", Signature("gemini", "g")), Thinking("y"), Refused("I won't."), Text("z")])

    assert built([*HI, turn, *HI])["messages"][1]["content"] == [
        {"type": "text", "text": "I won't."},
        {"type": "text", "text": "z"},
    ]
