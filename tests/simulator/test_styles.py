"""Three providers say the same, each in its own way."""

from __future__ import annotations

import re

import pytest

from tests.simulator.raw_client import PREFIXES, ask, asking, said
from waypost.simulator import Simulator

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
            "required": ["city"],
        },
    },
}
OTHER_TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": TOOL["function"]["parameters"]}}  # type: ignore[index]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]
CONVERSATIONS: dict[str, dict[str, object]] = {
    "text": {},
    "no words": {"text": "sim: words=0"},
    "one word": {"text": "sim: words=1"},
    "two tools at once": {"tools": [TOOL, OTHER_TOOL]},
    "a schema": {"response_format": SCHEMA},
    "reasoning": {"reasoning_effort": "low"},
    "refusal": {"text": "sim: refusal=1"},
    "a filtered answer": {"text": "sim: finish=content_filter"},
    "several choices": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "a limit": {"max_tokens": 5},
    "a cache": {"text": "sim: input=2000 cached=1536"},
    "an image": {"messages": IMAGE},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_the_same_conversation_has_the_same_words_deltas_and_usage_in_all_styles(
    conversation: str, stream: bool
) -> None:
    fields = {"text": "hi", **CONVERSATIONS[conversation], "stream": stream}
    async with Simulator() as sim:
        alpha, beta, gamma = [said(await ask(sim, style=style, **fields)) for style in PREFIXES]  # type: ignore[arg-type]
    assert alpha == beta == gamma
    assert all(choice["finish"] for choice in alpha["choices"].values())


async def test_a_streamed_answer_has_the_words_of_the_whole_one() -> None:
    async with Simulator() as sim:
        whole = said(await ask(sim, n=2, reasoning_effort="low"))
        streamed = said(await ask(sim, n=2, reasoning_effort="low", stream=True))
    assert whole["tokens"] == streamed["tokens"]
    for at in range(2):
        for kind in ("text", "reasoning"):
            assert "".join(streamed["choices"][at][kind]) == whole["choices"][at][kind][0]


async def test_alpha_streams_like_openai() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, "sim: words=2", stream=True)
    first, *deltas, finish, usage = heard.chunks
    assert heard.events[-1] == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["finish_reason"] for chunk in deltas] == [None, None]
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert all(chunk["usage"] is None for chunk in (first, *deltas, finish))
    assert len({chunk["id"] for chunk in heard.chunks}) == 1
    assert re.fullmatch("chatcmpl-[0-9A-Za-z]{29}", first["id"])


async def test_beta_escapes_comments_ends_lines_with_crlf_and_tells_usage_in_its_last_content_chunk() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, "sim: words=40", style="beta", stream=True)
    assert heard.body.startswith(b": BETA PROCESSING\r\n\r\ndata:{")
    assert heard.body.isascii()
    assert b"\n" not in heard.body.replace(b"\r\n", b"")
    assert [bool(chunk.get("usage")) for chunk in heard.chunks] == [False] * 39 + [True]
    assert heard.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["choices"][0]["delta"]["role"] == "assistant" for chunk in heard.chunks)
    assert heard.events[-1] == "[DONE]"
    assert "transfer-encoding: chunked" in heard.head


async def test_gamma_sends_cumulative_usage_several_events_a_chunk_and_no_done() -> None:
    async with Simulator() as sim:
        heard = await ask(sim, "sim: words=40", style="gamma", stream=True)
    counts = [chunk["usage"]["completion_tokens"] for chunk in heard.chunks]
    assert counts == [*range(1, 41), 40, 40]
    assert heard.chunks[-1]["choices"] is None
    assert "[DONE]" not in heard.events
    assert b"\n\nevent: message\n" in heard.framed_body.split(b"\r\n")[7]
    assert b"\\/" in heard.body


async def test_tool_call_ids_are_long_foreign_short_or_missing() -> None:
    async with Simulator() as sim:
        heard = {style: await ask(sim, style=style, tools=[TOOL, OTHER_TOOL]) for style in PREFIXES}
    ids = {
        style: [call.get("id") for call in answer.json["choices"][0]["message"]["tool_calls"]]
        for style, answer in heard.items()
    }
    assert all(re.fullmatch("call_[0-9a-f]{24}", call_id) for call_id in ids["alpha"])
    assert all(call_id.startswith("toolu_") for call_id in ids["beta"])
    assert ids["gamma"] == ["0", None]


async def test_without_asking_only_gamma_tells_the_usage_of_a_stream() -> None:
    async with Simulator() as sim:
        heard = [await ask(sim, style=style, stream=True, stream_options=None) for style in PREFIXES]
    assert [said(answer)["tokens"][0] is not None for answer in heard] == [False, False, True]


async def test_errors_have_three_shapes() -> None:
    async with Simulator() as sim:
        alpha, beta, gamma = [await ask(sim, style=style, messages=[]) for style in PREFIXES]
        sim.arm("status", status=503)
        broken = await ask(sim, style="gamma")
    assert [alpha.status, beta.status, gamma.status] == [400, 400, 400]
    assert set(alpha.json["error"]) == {"message", "type", "param", "code"}
    assert list(beta.json) == ["detail"]
    assert (gamma.json["object"], gamma.json["code"]) == ("error", 400)
    assert broken.headers["content-type"] == "text/plain"


async def test_header_names_and_servers_differ() -> None:
    async with Simulator() as sim:
        heard = {style: await ask(sim, style=style) for style in PREFIXES}
    assert len({answer.headers["server"] for answer in heard.values()}) == 3
    assert "Content-Type: " in heard["alpha"].head
    assert "content-type: " in heard["beta"].head
    assert "Content-type: " in heard["gamma"].head


async def test_beta_tears_events_over_segments() -> None:
    async with Simulator() as sim:
        caller = await asking(sim, "sim: words=40", style="beta", stream=True)
        await caller.rest()
    assert any(not data.endswith(b"\r\n") for data in caller.reads[:-1])
