"""Anthropic's format at both ends: callers and providers of every kind, with the official SDKs unmodified."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import Answer, deployment, model, provider
from waypost.simulator import Simulator

KINDS = {"alpha": "openai", "gamma": "openai", "delta": "anthropic", "epsilon": "anthropic"}
SLUGS = {style: f"model-{at}" for at, style in enumerate(KINDS)}  # of one length
TOOLS: Any = [
    {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
    {"name": "get_time", "description": "Now.", "input_schema": {"type": "object"}},
]
FUNCTIONS: Any = [
    {"type": "function", "function": {"name": each["name"], "parameters": each["input_schema"]}} for each in TOOLS
]
THINKING: Any = {"type": "enabled", "budget_tokens": 2048}


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("anthropic")) as stack:
        stack.run(stack.stack.adopt(catalogue(stack.stack.sim)))
        yield stack


def catalogue(sim: Simulator) -> dict[str, Any]:
    """A model of each style's name, and one on two kinds."""
    models = [model(SLUGS[style], deployment(style), aliases=[style]) for style in KINDS]
    return {
        "providers": [provider(sim, style, style, kind=kind) for style, kind in KINDS.items()],
        "models": [*models, model("failing-over", deployment("gamma"), deployment("epsilon"))],
    }


@pytest.fixture(scope="module")
def claude(stack: HostedStack) -> Iterator[Anthropic]:
    base_url = stack.base_url.removesuffix("/v1")
    with Anthropic(base_url=base_url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(stack: HostedStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


def say(text: str) -> Any:
    return [{"role": "user", "content": text}]


def create(client: Anthropic, style: str, messages: Any, **fields: Any) -> Any:
    return client.messages.create(model=style, max_tokens=8192, messages=messages, **fields)


def streamed(client: Anthropic, style: str, messages: Any, **fields: Any) -> Any:
    with client.messages.stream(model=style, max_tokens=8192, messages=messages, **fields) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("style", KINDS)
def test_a_conversation_with_thinking_and_tools_goes_on_at_every_kind(claude: Anthropic, style: str) -> None:
    asked = say("Weather and time?\nsim: tools=2")
    first = create(claude, style, asked, tools=TOOLS, thinking=THINKING)
    thinking, weather, time = first.content
    assert (thinking.type, weather.name, time.name) == ("thinking", "get_weather", "get_time")
    assert thinking.thinking
    assert thinking.signature.startswith("wp1A")
    again = streamed(claude, style, asked, tools=TOOLS, thinking=THINKING)
    assert [block.to_dict().get("input") for block in again.content] == [None, weather.input, time.input]
    assert again.usage.output_tokens == first.usage.output_tokens

    results: Any = [
        {"type": "tool_result", "tool_use_id": weather.id, "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": time.id, "content": "no clock", "is_error": True},
    ]
    history = [*say("Weather and time?"), first.to_param(), {"role": "user", "content": results}]
    last = streamed(claude, style, history, tools=TOOLS, thinking=THINKING)
    assert [block.type for block in last.content] == ["thinking", "text"]
    assert last.stop_reason == "end_turn"


@pytest.mark.parametrize("style", ["alpha", "epsilon"])
def test_another_kinds_thinking_does_not_hinder_the_next(claude: Anthropic, style: str) -> None:
    asked = say("Weather?\nsim: tools=1")
    first = create(claude, "delta" if style == "alpha" else "alpha", asked, tools=TOOLS, thinking=THINKING)
    use = first.content[-1]
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]
    history = [*say("Weather?"), first.to_param(), {"role": "user", "content": results}]
    assert create(claude, style, history, tools=TOOLS, thinking=THINKING).content[-1].text


def test_hidden_thinking_citations_and_stops_come_through(claude: Anthropic) -> None:
    hidden = create(claude, "delta", say("sim: reasoning=5 redacted=1 words=3 cite=1"))
    assert [block.type for block in hidden.content] == ["redacted_thinking", "text"]
    assert hidden.content[1].citations[0].document_title == "Source"
    history = [*say("Hi."), hidden.to_param(), *say("Go on.")]
    assert create(claude, "epsilon", history).content
    stopped = streamed(claude, "epsilon", say("sim: words=30"), stop_sequences=["The"])
    assert (stopped.stop_reason, stopped.stop_sequence, stopped.content) == ("stop_sequence", "The", [])
    refused = streamed(claude, "delta", say("sim: refusal=1"))
    assert refused.stop_reason == "refusal"


def test_an_openai_caller_is_answered_by_an_anthropic_provider(gpt: OpenAI, stack: HostedStack) -> None:
    asked = say("Weather and time?\nsim: tools=2")
    first: Any = gpt.chat.completions.create(
        model="delta", messages=asked, tools=FUNCTIONS, reasoning_effort="low", temperature=0.5
    )
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.reasoning_content
    assert message.tool_calls[0].id.startswith("call_")
    history = [*say("Weather and time?"), message.to_dict()]
    history += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    for style in KINDS:  # with the reasoning and its signature, which whoever can read it takes back
        more: Any = gpt.chat.completions.create(
            model=style, messages=history, tools=FUNCTIONS, reasoning_effort="low", max_tokens=8192
        )
        assert more.choices[0].message.content
        assert more.choices[0].message.reasoning_content
    sent = stack.run(_last_body(stack, "epsilon"))
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["thinking", "tool_use", "tool_use"]
    assert "wp1A" not in str(sent)
    stream = gpt.chat.completions.create(
        model="epsilon", messages=history, tools=FUNCTIONS, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_what_anthropic_cannot_be_given_is_refused_by_name_or_dropped_by_leave(stack: HostedStack) -> None:
    body = {"model": "delta", "messages": say("Hi."), "logit_bias": {"5": 1}, "seed": 4}
    refused = stack.run(stack.stack.chat(body))
    assert refused.status == 400
    assert refused.json["error"]["param"] == "logit_bias"
    answered = stack.run(stack.stack.chat({**body, "provider": {"require_parameters": False}}))
    assert answered.status == 200
    assert answered.headers["x-dropped-parameters"] == "logit_bias, seed"


def test_an_anthropic_caller_fails_over_between_kinds(claude: Anthropic, stack: HostedStack) -> None:
    with stack.fault("status", status=529, style="gamma", count=0):
        answer = create(claude, "failing-over", say("Hi."))
        again = streamed(claude, "failing-over", say("Hi."))
    assert answer.content[0].text == again.content[0].text
    assert answer.model == "failing-over"


# Nobody can tell who answered


IDS = re.compile(rb"(msg_|toolu_|call_|chatcmpl-|req_|exec_)[0-9a-f-]+")
SEALS = re.compile(rb"wp1A[A-Za-z0-9_=-]+")
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
ASKED: dict[str, dict[str, Any]] = {
    "text": {"text": "Say something."},
    "thinking": {"text": "sim: reasoning=6 words=5"},
    "tools": {"text": "sim: tools=2", "tools": True},
    "a cut": {"text": "sim: words=50", "max_tokens": 7},
    "cache": {"text": "sim: input=2000 cached=1000 cache_write=100"},
}


def masked(answer: Answer) -> bytes:
    """Without what differs between any two answers: ids, times, seals (but for their length)."""
    raw = re.sub(rb"\r\n[0-9a-f]+\r\n", b"\r\n", answer.raw)  # where HTTP chunks end depends on time
    raw = SEALS.sub(lambda found: b"seal-%d" % len(found[0]), IDS.sub(rb"\1id", raw))
    raw = re.sub(rb'"created":\d+|date: [^\r]+', b"", raw)
    return re.sub(rb'"model":"model-."', b"", raw)


async def ask_all(stack: HostedStack, form: str, conversation: dict[str, Any], *, stream: bool) -> list[Answer]:
    fields: dict[str, Any] = {"messages": say(conversation["text"]), "stream": stream}
    fields["max_tokens"] = conversation.get("max_tokens", 4096)
    if "tools" in conversation:
        fields["tools"] = TOOLS if form == "anthropic" else FUNCTIONS
    if stream and form == "openai":
        fields["stream_options"] = {"include_usage": True}
    return [await stack.stack.request("POST", PATHS[form], {"model": SLUGS[style], **fields}) for style in KINDS]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", PATHS)
@pytest.mark.parametrize("name", ASKED)
def test_equal_answers_read_equal_whoever_gave_them(stack: HostedStack, form: str, name: str, stream: bool) -> None:
    answers = stack.run(ask_all(stack, form, ASKED[name], stream=stream))
    assert [answer.status for answer in answers] == [200] * len(KINDS)
    first, *others = [masked(answer) for answer in answers]
    assert others == [first] * len(others)


# (kind, further fields) → whether the answer is whole all the same
FAULTS: list[tuple[str, dict[str, Any], bool]] = [
    ("truncated_json", {}, False),
    ("nan", {"phase": "after_first_chunk"}, False),
    ("overflow", {"phase": "after_first_chunk"}, True),  # of an index, which the order of events says too
    ("wrong_types", {}, True),  # of a field that no event of a stream has
    ("garbage_event", {}, False),
    ("error_event", {}, False),
    ("no_finish_reason", {}, False),
    ("reset", {"phase": "mid"}, False),
    ("half_close", {"phase": "before_usage"}, False),
    ("truncated_chunk", {}, False),
    ("endless_line", {}, False),
    ("no_blank_lines", {}, False),
    ("usage", {"value": "missing"}, True),
    ("usage", {"value": "negative"}, True),
    ("usage", {"value": "text"}, True),
    ("early_usage", {"phase": "mid"}, True),
    ("duplicate_usage", {}, True),
    ("no_done", {}, True),
    ("two_done", {}, True),
    ("event_after_done", {}, True),
    ("line_ends", {"value": "mix"}, True),
    ("bom", {}, True),
    ("split_utf8", {}, True),
    ("byte_by_byte", {}, True),
    ("comment_flood", {"phase": "mid"}, True),
]


@pytest.mark.parametrize(("kind", "fields", "is_whole"), FAULTS)
def test_a_fault_of_a_provider_never_becomes_an_invented_end(
    stack: HostedStack, kind: str, fields: dict[str, Any], is_whole: bool
) -> None:
    body = {"model": SLUGS["delta"], "max_tokens": 999, "messages": say("sim: words=20"), "stream": True}
    with stack.fault(kind, style="delta", count=0, **fields):
        answer = stack.run(stack.stack.request("POST", PATHS["anthropic"], body))
    ended = answer.body.decode().rstrip().endswith('{"type":"message_stop"}')
    assert (answer.status == 200 and ended) == is_whole, answer.body
    if not is_whole:
        assert answer.body.count(b'"type":"error"') == 1
        assert b"message_stop" not in answer.body
    else:
        assert b'"stop_reason":"end_turn"' in answer.body


async def _last_body(stack: HostedStack, style: str) -> Any:
    """What the provider of that style was asked last."""
    bodies = [record.body for record in stack.stack.sim.requests if record.style == style]
    return json.loads(bodies[-1])


async def bill_and_books(stack: HostedStack) -> tuple[int, int]:
    await stack.stack.at_rest()
    booked = sum(int(row["cogs"]) for row in await stack.stack.settlements())
    return stack.stack.sim.bill.nanos, booked


def test_the_books_agree_with_the_providers_bill(stack: HostedStack, claude: Anthropic) -> None:
    before = stack.run(bill_and_books(stack))
    create(claude, "delta", say("sim: input=4000 cached=2000 cache_write=500 cache_write_1h=300"))
    streamed(claude, "epsilon", say("sim: input=4000 cached=2000 cache_write=500 cache_write_1h=300"))
    after = stack.run(bill_and_books(stack))
    billed, booked = after[0] - before[0], after[1] - before[1]
    assert billed == booked > 0
