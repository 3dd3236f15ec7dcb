"""The google-genai SDK as it comes, with nothing changed but address and key, answered by providers of two kinds; and
OpenAI's SDK answered by providers of the gemini kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from google import genai
from google.genai import errors, types
from openai import OpenAI
from pydantic import BaseModel

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import PROVIDER_KEY, UPSTREAM_MODEL, deployment, model, provider
from waypost.simulator import Simulator
from waypost.tenancy.api_key import assemble

KINDS = {"zeta": "gemini", "eta": "gemini", "alpha": "openai", "gamma": "openai", "delta": "anthropic"}
MODELS = tuple(f"by-{style}" for style in KINDS)
GEMINI = ("by-zeta", "by-eta")
MODEL = "acme/by-all"


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


def document(sim: Simulator) -> dict[str, Any]:
    return {
        "providers": [provider(sim, style, style, kind=kind) for style, kind in KINDS.items()],
        "models": [
            *(model(f"by-{style}", deployment(style), features=["thinking"]) for style in KINDS),
            model(MODEL, *(deployment(style) for style in KINDS)),
        ],
    }


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("gemini"), document=document) as stack:
        yield stack


def client_of(stack: HostedStack, key: str | None = None) -> genai.Client:
    base_url = stack.base_url.removesuffix("/v1")
    options = types.HttpOptions(base_url=base_url, timeout=30_000)
    return genai.Client(api_key=stack.key if key is None else key, vertexai=False, http_options=options)


@pytest.fixture
def client(stack: HostedStack) -> genai.Client:
    return client_of(stack)


@pytest.mark.parametrize("name", [*MODELS, MODEL])
def test_a_plain_call_answers_and_says_what_it_used(client: genai.Client, name: str) -> None:
    answer = client.models.generate_content(model=name, contents="Say something.")
    assert answer.text
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.model_version == name
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.total_token_count == (answer.usage_metadata.prompt_token_count or 0) + (
        answer.usage_metadata.candidates_token_count or 0
    ) + (answer.usage_metadata.thoughts_token_count or 0)


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_says_the_same_and_ends_with_its_usage(client: genai.Client, name: str) -> None:
    plain = client.models.generate_content(model=name, contents="Say something.")
    chunks = list(client.models.generate_content_stream(model=name, contents="Say something."))
    assert "".join(chunk.text or "" for chunk in chunks) == plain.text
    assert chunks[-1].usage_metadata == plain.usage_metadata
    assert all(chunk.usage_metadata is None for chunk in chunks[:-1])


@pytest.mark.parametrize("name", MODELS)
def test_tools_are_called_and_their_results_answered(client: genai.Client, name: str) -> None:
    config = types.GenerateContentConfig(
        tools=TOOLS,
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY)
        ),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    question = types.Content(role="user", parts=[types.Part.from_text(text="What is the weather in Paris?")])
    answer = client.models.generate_content(model=name, contents=[question], config=config)
    calls = answer.function_calls
    assert calls
    assert calls[0].name == "get_weather"
    assert isinstance((calls[0].args or {})["city"], str)
    streamed = [
        call
        for chunk in client.models.generate_content_stream(model=name, contents=[question], config=config)
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
        model=name,
        contents=[question, called, types.Content(role="user", parts=[result])],
        config=types.GenerateContentConfig(
            tools=TOOLS, automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        ),
    )
    assert follow_up.text


@pytest.mark.parametrize("name", MODELS)
def test_a_schema_is_followed(client: genai.Client, name: str) -> None:
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Booking)
    answer = client.models.generate_content(model=name, contents="Book something.", config=config)
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
    assert {found.name for found in models} == {f"models/{name}" for name in (*MODELS, MODEL)}
    found = client.models.get(model=MODEL)
    assert (found.name, found.input_token_limit, found.output_token_limit) == (f"models/{MODEL}", 128_000, 8192)
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


@pytest.mark.parametrize("name", MODELS)
def test_thoughts_are_shown_to_those_who_ask(client: genai.Client, name: str) -> None:
    shown = types.GenerateContentConfig(
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=512)
    )
    asked = "Think.\nsim: reasoning=9 words=4"
    answer = client.models.generate_content(model=name, contents=asked, config=shown)
    unasked = client.models.generate_content(model=name, contents=asked)

    def thoughts(of: types.GenerateContentResponse) -> str:
        assert of.candidates is not None
        assert of.candidates[0].content is not None
        return "".join(part.text or "" for part in of.candidates[0].content.parts or [] if part.thought)

    assert thoughts(answer)
    assert not thoughts(unasked)
    assert answer.text == unasked.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.thoughts_token_count == 9


def test_a_chat_that_calls_functions_keeps_its_signatures(client: genai.Client) -> None:
    """The SDK's own loop: it sends back what it was given, signatures re-encoded, over whichever provider signed."""

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"Sunny in {city}."

    for name in (*GEMINI, "by-delta"):
        config = types.GenerateContentConfig(
            tools=[get_weather], thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.LOW)
        )
        chat = client.chats.create(model=name, config=config)
        assert chat.send_message("Weather in Paris?").text
        history = chat.get_history()
        signed = [part for content in history for part in content.parts or [] if part.thought_signature]
        assert signed
        assert any(part.function_response for content in history for part in content.parts or [])
        assert chat.send_message("And tomorrow?\nsim: words=3 tools=0").text


