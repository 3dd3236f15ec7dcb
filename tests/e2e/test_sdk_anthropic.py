"""The Anthropic SDK for Python as it comes, with nothing changed but address and key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import MessageParam, ToolParam

from tests.e2e.hosted import HostedStack, hosted
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import assemble

MODEL = "swift-1"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOLS: list[ToolParam] = [
    {
        "name": "get_weather",
        "description": "The weather in a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    {"name": "get_time", "input_schema": {"type": "object"}},
]


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("anthropic-sdk")) as stack:
        yield stack


def client_of(stack: HostedStack, key: str | None = None) -> Anthropic:
    base_url = stack.base_url.removesuffix("/v1")
    return Anthropic(base_url=base_url, api_key=stack.key if key is None else key, max_retries=0)


@pytest.fixture
def client(stack: HostedStack) -> Iterator[Anthropic]:
    with client_of(stack) as client:
        yield client


def say(text: str = "Say something.") -> list[MessageParam]:
    return [{"role": "user", "content": text}]


def create(client: Anthropic, messages: list[MessageParam], **fields: Any) -> Any:
    return client.messages.create(model=fields.pop("model", MODEL), max_tokens=4096, messages=messages, **fields)


def test_a_plain_call_answers_and_says_what_it_cost(client: Anthropic) -> None:
    message = create(client, say())
    assert message.content[0].text
    assert (message.stop_reason, message.model) == ("end_turn", MODEL)
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens > 0
    assert float(message.usage.cost) > 0
    assert message._request_id.startswith("req_")


def test_a_stream_says_the_same(client: Anthropic) -> None:
    plain = create(client, say())
    with client.messages.stream(model=MODEL, max_tokens=4096, messages=say()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == plain.content[0].text
    assert final.content[0].type == "text"
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (
        plain.usage.input_tokens,
        plain.usage.output_tokens,
    )


def test_the_key_may_be_a_bearer_token(stack: HostedStack) -> None:
    base_url = stack.base_url.removesuffix("/v1")
    with Anthropic(base_url=base_url, auth_token=stack.key, max_retries=0) as client:
        assert create(client, say()).content


def test_tools_are_called_and_their_results_answered(client: Anthropic) -> None:
    asked = say("Weather and time?\nsim: tools=2")
    with client.messages.stream(model=MODEL, max_tokens=4096, messages=asked, tools=TOOLS) as stream:
        streamed = stream.get_final_message()
    first = create(client, asked, tools=TOOLS)
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert [(call.name, call.input) for call in calls] == [
        (call.name, call.input) for call in streamed.content if call.type == "tool_use"
    ]
    assert len({call.id for call in calls}) == 2

    results: Any = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "no idea", "is_error": True} for call in calls
    ]
    again: Any = [*say("Weather and time?"), first.to_param(), {"role": "user", "content": results}]
    assert create(client, again, tools=TOOLS, tool_choice={"type": "none"}).content[0].text


def test_system_images_and_stop_sequences_are_understood(client: Anthropic) -> None:
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    parts: Any = [{"type": "text", "text": "What is this?\nsim: say=Look words=9"}, image]
    message = create(client, [{"role": "user", "content": parts}], system="Be brief.", stop_sequences=["zzz"])
    assert message.content[0].text.startswith("Look")
    assert message.usage.input_tokens > 700


def test_tokens_are_counted_free_of_charge(client: Anthropic, stack: HostedStack) -> None:
    balance = stack.run(stack.stack.balance_at_rest())
    short = client.messages.count_tokens(model=MODEL, messages=say("Hello."))
    long = client.messages.count_tokens(model=MODEL, messages=say("Hello. " * 100), tools=TOOLS)
    assert 0 < short.input_tokens < long.input_tokens
    assert stack.run(stack.stack.balance_at_rest()) == balance


def test_models_are_listed_in_pages_and_shown(client: Anthropic) -> None:
    page = client.models.list(limit=1)
    assert [entry.id for entry in page] == [MODEL]
    shown = client.models.retrieve("gpt-4o-mini")
    assert (shown.id, shown.max_tokens, shown.type) == (MODEL, 8192, "model")
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nothing")


def test_refusals_raise_the_matching_classes(client: Anthropic, stack: HostedStack) -> None:
    with pytest.raises(anthropic.NotFoundError):
        create(client, say(), model="nothing")
    with pytest.raises(anthropic.BadRequestError) as invalid:
        create(client, say(), extra_body={"speed": "fast"})
    assert invalid.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "'speed' is not offered: every request runs at standard speed.",
            "code": "INPUT_VALIDATION_ERROR",
        },
        "request_id": invalid.value.request_id,
    }
    with client_of(stack, assemble(b"0" * 32)) as stranger, pytest.raises(anthropic.AuthenticationError):
        create(stranger, say())
    with client_of(stack, stack.make_key(usd=0)) as poor, pytest.raises(anthropic.PaymentRequiredError):
        create(poor, say())
    with client_of(stack, stack.make_key(limits=Limits(requests_per_minute=1))) as hasty:
        create(hasty, say())
        with pytest.raises(anthropic.RateLimitError):
            create(hasty, say())


def test_what_breaks_raises_in_the_stream_too(client: Anthropic, stack: HostedStack) -> None:
    with stack.fault("status", status=503, count=0), pytest.raises(anthropic.ServiceUnavailableError):
        create(client, say())
    stack.run(stack.stack.at_rest())
    with (
        stack.fault("error_event", phase="mid", count=0),
        pytest.raises(anthropic.APIStatusError) as broken,
        client.messages.stream(model=MODEL, max_tokens=4096, messages=say()) as stream,
    ):
        stream.get_final_message()
    assert "GENERATION_FAILED" in str(broken.value)
