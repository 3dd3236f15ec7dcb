"""Nobody can tell from an answer who gave it.

The same conversations and the same faults go through three providers that differ in everything a provider can differ
in. What the caller receives is compared byte for byte, after masking ids, times and token counts; the texts are equal
as they are. And none of it names a provider, an address, an upstream model or a provider's key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import PROVIDER_KEY, STYLES, UPSTREAM_MODEL, Answer, Stack, ask, document
from waypost.simulator import Simulator

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "ok": {"type": "boolean"}},
            "required": ["name", "count", "ok"],
            "additionalProperties": False,
        },
    },
}
_PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501
_VISION = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": _PIXEL}}]

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "text": ask('Tell me about Zürich / the Alps \\ and "quotes"'),
    "two choices": ask("Hi", n=2),
    "one tool": ask("Weather in Paris?", tools=[_WEATHER]),
    "parallel tools": ask("Weather and time?\nsim: tools=3", tools=[_WEATHER, _TIME]),
    "required tool": ask("Anything", tools=[_WEATHER, _TIME], tool_choice="required"),
    "named tool": ask(
        "Now", tools=[_WEATHER, _TIME], tool_choice={"type": "function", "function": {"name": "get_time"}}
    ),
    "tool result": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ]
    },
    "schema": ask("Give me data", response_format=_SCHEMA),
    "vision": {"messages": [{"role": "user", "content": _VISION}]},
    "reasoning": ask("Think\nsim: reasoning=9"),
    "log probabilities": ask("Hi\nsim: words=4", logprobs=True, top_logprobs=2),
    "cut by max_tokens": ask("Long", max_tokens=5),
    "cut by max_completion_tokens": ask("Long", max_completion_tokens=5),
    "refusal": ask("Bad\nsim: refusal=1"),
    "filtered": ask("Bad\nsim: finish=content_filter"),
    "cached": ask("Again\nsim: input=900 cached=800"),
}

# Two of the three providers send an error without any code: what they mean is for the operator to say.
_RULES = [{"match": {"status": 400, "message_contains": "usage policy"}, "code": "CONTENT_MODERATION_REJECTED"}]
_LATE = {"phase": "mid"}
FAULTS: dict[str, dict[str, Any]] = {
    **{f"status {status}": {"kind": "status", "status": status} for status in (400, 401, 402, 403, 404, 408, 409, 413)},
    **{f"status {status}": {"kind": "status", "status": status} for status in (418, 422, 500, 502, 503, 504, 524, 529)},
    "429": {"kind": "status", "status": 429},
    "429 with a wait": {"kind": "status", "status": 429, "retry_after": "30"},
    "context length": {"kind": "status", "status": 400, "code": "context_length_exceeded"},
    "content policy": {"kind": "status", "status": 400, "message": "This breaks our usage policy."},
    "echo": {"kind": "echo_secret"},
    "empty": {"kind": "empty_200"},
    "page": {"kind": "html_200"},
    "error in 200": {"kind": "json_error_200", "type": "server_error"},
    "redirect": {"kind": "redirect"},
    "reset": {"kind": "reset"},
    "end": {"kind": "half_close"},
    "huge header": {"kind": "gigantic_header"},
    "cut JSON": {"kind": "truncated_json", "phase": "after_headers"},
    "wrong types": {"kind": "wrong_types", "phase": "after_headers"},
    "deep": {"kind": "deep_json", "phase": "after_headers"},
    "gzip": {"kind": "encoding", "encoding": "gzip"},
    "no finish": {"kind": "no_finish_reason"},
    "cut late": {"kind": "truncated_chunk", **_LATE},
    "reset late": {"kind": "reset", **_LATE},
}
STREAM_FAULTS: dict[str, dict[str, Any]] = {
    "error first": {"kind": "error_event", "phase": "after_headers"},
    "error late": {"kind": "error_event", **_LATE},
    "echo late": {"kind": "echo_secret", **_LATE},
    "garbage late": {"kind": "garbage_event", **_LATE},
    "endless line": {"kind": "endless_line", **_LATE},
}
_MASKS = (
    (rb"wp1A[A-Za-z0-9_=-]+", b"SEAL"),
    (rb"(req|exec)_[0-9a-f-]{36}", rb"\1_<id>"),
    (rb"chatcmpl-[0-9a-f]{32}", b"chatcmpl-<id>"),
    (rb"call_[0-9a-f]{24}", b"call_<id>"),
    (rb"model-[a-z]+(-\d+)?", b"model"),
    (rb'"created":\d+', b'"created":<time>'),
    (rb"(?i)\r\ndate: [^\r]+", b"\r\ndate: <time>"),
    (rb"content-length: \d+", b"content-length: <n>"),
    (rb'("[a-z_]+_tokens"):\d+', rb"\1:<n>"),
    (rb'"cost":"[0-9.]+"', b'"cost":"<n>"'),
)


def three_models(sim: Simulator) -> dict[str, Any]:
    """`model-alpha`, `model-beta`, `model-gamma`: each on one provider."""
    return many_models(sim, [""])


def many_models(sim: Simulator, endings: Sequence[str]) -> dict[str, Any]:
    """The same three once for each ending of their names, and of the upstream model's."""
    whole = document(sim, error_map=_RULES)
    (template,) = whole["models"]
    whole["models"] = [
        {
            **template,
            "slug": f"model-{style}{ending}",
            "aliases": [],
            "deployments": [{**deployment, "upstream_model": UPSTREAM_MODEL + ending}],
        }
        for ending in endings
        for style, deployment in zip(STYLES, template["deployments"], strict=True)
    ]
    return whole


