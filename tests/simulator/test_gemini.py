"""Two providers of the gemini kind say the same, each in its own way, and are as strict as Gemini."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types

from tests.simulator.raw_client import Heard, ask, connect, said
from waypost.simulator import Simulator

KEYED = "x-goog-api-key: AIza-test\r\nConnection: close\r\n"
PREFIXES = {"zeta": "/gemini", "eta": "/eta"}
TOOLS = [
    {
        "functionDeclarations": [
            {"name": "get_weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}},
            {"name": "now", "parametersJsonSchema": {"type": "object"}},
        ]
    }
]
SHOWN = {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "text": {},
    "no words": {"text": "sim: words=0"},
    "two tools at once, one without arguments": {"tools": TOOLS},
    "tools after thinking": {"tools": TOOLS, "generationConfig": SHOWN},
    "thinking": {"generationConfig": SHOWN},
    "hidden thinking": {"text": "sim: reasoning=5"},
    "two candidates": {"generationConfig": {"candidateCount": 2}},
    "log probabilities": {"text": "sim: words=3", "generationConfig": {"responseLogprobs": True, "logprobs": 2}},
    "a schema": {
        "generation_config": {"response_mime_type": "application/json", "response_schema": {"type": "OBJECT"}}
    },
    "a limit": {"generationConfig": {"maxOutputTokens": 5}},
    "a cache": {"text": "sim: input=2000 cached=1000"},
}


async def generate(
    sim: Simulator, text: str = "hi", *, style: str = "zeta", stream: bool = False, **fields: Any
) -> Heard:
    """One call over a connection of its own."""
    contents = fields.pop("contents", [{"role": "user", "parts": [{"text": text}]}])
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    caller = await connect(sim)
    caller.send(
        json.dumps({"contents": contents, **fields}).encode(),
        path=f"{PREFIXES[style]}/v1beta/models/sim-large:{verb}",
        headers=KEYED,
    )
    return await caller.rest()


def read(heard: Heard) -> list[types.GenerateContentResponse]:
    """As the SDK reads it, without what its types do not know."""
    assert heard.status == 200, heard.body
    documents = heard.chunks if "event-stream" in heard.headers["content-type"] else [heard.json]
    return [types.GenerateContentResponse._from_response(response=each, kwargs={}) for each in documents]


def meaning(answers: list[types.GenerateContentResponse]) -> Any:
    """What was said by candidate, how it ended and what it used, without ids and names."""
    by_index: dict[int, Any] = {}
    for answer in answers:
        for candidate in answer.candidates or []:
            told = by_index.setdefault(candidate.index or 0, ["", "", [], 0, None, []])
            for part in (candidate.content and candidate.content.parts) or []:
                told[1 if part.thought else 0] += part.text or ""
                told[2] += [(part.function_call.name, part.function_call.args or {})] if part.function_call else []
                told[3] += part.thought_signature is not None
            told[4] = candidate.finish_reason or told[4]
            logprobs = candidate.logprobs_result
            told[5] += [each.token for each in (logprobs.chosen_candidates if logprobs else None) or []]
    usage = answers[-1].usage_metadata
    assert usage is not None
    output = (usage.total_token_count or 0) - (usage.prompt_token_count or 0)
    counts = (usage.prompt_token_count, usage.cached_content_token_count or 0, usage.thoughts_token_count or 0, output)
    return by_index, counts


@pytest.mark.parametrize("conversation", CONVERSATIONS)
async def test_both_styles_say_the_same_streamed_and_not(conversation: str) -> None:
    fields = CONVERSATIONS[conversation]
    async with Simulator() as sim:
        answers = [
            read(await generate(sim, style=style, stream=stream, **fields))
            for style in PREFIXES
            for stream in (False, True)
        ]
        lines = {(line.input_tokens, line.output_tokens) for line in sim.bill.lines}
    first, *others = [meaning(answer) for answer in answers]
    assert others == [first] * 3
    assert lines == {(first[1][0] - first[1][1], first[1][3])} or lines == {(first[1][0], first[1][3])}


async def test_an_equal_conversation_has_equal_words_and_tokens_at_the_openai_kind() -> None:
    async with Simulator() as sim:
        chat = said(await ask(sim, "hello", reasoning_effort="low"))
        told, counts = meaning(read(await generate(sim, "hello", generationConfig=SHOWN)))
    assert [told[0][1]] == chat["choices"][0]["reasoning"]
    assert [told[0][0]] == chat["choices"][0]["text"]
    assert (counts[0], counts[3]) == (chat["tokens"][0], chat["tokens"][2])


async def test_signatures_are_verified_and_calls_need_one() -> None:
    async with Simulator() as sim:
        answer = (await generate(sim, "sim: reasoning=4", tools=TOOLS)).json
        given = answer["candidates"][0]["content"]
        results = [{"functionResponse": {"name": part["functionCall"]["name"]}} for part in given["parts"]]
        history = [{"role": "user", "parts": [{"text": "hi"}]}, given, {"role": "user", "parts": results}]
        assert (await generate(sim, contents=history, style="eta")).status == 200
        signature = given["parts"][0]["thoughtSignature"]
        given["parts"][0]["thoughtSignature"] = signature[:-4] + "AAA="
        altered = await generate(sim, contents=history)
        del given["parts"][0]["thoughtSignature"]
        missing = await generate(sim, contents=history)
        given["parts"][0]["thoughtSignature"] = "skip_thought_signature_validator"
        assert (await generate(sim, contents=history)).status == 200
    assert altered.json["error"]["message"] == "Corrupted thought signature."
    assert (missing.status, missing.json["error"]["status"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "fields",
    [
        {"contents": []},
        {"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]},
        {"contents": [{"parts": [{"text": "a", "inlineData": {"mimeType": "image/png", "data": ""}}]}]},
        {"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]},
        {"generationConfig": {"max_tokens": 5}},
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": 5, "thinkingLevel": "LOW"}}},
        {"generationConfig": {"responseSchema": {"type": "OBJECT"}}},
        {"generationConfig": {"stopSequences": list("abcdef")}},
        {"generationConfig": {"logprobs": 2}},
        {"tools": [{"functionDeclarations": [{"name": "f"}, {"name": "f"}]}]},
        {"toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}, "tools": TOOLS},
        {"stream": True, "model": "sim-large"},
    ],
)
async def test_what_gemini_refuses_is_refused(fields: dict[str, Any]) -> None:
    async with Simulator() as sim:
        heard = await generate(sim, **{name: value for name, value in fields.items() if name != "stream"})
    assert (heard.status, heard.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
