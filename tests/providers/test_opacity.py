"""One conversation, told by providers with manners of their own: what the caller reads is the same to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.samples import COST, GOLDEN, ask, identity_for, stream_through
from tests.wire.samples import read as read_request
from waypost.providers import KINDS
from waypost.wire.openai_chat_answer import render_completion

REQUEST = read_request(
    b'{"model":"swift-1","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}'
)
USAGE = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}
Event = dict[str, Any] | bytes

# What is said: reasoning, text, two tool calls with their arguments in pieces.
REASONING = ["Let me", " see."]
TEXT = ["Grüße", " 👋", ' "quoted" </b>\n']
CALLS = [("get_weather", ['{"city":', '"Köln"}']), ("now", [])]


def plain_events() -> list[Event]:
    """As OpenAI does it: usage in an event of its own, `[DONE]`."""

    def event(delta: dict[str, Any], finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {"id": "chatcmpl-Zx81", "object": "chat.completion.chunk", "created": 17, "model": "up"} | {
            "choices": [choice],
            "system_fingerprint": "fp_1",
            "usage": None,
            "obfuscation": "abc",
        }

    events = [event({"role": "assistant", "content": "", "refusal": None})]
    events += [event({"reasoning_content": text}) for text in REASONING]
    events += [event({"content": text}) for text in TEXT]
    for index, (name, pieces) in enumerate(CALLS):
        function = {"name": name, "arguments": ""}
        head = {"index": index, "id": f"call_{index}up", "type": "function", "function": function}
        events.append(event({"tool_calls": [head]}))
        events += [event({"tool_calls": [{"index": index, "function": {"arguments": p}}]}) for p in pieces]
    events.append(event({}, "tool_calls"))
    events.append({"choices": [], "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 0}}})
    return [*events, b"[DONE]"]


def terse_events() -> list[Event]:
    """No index, no ids, late names, the role on every piece, usage in the last content event, no `[DONE]`."""

    def event(delta: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"delta": {"role": "assistant", "content": ""} | delta}], "provider": "Up"}

    events: list[Any] = [event({"reasoning": text, "content": None}) for text in REASONING]
    events += [event({"content": text}) for text in TEXT]
    for name, pieces in CALLS:
        events.append(event({"tool_calls": [{"function": {"name": name}}]}))
        events += [event({"tool_calls": [{"function": {"name": name, "arguments": p}}]}) for p in pieces]
    events[-1]["choices"][0]["finish_reason"] = "tool_use"
    events[-1]["usage"] = USAGE
    return events


def chatty_events() -> list[Event]:
    """Cumulative usage in every event, ids repeated, null fields, a filter report first, `choices: null` last."""
    count = 0

    def event(delta: dict[str, Any], finish: str | None = "") -> Event:
        nonlocal count
        count += 1
        nulls: dict[str, Any] = {
            "content": None,
            "reasoning_content": None,
            "tool_calls": [],
            "function_call": None,
            "audio": None,
        }
        usage = {"completion_tokens": float(count), "prompt_tokens": "12", "total_time": 0.1}
        choice = {"finish_reason": finish, "delta": nulls | delta, "index": 0, "content_filter_results": {}}
        return {"usage": usage, "x_groq": {"id": "req"}, "choices": [choice], "timings": {"ms": 3}}

    events: list[Event] = [
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        event({"role": "assistant"}),
    ]
    events += [event({"reasoning_content": text, "reasoning": text}) for text in REASONING]
    events += [event({"content": text}) for text in TEXT]
    for index, (name, pieces) in enumerate(CALLS):
        head = {"index": index, "id": f"toolu_{index}", "function": {"name": name, "arguments": None}}
        events.append(event({"tool_calls": [head]}))
        for piece in pieces:
            function = {"name": name, "arguments": piece}
            again = {"index": index, "id": f"toolu_{index}", "type": "function", "function": function}
            events.append(event({"tool_calls": [again]}))
    events.append(event({}, "end_turn"))
    return [*events, {"choices": None, "usage": USAGE, "error": None}, b"[DONE]"]


def written(events: list[Event], *, line_end: str = "\n", prefix: str = "data: ", **spelling: Any) -> bytes:
    lines = [event.decode() if isinstance(event, bytes) else json.dumps(event, **spelling) for event in events]
    return "".join([f"{prefix}{line}{line_end}{line_end}" for line in lines]).encode()


STYLES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: written(plain_events(), separators=(",", ":"), ensure_ascii=False),
    "terse": lambda: b": PROCESSING\n\n" + written(terse_events(), line_end="\r\n", prefix="data:"),
    "chatty": lambda: written(chatty_events(), sort_keys=True, separators=(" , ", " : ")),
}


def masked(answer: bytes) -> bytes:
    return re.sub(rb"call_[0-9a-f]{24}", b"call_*", answer)


def cut(stream: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(at for at in cuts if at < len(stream)), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("style", ["terse", "chatty"])
def test_streams_of_every_style_read_the_same(style: str) -> None:
    expected = stream_through(REQUEST, [STYLES["plain"]()])

    assert masked(stream_through(REQUEST, [STYLES[style]()])) == masked(expected)
    assert (
        expected.count(b"data: ") == 15
    )  # role, 2 thoughts, both as one, 3 texts, 2 calls, 3 arguments, end, usage, [DONE]


@settings(database=None, deadline=None, max_examples=60)
@given(style=st.sampled_from(sorted(STYLES)), cuts=st.sets(st.integers(1, 6_000), max_size=60))
def test_no_chunking_of_the_upstream_shows(style: str, cuts: set[int]) -> None:
    stream = STYLES[style]()

    assert stream_through(REQUEST, cut(stream, cuts)) == stream_through(REQUEST, [stream])


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.iterdir()) if (path / "upstream.sse").exists()])
def test_recorded_streams_read_the_same_byte_by_byte(name: str) -> None:
    stream = (GOLDEN / name / "upstream.sse").read_bytes()

    by_byte = stream_through(ask(name), [stream[i : i + 1] for i in range(len(stream))])
    assert by_byte == (GOLDEN / name / "answer.sse").read_bytes()


def whole_answers() -> list[bytes]:
    arguments = ['{"city":"Köln"}', ""]
    calls = [
        {"id": f"call_{i}up", "type": "function", "function": {"name": name, "arguments": arguments[i]}}
        for i, (name, _) in enumerate(CALLS)
    ]
    plain = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Grüße", "refusal": None, "tool_calls": calls},
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
        "service_tier": "flex",
    }
    bare_calls = [{"function": call["function"]} for call in calls]
    terse = {
        "choices": [{"message": {"content": "Grüße", "tool_calls": bare_calls}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12.0, "completion_tokens": "30"},
    }
    chatty = {
        "provider": "Up",
        "usage": USAGE | {"queue_time": 0.2},
        "choices": [
            {
                "finish_reason": "tool_use",
                "message": {
                    "tool_calls": [call | {"index": i, "id": f"toolu_{i}"} for i, call in enumerate(calls)],
                    "reasoning": None,
                    "reasoning_content": "",
                    "refusal": "",
                    "annotations": [],
                    "audio": None,
                    "content": "Grüße",
                },
                "native_finish_reason": "tool_use",
                "index": 0,
                "logprobs": {"tokens": [], "token_logprobs": []},
            }
        ],
        "error": None,
    }
    return [
        json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode(),
        json.dumps(terse, indent=4).encode(),
        json.dumps(chatty, sort_keys=True).encode() + b"\n\n",
    ]


def test_whole_answers_of_every_style_read_the_same() -> None:
    kind, identity = KINDS["openai"], identity_for(REQUEST)
    rendered = set()
    for body in whole_answers():
        completion, usage = kind.completion({}, body)
        assert usage is not None
        rendered.add(masked(render_completion(completion, identity, usage, COST)))

    assert len(rendered) == 1
