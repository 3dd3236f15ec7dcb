"""OpenAI's Responses by the SDK as it comes, answered by providers of several kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest
from openai import OpenAI
from openai.types.responses import FunctionToolParam, ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import PRICE, PROVIDER_KEY, UPSTREAM_MODEL, deployment, model, provider
from waypost.simulator import Simulator

KINDS = {
    "alpha": "openai-responses",
    "gamma": "openai-responses",
    "beta": "openai",
    "delta": "anthropic",
    "zeta": "gemini",
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
MODELS = tuple(f"by-{style}" for style in KINDS)
TOOLS: list[FunctionToolParam] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
    {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}, "strict": False},
]


class Booking(BaseModel):
    name: str
    count: int
    is_paid: bool


def document(sim: Simulator) -> dict[str, Any]:
    return {
        "providers": [provider(sim, style, style, kind=kind) for style, kind in KINDS.items()],
        "models": [
            *(model(f"by-{style}", deployment(style)) for style in KINDS),
            model("by-all", *(deployment(style) for style in KINDS)),
        ],
    }


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("responses"), document=document) as stack:
        yield stack


@pytest.fixture
def client(stack: HostedStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_call_answers_and_says_what_it_cost(client: OpenAI, name: str) -> None:
    response = client.responses.create(model=name, input="Say something.", metadata={"ticket": "4711"})

    assert response.output_text
    assert (response.status, response.model, response.metadata) == ("completed", name, {"ticket": "4711"})
    assert response.id.startswith("resp_")
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert float(cast(Any, response.usage).cost) > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_says_the_same(client: OpenAI, name: str) -> None:
    plain = client.responses.create(model=name, input="Say something.")
    with client.responses.stream(model=name, input="Say something.") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()

    assert text == plain.output_text == final.output_text
    assert final.usage == plain.usage


@pytest.mark.parametrize("name", MODELS)
def test_tools_are_called_at_once_and_their_results_answered(client: OpenAI, name: str) -> None:
    history: list[Any] = [{"role": "user", "content": "Weather and time?\nsim: tools=3"}]
    plain = client.responses.create(model=name, input=history, tools=TOOLS)
    with client.responses.stream(model=name, input=history, tools=TOOLS) as stream:
        streamed = stream.get_final_response()
    calls = [item for item in plain.output if isinstance(item, ResponseFunctionToolCall)]

    assert [call.name for call in calls] == ["get_weather", "get_time", "get_weather"]
    assert len({call.call_id for call in calls}) == 3
    assert [(call.name, call.arguments) for call in calls] == [
        (item.name, item.arguments) for item in streamed.output if isinstance(item, ResponseFunctionToolCall)
    ]
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)
    history += plain.output
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    history += [*results, {"role": "user", "content": "So?"}]
    assert client.responses.create(model=name, input=history).output_text


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_is_parsed_into_a_model(client: OpenAI, name: str) -> None:
    parsed = client.responses.parse(model=name, input="Ada, twice, paid.", text_format=Booking).output_parsed

    assert isinstance(parsed, Booking)


@pytest.mark.parametrize("name", MODELS)
def test_reasoning_goes_out_sealed_and_comes_back(client: OpenAI, name: str, stack: HostedStack) -> None:
    history: list[Any] = [{"role": "user", "content": "Think."}]
    first = client.responses.create(model=name, input=history, reasoning={"effort": "low", "summary": "auto"})
    reasoning = first.output[0]
    assert isinstance(reasoning, ResponseReasoningItem)
    assert reasoning.summary[0].text
    history += [*first.output, {"role": "user", "content": "Again."}]

    second = client.responses.create(model=name, input=history, reasoning={"effort": "low"})

    assert second.status == "completed"
    if KINDS[name.removeprefix("by-")] == "openai-responses":
        assert (reasoning.encrypted_content or "").startswith("wp1")
        sent = json.loads(stack.stack.sim.requests[-1].body)
        kinds = [item.get("type", "message") for item in sent["input"]]
        assert kinds == ["message", "reasoning", "message", "message"]
        assert sent["store"] is False


def test_images_go_to_every_kind(client: OpenAI) -> None:
    asked: Any = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What?"},
                {"type": "input_image", "image_url": PIXEL, "detail": "low"},
            ],
        }
    ]
    answers = [client.responses.create(model=name, input=asked) for name in MODELS]

    assert len({answer.output_text for answer in answers}) == 1


def test_an_answer_cut_short_is_incomplete(client: OpenAI) -> None:
    for name in MODELS:
        response = client.responses.create(model=name, input="Go on.", max_output_tokens=5)
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"


def test_what_needs_storage_is_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="by-alpha", input="hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


def test_a_stream_that_fails_before_it_says_anything_goes_to_the_next_provider(
    client: OpenAI, stack: HostedStack
) -> None:
    with stack.fault("error_event", style="alpha", phase="after_headers"):
        events = list(client.responses.create(model="by-all", input="hi", stream=True))
    assert events[-1].type == "response.completed"


def test_a_stream_that_breaks_raises_and_has_no_end(client: OpenAI, stack: HostedStack) -> None:
    seen: list[str] = []
    with stack.fault("reset", style="alpha", phase="mid"):
        events = client.responses.create(model="by-alpha", input="sim: words=50", stream=True)
        with pytest.raises(openai.APIError):
            seen.extend(event.type for event in events)
    assert "response.output_text.delta" in seen
    assert "response.completed" not in seen


def test_nobody_can_tell_who_answered(client: OpenAI, stack: HostedStack) -> None:
    cases: list[dict[str, Any]] = [
        {"input": 'Zürich / \\ "quotes"'},
        {"input": "Weather?\nsim: tools=2", "tools": TOOLS},
        {"input": "sim: refusal=1"},
        {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1},
        {"input": "Ten.", "max_output_tokens": 10},
    ]
    for case in cases:
        # A refusal is a part of its own, and probabilities are told, at providers of OpenAI's formats only.
        is_openai = "refusal" in str(case["input"]) or "include" in case
        names = [f"by-{style}" for style, kind in KINDS.items() if not is_openai or kind.startswith("openai")]
        for stream in (False, True):
            answers = []
            for name in names:
                answer = stack.run(
                    stack.stack.request("POST", "/v1/responses", {"model": name, "stream": stream, **case})
                )
                assert answer.status == 200
                head = answer.raw.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
                for word in ("alpha", "beta", "gamma", UPSTREAM_MODEL, PROVIDER_KEY, "chatcmpl", "toolu", "zephyr"):
                    assert word not in answer.body.decode().replace(name, "")
                answers.append((sorted(line.partition(":")[0] for line in head), _masked(answer.body.decode(), name)))
            assert answers[1:] == answers[:-1], case


def _masked(body: str, name: str) -> str:
    body = body.replace(name, "MODEL")
    body = re.sub(r'"(created_at|completed_at)":\d+', r'"\1":0', body)
    # How finely arguments are cut is how they came; what they are is in the events that follow.
    body = re.sub(r"event: response\.function_call_arguments\.delta\n.*\n\n", "", body)
    body = re.sub(r'"sequence_number":\d+', '"sequence_number":0', body)
    return re.sub(r"(resp|msg|fc|call|rs)_[0-9a-f]+", r"\1_", body)


def test_what_a_call_costs_is_in_the_books(stack: HostedStack, client: OpenAI) -> None:
    response = client.responses.create(model="by-gamma", input="sim: input=2000 cached=1000 words=10")
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 1000
    micros = 1000 * float(PRICE["input"]) + 1000 * float(PRICE["cache_read"]) + 10 * float(PRICE["output"])
    assert float(cast(Any, response.usage).cost) == pytest.approx(micros / 1e6)
