"""Two providers of the anthropic kind say the same, each in its own way, and are as strict as Anthropic."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.simulator.raw_client import Heard, ask, connect, said
from waypost.simulator import Simulator

KEYED = "x-api-key: sk-test\r\nanthropic-version: 2023-06-01\r\nConnection: close\r\n"
PREFIXES = {"delta": "/anthropic", "epsilon": "/epsilon"}
TOOLS = [
    {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "now", "input_schema": {"type": "object"}},
]
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "text": {},
    "no words": {"text": "sim: words=0"},
    "two tools at once, one without arguments": {"tools": TOOLS},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "hidden thinking": {"text": "sim: reasoning=5 redacted=1"},
    "a citation": {"text": "sim: words=4 cite=1"},
    "a refusal": {"text": "sim: refusal=1"},
    "a stop sequence": {"stop_sequences": ["the", "The"]},
    "a limit": {"max_tokens": 5},
    "a cache": {"text": "sim: input=2000 cached=1000 cache_write=300 cache_write_1h=200"},
    "a pause": {"text": "sim: finish=pause"},
}
_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


async def message(
    sim: Simulator, text: str = "hi", *, style: str = "delta", path: str = "/v1/messages", **fields: Any
) -> Heard:
    """One call over a connection of its own."""
    messages = fields.pop("messages", [{"role": "user", "content": text}])
    body = {"model": "sim-large", "messages": messages, "max_tokens": 4096, **fields}
    caller = await connect(sim)
    caller.send(
        json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
        path=PREFIXES[style] + path,
        headers=KEYED,
    )
    return await caller.rest()


def read(heard: Heard) -> Message:
    """As Anthropic's SDK reads it. Events have a name, and their data says the same one."""
    if "text/event-stream" not in heard.headers["content-type"]:
        return Message.model_validate(heard.json)
    snapshot: Any = None
    inputs: dict[int, bytes] = {}
    for chunk in heard.chunks:
        if chunk["type"] != "ping":
            event = _EVENT.validate_python(chunk)
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=inputs)
    assert isinstance(snapshot, Message)
    return snapshot


def meaning(answer: Message) -> Any:
    """What was said, without ids and names."""
    blocks = [
        {name: value for name, value in block.model_dump().items() if name not in ("id", "caller") and value}
        for block in answer.content
    ]
    usage = answer.usage
    counts = (usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens)
    return blocks, answer.stop_reason, answer.stop_sequence, usage.input_tokens, *counts


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_both_styles_say_the_same_streamed_and_not(conversation: str) -> None:
    fields = CONVERSATIONS[conversation]
    async with Simulator() as sim:
        answers = [
            read(await message(sim, style=style, stream=stream, **fields))
            for style in PREFIXES
            for stream in (False, True)
        ]
        lines = {(line.input_tokens, line.output_tokens, line.cache_write_1h_tokens) for line in sim.bill.lines}
    first, *others = [meaning(answer) for answer in answers]
    assert others == [first] * 3
    assert len(lines) == 1
    assert (answers[0].usage.input_tokens, answers[0].usage.output_tokens) == next(iter(lines))[:2]


async def test_an_equal_conversation_has_equal_words_and_tokens_at_the_openai_kind() -> None:
    async with Simulator() as sim:
        chat = said(await ask(sim, "hello", max_tokens=4096, reasoning_effort="low"))
        answer = read(await message(sim, "hello", thinking={"type": "enabled", "budget_tokens": 2000}))
    thinking, text = answer.content
    assert thinking.type == "thinking"
    assert text.type == "text"
    assert [thinking.thinking] == chat["choices"][0]["reasoning"]
    assert [text.text] == chat["choices"][0]["text"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (chat["tokens"][0], chat["tokens"][2])


async def test_signatures_are_verified_and_altered_ones_refused() -> None:
    async with Simulator() as sim:
        given = (await message(sim, "sim: reasoning=4 words=3")).json["content"]
        history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": given}]
        history.append({"role": "user", "content": "go on"})
        assert (await message(sim, messages=history, style="epsilon")).status == 200
        given[0]["thinking"] += "."
        refused = await message(sim, messages=history)
    assert refused.status == 400
    assert "signature" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None},
        {"seed": 1},
        {"temperature": 1.5},
        {"tools": TOOLS, "tool_choice": {"type": "any"}, "thinking": {"type": "adaptive"}},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "1"}]}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
)
async def test_what_anthropic_refuses_is_refused(fields: dict[str, Any]) -> None:
    async with Simulator() as sim:
        refused = await message(sim, **fields)
    assert refused.status == 400
    assert refused.json["error"]["type"] == "invalid_request_error"


async def test_tokens_are_counted_as_they_are_billed_and_models_listed() -> None:
    async with Simulator() as sim:
        counted = await message(sim, "count me", path="/v1/messages/count_tokens", max_tokens=None)
        billed = read(await message(sim, "count me"))
        caller = await connect(sim)
        caller.send(b"", method="GET", path="/anthropic/v1/models", headers=KEYED)
        listed = (await caller.rest()).json
    assert counted.json == {"input_tokens": billed.usage.input_tokens}
    assert [entry["type"] for entry in listed["data"]] == ["model", "model"]


async def test_errors_and_faults_are_spelled_as_anthropic_does() -> None:
    async with Simulator() as sim:
        sim.arm("status", status=529, style="delta")
        overloaded = await message(sim)
        sim.arm("error_event", status=529)
        broken = await message(sim, stream=True)
        sim.arm("usage", value="missing")
        untold = await message(sim)
        sim.arm("no_done")
        cut = await message(sim, stream=True)
        caller = await connect(sim)
        caller.send(b"{}", path="/anthropic/v1/messages", headers="Connection: close\r\n")
        unknown = await caller.rest()
    assert overloaded.status == 529
    assert overloaded.json["error"]["type"] == "overloaded_error"
    assert broken.chunks[-1]["error"]["type"] == "overloaded_error"
    assert "usage" not in untold.json
    assert [chunk["type"] for chunk in cut.chunks][-1] == "message_delta"
    assert unknown.json["error"]["type"] == "authentication_error"
