"""LangChain's OpenAI and Anthropic chat models as they come."""

from __future__ import annotations

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.e2e.hosted import HostedStack


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Rain in {city}."


class Booking(BaseModel):
    """A booking."""

    name: str
    count: int


@pytest.fixture(params=["chat completions", "responses", "messages"])
def chat(request: pytest.FixtureRequest, stack: HostedStack, name: str) -> BaseChatModel:
    if request.param == "messages":
        return ChatAnthropic(
            model_name=name,
            base_url=stack.base_url.removesuffix("/v1"),
            api_key=SecretStr(stack.key),
            max_tokens_to_sample=512,
            max_retries=0,
            timeout=30,
            stop=None,
        )
    return ChatOpenAI(
        model=name,
        base_url=stack.base_url,
        api_key=SecretStr(stack.key),
        use_responses_api=request.param == "responses",
        max_retries=0,
        timeout=30,
    )


def test_a_call_answers_with_usage(chat: BaseChatModel) -> None:
    answer = chat.invoke("Say something.")

    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0


def test_a_stream_says_the_same(chat: BaseChatModel) -> None:
    chunks = list(chat.stream("Say something."))

    assert len(chunks) > 5
    assert "".join(chunk.text for chunk in chunks) == chat.invoke("Say something.").text


def test_a_tool_is_called_and_its_result_answered(chat: BaseChatModel) -> None:
    bound = chat.bind_tools([get_weather])
    asked = HumanMessage("Weather?\nsim: tools=2")
    answer = bound.invoke([asked])
    streamed = AIMessageChunk("")
    for chunk in bound.stream([asked]):
        assert isinstance(chunk, AIMessageChunk)
        streamed += chunk

    assert [call["name"] for call in answer.tool_calls] == ["get_weather"] * 2
    assert [call["args"] for call in streamed.tool_calls] == [call["args"] for call in answer.tool_calls]
    results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
    assert bound.invoke([asked, answer, *results, HumanMessage("So?\nsim: tools=0")]).text


def test_an_answer_fits_a_schema(chat: BaseChatModel) -> None:
    booked = chat.with_structured_output(Booking).invoke("Ada, twice.")

    assert isinstance(booked, Booking)
