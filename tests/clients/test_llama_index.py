"""LlamaIndex's OpenAI-like model as it comes."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.e2e.hosted import HostedStack


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"Rain in {city}."


WEATHER = FunctionTool.from_defaults(get_weather)


@pytest.fixture
def llm(stack: HostedStack, name: str) -> OpenAILike:
    return OpenAILike(
        model=name,
        api_base=stack.base_url,
        api_key=stack.key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=128_000,
        max_retries=0,
        timeout=30,
    )


def said(text: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text)]


def test_a_call_answers_and_a_stream_says_the_same(llm: OpenAILike) -> None:
    answer = llm.chat(said("Say something."))
    *_, last = llm.stream_chat(said("Say something."))

    assert answer.message.content
    assert last.message.content == answer.message.content


def test_tools_are_called_streamed_and_not(llm: OpenAILike) -> None:
    asked = "Weather?\nsim: tools=2"
    answer = llm.chat_with_tools([WEATHER], user_msg=asked, allow_parallel_tool_calls=True)
    *_, last = llm.stream_chat_with_tools([WEATHER], user_msg=asked, allow_parallel_tool_calls=True)
    calls = llm.get_tool_calls_from_response(answer)

    assert [call.tool_name for call in calls] == ["get_weather"] * 2
    streamed = llm.get_tool_calls_from_response(last)
    assert [call.tool_kwargs for call in streamed] == [call.tool_kwargs for call in calls]
    results = [
        ChatMessage(role=MessageRole.TOOL, content="Rain.", additional_kwargs={"tool_call_id": call.tool_id})
        for call in calls
    ]
    assert llm.chat([*said(asked), answer.message, *results]).message.content
