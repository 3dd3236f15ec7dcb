"""The google-genai SDK as it comes, with nothing changed but address and key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from tests.e2e.hosted import HostedStack, hosted
from waypost.tenancy.api_key import assemble

MODEL = "swift-1"


class Booking(BaseModel):
    name: str
    count: int
    is_paid: bool


WEATHER = types.FunctionDeclaration(
    name="get_weather",
    description="The weather in a city.",
    parameters=types.Schema(
        type=types.Type.OBJECT,
        properties={"city": types.Schema(type=types.Type.STRING), "days": types.Schema(type=types.Type.INTEGER)},
        required=["city"],
    ),
)
TOOLS: Any = [types.Tool(function_declarations=[WEATHER])]


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("gemini-sdk")) as stack:
        yield stack


def client_of(stack: HostedStack, key: str | None = None) -> genai.Client:
    base_url = stack.base_url.removesuffix("/v1")
    options = types.HttpOptions(base_url=base_url, timeout=30_000)
    return genai.Client(api_key=stack.key if key is None else key, vertexai=False, http_options=options)


@pytest.fixture
def client(stack: HostedStack) -> genai.Client:
    return client_of(stack)


def test_a_plain_call_answers_and_says_what_it_used(client: genai.Client) -> None:
    answer = client.models.generate_content(model=MODEL, contents="Say something.")
    assert answer.text
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.model_version == MODEL
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.total_token_count == (answer.usage_metadata.prompt_token_count or 0) + (
        answer.usage_metadata.candidates_token_count or 0
    ) + (answer.usage_metadata.thoughts_token_count or 0)


def test_a_stream_says_the_same_and_ends_with_its_usage(client: genai.Client) -> None:
    plain = client.models.generate_content(model=MODEL, contents="Say something.")
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="Say something."))
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text
    assert chunks[-1].usage_metadata == plain.usage_metadata
    assert all(chunk.usage_metadata is None for chunk in chunks[:-1])


def test_tools_are_called_and_their_results_answered(client: genai.Client) -> None:
    config = types.GenerateContentConfig(
        tools=TOOLS,
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
        ),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    question = types.Content(role="user", parts=[types.Part.from_text(text="What is the weather in Paris?")])
    answer = client.models.generate_content(model=MODEL, contents=[question], config=config)
    calls = answer.function_calls
    assert calls
    assert calls[0].name == "get_weather"
    assert isinstance((calls[0].args or {})["city"], str)
    streamed = [
        call
        for chunk in client.models.generate_content_stream(model=MODEL, contents=[question], config=config)
        for call in chunk.function_calls or []
    ]
    assert [(call.name, call.args) for call in streamed] == [(call.name, call.args) for call in calls]

    assert answer.candidates is not None
    called = answer.candidates[0].content
    assert called is not None
    result = types.Part(
        function_response=types.FunctionResponse(id=calls[0].id, name="get_weather", response={"output": "sunny"})
    )
    follow_up = client.models.generate_content(
        model=MODEL,
        contents=[question, called, types.Content(role="user", parts=[result])],
        config=types.GenerateContentConfig(
            tools=TOOLS, automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        ),
    )
    assert follow_up.text


def test_a_schema_is_followed(client: genai.Client) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Booking)
    answer = client.models.generate_content(model=MODEL, contents="Book something.", config=config)
    assert isinstance(answer.parsed, Booking)


def test_system_instruction_and_configuration_are_taken(client: genai.Client) -> None:
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        max_output_tokens=5,
        temperature=0.1,
        top_p=0.9,
        seed=1,
        stop_sequences=["END"],
    )
    answer = client.models.generate_content(model=MODEL, contents="Tell me a long story.", config=config)
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


def test_models_are_listed_and_tokens_counted(client: genai.Client) -> None:
    models = list(client.models.list())
    assert [model.name for model in models] == [f"models/{MODEL}"]
    model = client.models.get(model=MODEL)
    assert (model.name, model.input_token_limit, model.output_token_limit) == (f"models/{MODEL}", 128_000, 8192)
    counted = client.models.count_tokens(model=MODEL, contents="Say something to somebody.")
    assert 1 <= (counted.total_tokens or 0) <= 26


def test_errors_are_the_sdks_own(stack: HostedStack, client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="nothing-9", contents="hi")
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")
    stranger = client_of(stack, assemble(b"\0" * 32))
    with pytest.raises(errors.ClientError) as refused:
        stranger.models.generate_content(model=MODEL, contents="hi")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(
            model=MODEL, contents="hi", config=types.GenerateContentConfig(cached_content="cachedContents/1")
        )
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert "cachedContent" in (refused.value.message or "")
