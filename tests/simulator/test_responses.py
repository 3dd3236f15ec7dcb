"""Two providers of the openai-responses kind say the same, each in its own way, and are as strict as OpenAI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from tests.simulator.raw_client import Heard, ask, connect, said
from waypost.simulator import Simulator

KEYED = "Authorization: Bearer sk-test\r\nConnection: close\r\n"
PREFIXES = {"alpha": "/v1", "gamma": "/gamma/v1"}
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    },
    {"type": "function", "name": "now", "parameters": None, "strict": False},
]
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "text": {},
    "no words": {"input": "sim: words=0"},
    "two tools at once": {"tools": TOOLS},
    "reasoning": {"reasoning": {"effort": "low", "summary": "auto"}},
    "hidden reasoning": {"input": "sim: reasoning=5 redacted=1"},
    "a refusal": {"input": "sim: refusal=1"},
    "a limit": {"max_output_tokens": 5},
    "a limit within a call": {"max_output_tokens": 3, "tools": TOOLS},
    "a filtered answer": {"input": "sim: finish=content_filter"},
    "log probabilities": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "a cache": {"input": "sim: input=2000 cached=1000 cache_write=300"},
    "JSON": {"text": {"format": {"type": "json_object"}}},
}


async def create(sim: Simulator, *, style: str = "alpha", **fields: Any) -> Heard:
    """One call over a connection of its own."""
    body = {"model": "sim-large", "input": "hi", "store": False, **fields}
    caller = await connect(sim)
    caller.send(json.dumps(body).encode(), path=PREFIXES[style] + "/responses", headers=KEYED)
    return await caller.rest()


def read(heard: Heard) -> Response:
    if "text/event-stream" not in heard.headers["content-type"]:
        return Response.model_validate(heard.json)
    *_, last = [chunk for chunk in heard.chunks if chunk["type"].startswith("response.")]
    assert last["type"] in ("response.completed", "response.incomplete")
    return Response.model_validate(last["response"])


def meaning(answer: Response) -> Any:
    """What was said, without ids and names."""
    items = [item.model_dump(exclude={"id", "call_id", "encrypted_content"}) for item in answer.output]
    return items, answer.status, answer.incomplete_details, answer.usage


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_both_styles_say_the_same_streamed_and_not(conversation: str) -> None:
    async with Simulator() as sim:
        answers = [
            read(await create(sim, style=style, stream=stream, **CONVERSATIONS[conversation]))
            for style in PREFIXES
            for stream in (False, True)
        ]
        lines = {(line.input_tokens + line.cache_read_tokens, line.output_tokens) for line in sim.bill.lines}
    first, *others = [meaning(answer) for answer in answers]
    assert others == [first] * 3
    assert len(lines) == 1
    usage = answers[0].usage
    assert usage is not None
    assert usage.output_tokens == next(iter(lines))[1]


async def test_deltas_add_up_to_the_whole_and_each_is_a_token() -> None:
    async with Simulator() as sim:
        heard = await create(sim, input="sim: words=12", stream=True)
    deltas = [chunk["delta"] for chunk in heard.chunks if chunk["type"] == "response.output_text.delta"]
    assert len(deltas) == 12
    assert "".join(deltas) == read(heard).output_text
    assert [chunk["sequence_number"] for chunk in heard.chunks] == list(range(len(heard.chunks)))


async def test_an_equal_conversation_has_equal_words_and_tokens_at_the_openai_kind() -> None:
    async with Simulator() as sim:
        chat = said(await ask(sim, "hello", reasoning_effort="low"))
        answer = read(await create(sim, input="hello", reasoning={"effort": "low"}))
    assert answer.usage is not None
    assert [answer.output_text] == chat["choices"][0]["text"]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (chat["tokens"][0], chat["tokens"][2])


async def test_encrypted_reasoning_is_taken_back_by_its_own_provider_only() -> None:
    async with Simulator() as sim:
        given = (await create(sim, input="sim: reasoning=4 words=3")).json["output"]
        history = [{"role": "user", "content": "hi"}, *[{k: v for k, v in item.items() if k != "id"} for item in given]]
        history.append({"role": "user", "content": "go on"})
        again = await create(sim, input=history)
        elsewhere = await create(sim, style="gamma", input=history)
    assert again.status == 200
    assert (elsewhere.status, "verified" in elsewhere.body.decode()) == (400, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"previous_response_id": "resp_1"},
        {"surprise": 1},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]},
        {"input": [{"type": "reasoning", "summary": []}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "zz"}]},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    ],
)
async def test_what_openai_would_refuse_is_refused(fields: dict[str, Any]) -> None:
    async with Simulator() as sim:
        assert (await create(sim, **fields)).status == 400