def test_failures_raise_the_sdks_classes_whole_and_in_streams(stack: HostedStack, client: genai.Client) -> None:
    with stack.fault("status", status=503, count=0), pytest.raises(errors.ServerError) as refused:
        client.models.generate_content(model="by-zeta", contents="hi")
    assert (refused.value.code, refused.value.status) == (503, "UNAVAILABLE")
    with stack.fault("error_event", phase="mid"), pytest.raises(errors.ServerError) as broken:
        list(client.models.generate_content_stream(model="by-zeta", contents="hi"))
    assert broken.value.code == 500
    assert PROVIDER_KEY not in str(broken.value)


def test_another_provider_answers_when_the_first_fails(stack: HostedStack, client: genai.Client) -> None:
    with stack.fault("status", status=500, count=2):
        assert client.models.generate_content(model=MODEL, contents="hi").text


def test_without_alt_sse_a_stream_is_an_array(stack: HostedStack) -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    path = "/v1beta/models/acme%2Fby-all:streamGenerateContent"
    answer = stack.run(stack.stack.request("POST", path, body))
    elements = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert elements[-1]["candidates"][0]["finishReason"] == "STOP"
    events = stack.run(stack.stack.request("POST", path.replace("%2F", "/") + "?alt=sse", body)).body
    assert len(events.decode().split("\r\n\r\n")) - 1 == len(elements)


def test_a_key_in_the_address_is_refused(stack: HostedStack) -> None:
    path = f"/v1beta/models/by-zeta:generateContent?key={stack.key}"
    answer = stack.run(stack.stack.request("POST", path, {}, headers={"authorization": ""}))
    assert (answer.status, answer.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "x-goog-api-key" in answer.json["error"]["message"]


def test_nothing_tells_the_providers_apart(stack: HostedStack) -> None:
    """Equal questions to each of them, in both formats: but for names, ids and times, the same bytes."""

    def told(path: str, body: dict[str, Any]) -> str:
        answer = stack.run(stack.stack.request("POST", path, body))
        text = re.sub(r"by-[a-z]+|[0-9a-f]{32}|call_[0-9a-f]{24}|wp1A[A-Za-z0-9_-]+", "*", answer.body.decode())
        return re.sub(r'"created":\d+', "", text) + str(sorted(answer.headers))

    question = "Hi.\nsim: words=5 reasoning=3"
    for streamed in (False, True):
        verb = "streamGenerateContent?alt=sse" if streamed else "generateContent"
        contents = {"contents": [{"parts": [{"text": question}]}]}
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "reasoning_effort": "low"}
        asked["stream"] = streamed
        gemini = {told(f"/v1beta/models/{name}:{verb}", contents) for name in GEMINI}
        openai = {told("/v1/chat/completions", {"model": name, **asked}) for name in MODELS}
        assert len(gemini) == 1
        assert len(openai) == 1, openai
        assert UPSTREAM_MODEL not in str(gemini | openai)


@pytest.mark.parametrize("name", GEMINI)
def test_openai_callers_are_answered_by_the_gemini_kind(stack: HostedStack, name: str) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]
        first = client.chat.completions.create(model=name, messages=messages, tools=[tool], reasoning_effort="low")
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        assert cast(Any, message).reasoning_content
        call = cast(Any, message.tool_calls)[0]
        assert call.id.startswith("call_")
        messages += [message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        second = client.chat.completions.create(model=name, messages=messages, tools=[tool])
        assert second.choices[0].message.content
        assert second.usage is not None
        assert second.usage.total_tokens == second.usage.prompt_tokens + second.usage.completion_tokens

        pieces = list(client.chat.completions.create(model=name, messages=messages, tools=[tool], stream=True))
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert said == second.choices[0].message.content
        parsed = client.chat.completions.parse(
            model=name, messages=[{"role": "user", "content": "Data!"}], response_format=Booking
        )
        assert isinstance(parsed.choices[0].message.parsed, Booking)
