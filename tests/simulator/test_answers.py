"""What a simulated model answers to what it is asked."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest
from openai import AsyncOpenAI

from tests.simulator.raw_client import ask, said
from tests.simulator.test_styles import OTHER_TOOL, TOOL
from waypost.simulator import Simulator
from waypost.simulator.schema import instance_of

HELLO: Any = [{"role": "user", "content": "hello"}]


class Leg(pydantic.BaseModel):
    to: str
    minutes: int = pydantic.Field(ge=5, le=20)


class Plan(pydantic.BaseModel):
    title: str
    legs: list[Leg]
    is_done: bool
    note: str | None
    child: Plan | None


def client_of(sim: Simulator, style: str = "alpha") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=sim.base_url(style), api_key="sk-test", max_retries=0)


async def test_the_same_request_has_the_same_answer_and_another_one_another() -> None:
    async with Simulator() as sim:
        one, two, other = [said(await ask(sim, text)) for text in ("hello", "hello", "bye")]
    assert one == two
    assert one["choices"] != other["choices"]
    assert 20 <= one["tokens"][2] <= 60


async def test_the_openai_sdk_reads_answers_streams_and_models() -> None:
    async with Simulator() as sim, client_of(sim) as client:
        whole = await client.chat.completions.create(model="sim-large", messages=HELLO)
        stream = await client.chat.completions.create(
            model="sim-large", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        models = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("sim-small")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert whole.choices[0].message.content == text
    assert whole.usage == chunks[-1].usage
    assert models == ["sim-large", "sim-small"]
    assert one.id == "sim-small"


async def test_the_openai_sdk_parses_structured_output_and_tool_calls() -> None:
    async with Simulator() as sim, client_of(sim) as client:
        parsed = await client.chat.completions.parse(model="sim-large", messages=HELLO, response_format=Plan)
        async with client.chat.completions.stream(
            model="sim-large",
            messages=HELLO,
            tools=[openai.pydantic_function_tool(Leg), openai.pydantic_function_tool(Plan)],
        ) as stream:
            final = await stream.get_final_completion()
    assert isinstance(parsed.choices[0].message.parsed, Plan)
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [type(call.function.parsed_arguments) for call in calls] == [Leg, Plan]


async def test_the_openai_sdk_raises_what_the_provider_refuses() -> None:
    async with Simulator(accepted_keys=["sk-right"]) as sim, client_of(sim) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="sim-large", messages=HELLO)
    assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["get_weather", "search"]),
        ({"parallel_tool_calls": False}, ["get_weather"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": "required"}, ["get_weather", "search"]),
        ({"tool_choice": {"type": "function", "function": {"name": "search"}}}, ["search"]),
        ({"text": "sim: tools=1"}, ["get_weather"]),
        ({"text": "sim: tools=0"}, []),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "ok"}]}, []),
    ],
)
async def test_tools_are_called_as_the_caller_chooses(fields: dict[str, Any], names: list[str]) -> None:
    async with Simulator() as sim:
        choice = said(await ask(sim, **{"tools": [TOOL, OTHER_TOOL], **fields}))["choices"][0]
    assert [call["name"] for call in choice["calls"].values()] == names
    assert choice["finish"] == ("tool_calls" if names else "stop")


async def test_tool_arguments_are_valid_json_in_fragments() -> None:
    async with Simulator() as sim:
        choice = said(await ask(sim, tools=[TOOL], stream=True))["choices"][0]
    fragments = choice["calls"][0]["arguments"]
    arguments = json.loads("".join(fragments))
    assert len(fragments) > 2
    assert set(arguments) == {"city", "days"}
    assert 1 <= arguments["days"] <= 14


async def test_an_unknown_named_tool_is_refused() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "gone"}})
    assert heard.status == 400


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_ends_the_answer_with_length(name: str) -> None:
    async with Simulator() as sim:
        fields: dict[str, Any] = {name: 10}
        answer = said(await ask(sim, reasoning_effort="minimal", **fields))
    assert answer["choices"][0]["finish"] == "length"
    assert answer["tokens"][2:] == (10, 8)


async def test_a_stop_sequence_ends_the_text_before_it() -> None:
    async with Simulator() as sim:
        full = said(await ask(sim))["choices"][0]["text"][0]
        stop = full[10:14]
        heard = said(await ask(sim, stop=["never said", stop]))["choices"][0]
    assert heard["text"] == [full[: full.index(stop)]]
    assert heard["finish"] == "stop"


async def test_choices_differ_and_their_usage_adds_up() -> None:
    async with Simulator() as sim:
        answer = said(await ask(sim, n=3, stream=True))
    texts = ["".join(choice["text"]) for choice in answer["choices"].values()]
    assert len(set(texts)) == 3
    assert answer["tokens"][2] == sum(len(choice["text"]) for choice in answer["choices"].values())


async def test_logprobs_name_every_token_and_its_alternatives() -> None:
    async with Simulator() as sim:
        choice = said(await ask(sim, logprobs=True, top_logprobs=3))["choices"][0]
    assert "".join(entry["token"] for entry in choice["logprobs"]) == choice["text"][0]
    assert all(len(entry["top_logprobs"]) == 3 for entry in choice["logprobs"])
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in choice["logprobs"])


async def test_directives_come_from_the_message_or_the_model_name() -> None:
    async with Simulator() as sim:
        by_name = said(await ask(sim, model="sim-large:words-7:say-canary"))
        by_text = said(await ask(sim, "please\nsim: words=3 say=canary input=100 cached=64", model="m:words-7"))
        unknown = await ask(sim, "sim: wrods=3")
    assert by_name["tokens"][2] == 7
    assert by_text["tokens"] == (100, 64, 3, 0)
    assert by_text["choices"][0]["text"][0].startswith("canary ")
    assert unknown.status == 400
    assert "wrods" in unknown.json["error"]["message"]


async def test_images_and_long_prompts_count() -> None:
    def asked(*parts: object) -> list[object]:
        return [{"role": "user", "content": list(parts)}]

    high: object = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    low = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
    system: object = {"role": "system", "content": "x" * 8000}
    async with Simulator() as sim:
        plain = said(await ask(sim, messages=asked({"type": "text", "text": "look"})))["tokens"]
        seen = said(await ask(sim, messages=asked({"type": "text", "text": "look"}, high, low)))["tokens"]
        cached = said(await ask(sim, messages=[system, *asked({"type": "text", "text": "look"})]))["tokens"]
    assert plain[0] == 3 + 4 + 1
    assert seen[0] == plain[0] + 765 + 85
    assert cached[:2] == (plain[0] + 4 + 2000, 1920)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["a", "b"]},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "integer", "minimum": 10, "maximum": 20, "multipleOf": 5},
        {"type": "string", "minLength": 40, "maxLength": 50},
        {"type": ["string", "null"], "maxLength": 2},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 4},
    ],
)
def test_instances_fit_their_schema(schema: dict[str, Any]) -> None:
    value = instance_of(schema, b"\x07" * 32)
    match schema:
        case {"enum": choices}:
            assert value in choices
        case {"type": "number"}:
            assert isinstance(value, float)
            assert 0 < value < 1
        case {"type": "integer"}:
            assert value in (10, 15, 20)
        case {"minLength": shortest, "maxLength": longest}:
            assert isinstance(value, str)
            assert shortest <= len(value) <= longest
        case {"type": ["string", "null"]}:
            assert isinstance(value, str)
            assert len(value) <= 2
        case {"type": "array"}:
            assert isinstance(value, list)
            assert len(value) >= 4


def test_a_recursive_schema_ends() -> None:
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    value = instance_of({"$ref": "#/$defs/node", "$defs": {"node": {**node, "required": ["next"]}}}, b"\x07" * 32)
    assert isinstance(value, dict)
