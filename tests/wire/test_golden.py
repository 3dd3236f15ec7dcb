"""Recorded conversations: what a caller asks, what goes to the provider, what comes back, and what the caller reads.

A folder holds `request.json`, and `upstream.json` and/or `upstream.sse` as a provider would send them. `call.json`,
`answer.json` and `answer.sse` are ours: UPDATE_GOLDEN=1 writes them anew, and the difference is for people to read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.wire.samples import COST, GOLDEN, TARGET, ask, identity_for, stream_through, told, unsealed
from waypost.providers import KINDS
from waypost.wire.canonical import Usage
from waypost.wire.openai_chat_answer import render_completion

CONVERSATIONS = sorted(path.name for path in GOLDEN.iterdir())
WHOLE = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.json").exists()]
STREAMED = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.sse").exists()]


def compare(path: Path, actual: bytes) -> None:
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_bytes(actual)
    assert actual.decode() == path.read_text()


def answered_whole(name: str) -> bytes:
    request = ask(name)
    completion, usage = KINDS["openai"].completion({}, (GOLDEN / name / "upstream.json").read_bytes(), n=request.n)
    return unsealed(render_completion(completion, identity_for(request), told(usage), COST))


def test_there_are_enough_conversations() -> None:
    assert len(CONVERSATIONS) >= 12


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_provider_is_asked_as_recorded(name: str) -> None:
    head, body = KINDS["openai"].call(ask(name), TARGET, output_tokens_max=8192)

    assert head == TARGET.head
    compare(GOLDEN / name / "call.json", body)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_reads_as_recorded(name: str) -> None:
    answer = answered_whole(name)

    compare(GOLDEN / name / "answer.json", answer)
    parsed = ChatCompletion.model_validate_json(answer, strict=True)
    assert parsed.model == "swift-1"
    assert not parsed.model_extra


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_answer_reads_as_recorded(name: str) -> None:
    request = ask(name)
    answer = stream_through(request, [(GOLDEN / name / "upstream.sse").read_bytes()])

    compare(GOLDEN / name / "answer.sse", answer)
    *events, done, rest = answer.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [ChatCompletionChunk.model_validate_json(event.removeprefix("data: "), strict=True) for event in events]
    assert not any(chunk.model_extra for chunk in chunks)
    assert {chunk.model for chunk in chunks} == {"swift-1"}
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([chunks[-1].usage] if request.include_usage else [])
    for index in range(request.n):
        pieces = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert (pieces[0].delta.role, pieces[0].delta.content) == ("assistant", "")
        assert [piece.finish_reason is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].delta.model_dump(exclude_unset=True) == {}


@pytest.mark.parametrize("name", sorted(set(WHOLE) & set(STREAMED)))
def test_streamed_pieces_add_up_to_the_whole(name: str) -> None:
    whole = json.loads((GOLDEN / name / "answer.json").read_bytes())
    lines = (GOLDEN / name / "answer.sse").read_text().split("\n\n")[:-2]
    for choice in whole["choices"]:
        text = dict.fromkeys(("content", "reasoning_content", "refusal"), "")
        arguments: dict[int, str] = {}
        for line in lines:
            for piece in json.loads(line.removeprefix("data: "))["choices"]:
                if piece["index"] == choice["index"]:
                    for field in text:
                        text[field] += piece["delta"].get(field) or ""
                    for call in piece["delta"].get("tool_calls", ()):
                        arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
        assert text == {field: choice["message"].get(field) or "" for field in text}
        calls = choice["message"].get("tool_calls", ())
        assert list(arguments.values()) == [call["function"]["arguments"] for call in calls]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_nothing_of_the_provider_is_in_the_answer(name: str) -> None:
    for path in (GOLDEN / name).glob("answer.*"):
        answer = path.read_bytes()
        for word in (b"alpha", b"Alpha", b"fp_", b"C9xT", b"1790000001", b"priority", b"toolu", b"chatcmpl-tool"):
            assert word not in answer, (path.name, word)


def test_an_answer_without_usage_is_still_rendered_with_one() -> None:
    completion, usage = KINDS["openai"].completion(
        {}, b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    )

    assert usage is None
    answer = json.loads(render_completion(completion, identity_for(ask("text")), Usage(3, output_tokens=1), "0.00"))
    assert answer["usage"]["total_tokens"] == 4
    assert list(answer["usage"])[-1] == "cost"
