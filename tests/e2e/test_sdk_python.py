"""The OpenAI SDK for Python as it comes, with nothing changed but address and key."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import PRICE
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import assemble

MODEL = "swift-1"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501


def function(name: str, **properties: object) -> ChatCompletionToolParam:
    parameters: dict[str, object] = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [function("get_weather", city={"type": "string"}, days={"type": "integer"}), function("get_time")]


class Booking(BaseModel):
    name: str
    count: int
    is_paid: bool


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("sdk")) as stack:
        yield stack


@pytest.fixture
def client(stack: HostedStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


def say(text: str = "Say something.") -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_a_plain_call_answers_and_says_what_it_cost(client: OpenAI) -> None:
    completion = client.chat.completions.create(model=MODEL, messages=say())
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == MODEL
    assert completion.id.startswith("chatcmpl-")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert float(cast(Any, completion.usage).cost) > 0
    assert completion._request_id is not None
    assert completion._request_id.startswith("req_")


def test_a_stream_says_the_same_and_ends_with_its_usage(client: OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=say())
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=say(), stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == plain.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    without = list(client.chat.completions.create(model=MODEL, messages=say(), stream=True))
    assert all(chunk.usage is None for chunk in without)
    assert without[-1].choices[0].finish_reason == "stop"


def test_fragments_of_parallel_tool_calls_come_together(client: OpenAI) -> None:
    asked = say("Weather and time?\nsim: tools=3")
    plain = client.chat.completions.create(model=MODEL, messages=asked, tools=TOOLS)
    calls = plain.choices[0].message.tool_calls
    assert calls is not None
    assert plain.choices[0].finish_reason == "tool_calls"

    ids: dict[int, str] = {}
    names: dict[int, str] = {}
    arguments: defaultdict[int, str] = defaultdict(str)
    for chunk in client.chat.completions.create(model=MODEL, messages=asked, tools=TOOLS, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            ids[piece.index] = ids.get(piece.index) or piece.id or ""
            assert piece.function is not None
            names[piece.index] = names.get(piece.index) or piece.function.name or ""
            arguments[piece.index] += piece.function.arguments or ""
    assert len(set(ids.values())) == 3
    whole = [cast(ChatCompletionMessageFunctionToolCall, call).function for call in calls]
    assert [(names[at], arguments[at]) for at in range(3)] == [(call.name, call.arguments) for call in whole]
    assert all(isinstance(json.loads(text), dict) for text in arguments.values())


def test_the_streaming_helper_accumulates_a_whole_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=say("Both?\nsim: tools=2"), tools=TOOLS) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls or ()] == ["get_weather", "get_time"]


def test_tool_results_go_back_under_the_ids_that_were_given(client: OpenAI) -> None:
    first = client.chat.completions.create(model=MODEL, messages=say("Weather?"), tools=TOOLS, tool_choice="required")
    calls = first.choices[0].message.tool_calls or []
    messages: list[Any] = [*say("Weather?"), first.choices[0].message.to_dict()]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, tool_choice="none")
    assert second.choices[0].message.content


def test_an_answer_in_a_schema_is_parsed(client: OpenAI) -> None:
    completion = client.chat.completions.parse(model=MODEL, messages=say("Give me data"), response_format=Booking)
    assert isinstance(completion.choices[0].message.parsed, Booking)


def test_an_image_is_seen_and_counted(client: OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    blind = client.chat.completions.create(model=MODEL, messages=say("What is this?")).usage
    seen = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}]).usage
    assert blind is not None
    assert seen is not None
    assert seen.prompt_tokens > blind.prompt_tokens + 100


def test_several_choices_log_probabilities_and_reasoning_arrive(client: OpenAI) -> None:
    two = client.chat.completions.create(model=MODEL, messages=say(), n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    streamed = client.chat.completions.create(model=MODEL, messages=say(), n=2, stream=True)
    assert {choice.index for chunk in streamed for choice in chunk.choices} == {0, 1}

    likely = client.chat.completions.create(
        model=MODEL, messages=say("Hi\nsim: words=4"), logprobs=True, top_logprobs=2
    )
    logprobs = likely.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(token.top_logprobs) for token in logprobs.content] == [2] * 4

    thought = client.chat.completions.create(model=MODEL, messages=say("Think\nsim: reasoning=9"))
    assert cast(Any, thought.choices[0].message).reasoning_content
    assert thought.usage is not None
    assert thought.usage.completion_tokens_details is not None
    assert thought.usage.completion_tokens_details.reasoning_tokens == 9


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_bounds_the_answer(client: OpenAI, name: str) -> None:
    cut = client.chat.completions.create(model=MODEL, messages=say("Long"), **cast(Any, {name: 5}))
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 5


def test_models_are_listed_with_prices_and_found_by_alias(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    model = client.models.retrieve("gpt-4o-mini")
    assert model.id == MODEL
    assert cast(Any, model).pricing["output"] == PRICE["output"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody-knows-this")


def test_each_refusal_raises_its_own_class_once(stack: HostedStack) -> None:
    sent: list[httpx2.Response] = []
    http_client = openai.DefaultHttpxClient(event_hooks={"response": [sent.append]})
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=2, http_client=http_client) as client:

        def refused(expected: type[openai.APIStatusError], key: str = "", **fields: Any) -> openai.APIStatusError:
            sent.clear()
            asking = client.with_options(api_key=key) if key else client
            with pytest.raises(expected) as caught:
                asking.chat.completions.create(**{"model": MODEL, "messages": say(), **fields})
            assert [answer.headers["x-should-retry"] for answer in sent] == ["false"]  # one request, and no second
            return caught.value

        assert refused(openai.AuthenticationError, key=assemble(b"\0" * 32)).code == "UNAUTHENTICATED"
        bad = refused(openai.BadRequestError, temperature="hot")
        assert (bad.code, bad.param) == ("INPUT_VALIDATION_ERROR", "temperature")
        unknown = refused(openai.NotFoundError, model="nobody-knows-this")
        assert (unknown.code, unknown.param) == ("NOT_FOUND", "model")
        poor = refused(openai.APIStatusError, key=stack.make_key(usd=0))
        assert (poor.status_code, poor.code, poor.type) == (402, "INSUFFICIENT_BALANCE", "insufficient_quota")


def test_a_key_over_its_limit_is_told_when_to_come_again(stack: HostedStack) -> None:
    key = stack.make_key(limits=Limits(1, None, None))
    with OpenAI(base_url=stack.base_url, api_key=key, max_retries=0) as client:
        first = client.chat.completions.with_raw_response.create(model=MODEL, messages=say())
        assert first.headers["x-ratelimit-remaining"] == "0"
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=say())
    assert caught.value.code == "RATE_LIMITED"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 66


def test_a_failure_that_may_pass_is_tried_again_by_the_sdk(stack: HostedStack, client: OpenAI) -> None:
    with stack.fault("status", status=500, count=3):  # all three attempts of the first request
        completion = client.with_options(max_retries=1).chat.completions.create(model=MODEL, messages=say())
    assert completion.choices[0].message.content
    with stack.fault("status", status=500, count=0), pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=say())
    assert caught.value.code == "GENERATION_FAILED"


def test_a_stream_that_breaks_raises_and_never_looks_whole(stack: HostedStack, client: OpenAI) -> None:
    chunks = []
    with stack.fault("error_event", phase="mid"), pytest.raises(openai.APIError) as caught:  # noqa: PT012  it raises on the way
        for chunk in client.chat.completions.create(model=MODEL, messages=say(), stream=True):
            chunks.append(chunk)  # noqa: PERF402  what came before the error counts
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks)
    assert caught.value.code == "GENERATION_FAILED"


async def test_the_async_client_runs_many_calls_at_once(stack: HostedStack) -> None:
    async with AsyncOpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:

        async def streamed(number: int) -> str:
            stream = await client.chat.completions.create(model=MODEL, messages=say(f"Call {number}"), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def plain(number: int) -> str | None:
            completion = await client.chat.completions.create(model=MODEL, messages=say(f"Call {number}"))
            return completion.choices[0].message.content

        said = await asyncio.gather(*map(plain, range(8)), *map(streamed, range(8)))
        assert said[:8] == said[8:]
        assert [model.id async for model in client.models.list()] == [MODEL]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nobody-knows-this", messages=say())
