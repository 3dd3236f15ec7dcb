"""The LiteLLM client as it comes, through three of the formats that it speaks."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.e2e.hosted import HostedStack

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read at import; else it is fetched from the network

import litellm

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(params=["openai", "openai/responses", "anthropic"])
def asking(request: pytest.FixtureRequest, stack: HostedStack, name: str) -> dict[str, Any]:
    base = stack.base_url if request.param != "anthropic" else stack.base_url.removesuffix("/v1")
    return {"model": f"{request.param}/{name}", "api_base": base, "api_key": stack.key, "max_retries": 0, "timeout": 30}


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_a_call_answers_and_a_stream_says_the_same(asking: dict[str, Any]) -> None:
    answer = litellm.completion(messages=said("Say something."), **asking)
    chunks = list(litellm.completion(messages=said("Say something."), stream=True, **asking))

    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content


def test_tools_are_called_and_their_results_answered(asking: dict[str, Any]) -> None:
    asked = said("Weather?\nsim: tools=2")
    answer = litellm.completion(messages=asked, tools=TOOLS, **asking)
    chunks = list(litellm.completion(messages=asked, tools=TOOLS, stream=True, **asking))
    calls = answer.choices[0].message.tool_calls
    rebuilt = litellm.stream_chunk_builder(chunks, messages=asked)

    assert [call.function.name for call in calls] == ["get_weather"] * 2
    streamed = rebuilt.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in streamed] == [
        json.loads(call.function.arguments) for call in calls
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in calls]
    history = [*asked, answer.choices[0].message, *results, *said("So?\nsim: tools=0")]
    again = litellm.completion(messages=history, tools=TOOLS, **asking)
    assert again.choices[0].message.content


def test_a_refusal_raises_the_matching_exception(asking: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=said("hi"), **{**asking, "model": asking["model"].rpartition("/")[0] + "/nobody"})