def masked(answer: Answer) -> bytes:
    """Status, headers and body; how a stream was cut into HTTP chunks is a matter of time, not of who answered."""
    seen = answer.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + answer.body
    for pattern, replacement in _MASKS:
        seen = re.sub(pattern, replacement, seen)
    return seen


def names_nobody(sim: Simulator, answer: Answer) -> None:
    raw = answer.raw.lower()
    secrets = [
        PROVIDER_KEY,
        UPSTREAM_MODEL,
        f":{sim.port}",
        "127.0.0.1",
        "-provider",
        "simulat",
        "x-sim",
        "\r\nserver:",
    ]
    assert [secret for secret in secrets if secret.encode() in raw] == []


async def ask_all(stack: Stack, body: Mapping[str, Any], ending: str = "") -> list[bytes]:
    """The same request to all three; what each caller received, masked."""
    answers = await asyncio.gather(*(stack.chat({**body, "model": f"model-{style}{ending}"}) for style in STYLES))
    for answer in answers:
        names_nobody(stack.sim, answer)
    return [masked(answer) for answer in answers]


@pytest.mark.slow
async def test_the_same_conversation_reads_the_same_whoever_answers(database: str, tmp_path: Path) -> None:
    sim = Simulator()
    async with Stack(database, tmp_path, document=None, simulator=sim) as stack:
        await stack.adopt(three_models(sim))
        for name, body in CONVERSATIONS.items():
            for stream in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}):
                seen = await ask_all(stack, {**body, **stream})
                assert seen[0].startswith(b"HTTP/1.1 200 "), (name, seen[0])
                assert seen[0] == seen[1], (name, stream)
                assert seen[0] == seen[2], (name, stream)


@pytest.mark.slow
async def test_the_same_fault_reads_the_same_whoever_fails(database: str, tmp_path: Path) -> None:
    sim = Simulator()
    async with Stack(database, tmp_path, document=None, simulator=sim) as stack:
        plain = [(name, fault, False) for name, fault in FAULTS.items()]
        streamed = [(name, fault, True) for name, fault in (FAULTS | STREAM_FAULTS).items()]
        cases = plain + streamed
        # Models of its own for each fault: a circuit that one of them opens must not answer for the next.
        await stack.adopt(many_models(sim, [f"-{at}" for at in range(len(cases))]))
        for at, (name, fault, is_stream) in enumerate(cases):
            sim.arm(count=0, **fault)
            seen = await ask_all(stack, ask("The secret word is xyzzy.", stream=is_stream), f"-{at}")
            sim.disarm()
            assert sim.requests[-1].model == f"{UPSTREAM_MODEL}-{at}", "no provider was asked"
            assert seen[0] == seen[1], (name, is_stream)
            assert seen[0] == seen[2], (name, is_stream)
            assert b"[DONE]" not in seen[0], (name, "an invented success")
            assert b"xyzzy" not in seen[0], (name, "the provider's echo of the prompt")
        assert PROVIDER_KEY.encode() not in stack.log_text
        assert b"xyzzy" not in stack.log_text
