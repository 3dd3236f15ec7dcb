"""Recorded conversations in OpenAI's Responses format; what stands in a folder is told in `test_golden`.

Envelopes are sealed with fresh nonces: in the recordings `@SEALED@` stands for one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.wire.samples import AROUND, COST, ENVELOPE, identity_for, told
from waypost.providers import KINDS
from waypost.providers.kind import BadAnswer, Target
from waypost.wire.canonical import Signature, Usage
from waypost.wire.formats import FORMATS
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import ChatRequest
from waypost.wire.sse import SseParser

GOLDEN = Path(__file__).parent / "golden_openai_responses"
CONVERSATIONS = sorted(path.name for path in GOLDEN.iterdir())
WHOLE = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.json").exists()]
STREAMED = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.sse").exists()]
KIND = KINDS["openai-responses"]
FORMAT = FORMATS["openai_responses"]
TARGET = KIND.prepare(Target(b"127.0.0.1:9100", "/v1", "sk-upstream", "alpha-large-2026", provider="alpha"))
OURS = Signature("openai-responses alpha", "gAAAAABours==")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_SEALED = re.compile(rb"wp1[A-Za-z0-9_-]+")


def compare(path: Path, actual: bytes) -> None:
    actual = _SEALED.sub(b"@SEALED@", actual)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_bytes(actual)
    assert actual.decode() == path.read_text()


def read(body: bytes) -> ChatRequest:
    return FORMAT.read(body.replace(b"@SEALED@", ENVELOPE.seal(OURS, b"o" * 16).encode()), AROUND)


def ask(name: str) -> ChatRequest:
    return read((GOLDEN / name / "request.json").read_bytes())


def identity(request: ChatRequest) -> AnswerIdentity:
    ours = identity_for(request)
    return AnswerIdentity(
        completion_id="resp_" + "0123456789abcdef" * 2,
        created_s=ours.created_s,
        model=ours.model,
        org_id=ours.org_id,
        tool_id_secret=ours.tool_id_secret,
        envelope=ENVELOPE,
        wants_logprobs=request.wants_logprobs,
    )


def answered_whole(request: ChatRequest, upstream: bytes) -> bytes:
    completion, usage = KIND.completion({}, upstream, target=TARGET)
    return FORMAT.render(completion, request, identity(request), told(usage), COST)


def answered_streamed(request: ChatRequest, reads: Iterable[bytes]) -> bytes:
    reader = KIND.stream(target=TARGET)
    writer = FORMAT.stream(request, identity(request))
    out = b"".join([writer.render(reader.feed(data)) for data in reads])
    reader.end()
    return out + writer.finish(reader.usage or Usage(), COST)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    events = []
    for event in SseParser().feed(stream):
        assert isinstance(event, tuple), "every event has its name"
        name, data = event
        events.append(json.loads(data))
        assert events[-1]["type"] == name.decode()
    return events


def extras(value: object, path: str = "") -> Iterator[str]:
    """Paths of the fields that the SDK's types do not have."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or ():
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from extras(each, path)


def check_response(sent: dict[str, Any]) -> Response:
    response = Response.model_validate_json(json.dumps(sent), strict=True)
    assert set(extras(response)) <= {".store", ".usage.cost"}
    assert response.model == "swift-1"
    return response


def test_there_are_enough_conversations() -> None:
    assert len(CONVERSATIONS) >= 12


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_provider_is_asked_as_recorded(name: str) -> None:
    head, body = KIND.call(ask(name), TARGET, output_tokens_max=8192)

    assert head.startswith(b"POST /v1/responses HTTP/1.1\r\n")
    compare(GOLDEN / name / "call.json", body)
    assert json.loads(body)["store"] is False


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_reads_as_recorded(name: str) -> None:
    answer = answered_whole(ask(name), (GOLDEN / name / "upstream.json").read_bytes())

    compare(GOLDEN / name / "answer.json", answer)
    check_response(json.loads(answer))


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_answer_reads_as_recorded(name: str) -> None:
    answer = answered_streamed(ask(name), [(GOLDEN / name / "upstream.sse").read_bytes()])

    compare(GOLDEN / name / "answer.sse", answer)
    sent = events_of(answer)
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert [event["type"] for event in sent[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] for event in sent[-1:]] in (["response.completed"], ["response.incomplete"])
    for event in sent:
        parsed = EVENT.validate_json(json.dumps(event), strict=True)
        assert {path.split(".", 2)[-1] for path in extras(parsed)} <= {"store", "usage.cost"}
    check_response(sent[-1]["response"])


@pytest.mark.parametrize("name", STREAMED)
def test_the_sdk_puts_a_stream_together(name: str) -> None:
    answer = answered_streamed(ask(name), [(GOLDEN / name / "upstream.sse").read_bytes()])
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=[], text_format=omit)
    said = ""
    for sent in events_of(answer):
        for event in state.handle_event(EVENT.validate_json(json.dumps(sent))):
            if event.type == "response.output_text.delta":
                said += event.delta
    final = check_response(events_of(answer)[-1]["response"])
    assert said == final.output_text


@pytest.mark.parametrize("name", sorted(set(WHOLE) & set(STREAMED)))
def test_a_stream_ends_with_the_whole(name: str) -> None:
    whole = json.loads((GOLDEN / name / "answer.json").read_bytes())
    last = events_of((GOLDEN / name / "answer.sse").read_bytes())[-1]["response"]

    assert last == whole


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_nothing_of_the_provider_is_in_the_answer(name: str) -> None:
    for path in (GOLDEN / name).glob("answer.*"):
        answer = path.read_bytes()
        for word in (b"alpha", b"68C9xT", b"C9xT", b"1790000001", b"priority", b"gAAAA", b"obfuscation", b"billing"):
            assert word not in answer, (path.name, word)


def test_reasoning_comes_back_to_the_provider_that_wrote_it_and_to_no_other() -> None:
    request = ask("reasoning")
    answer = json.loads(answered_whole(request, (GOLDEN / "reasoning" / "upstream.json").read_bytes()))
    again = {"model": "swift-1", "input": [{"role": "user", "content": "And 97?"}, *answer["output"]]}
    body = json.dumps(again).encode()

    _, sent = KIND.call(FORMAT.read(body, AROUND), TARGET, output_tokens_max=None)
    other = KIND.prepare(Target(b"127.0.0.1:9100", "/v1", "sk", "m", provider="other"))
    _, sent_elsewhere = KIND.call(FORMAT.read(body, AROUND), other, output_tokens_max=None)

    kinds = [item.get("type", "message") for item in json.loads(sent)["input"]]
    assert kinds == ["message", "reasoning", "message"]
    assert json.loads(sent)["input"][1]["encrypted_content"] == "gAAAAABalphaOpaque=="
    assert [item.get("type", "message") for item in json.loads(sent_elsewhere)["input"]] == ["message", "message"]


def test_a_stream_that_ends_before_its_response_is_broken() -> None:
    stream = (GOLDEN / "text" / "upstream.sse").read_bytes()
    cut = stream[: stream.index(b"event: response.completed")]

    with pytest.raises(BadAnswer):
        answered_streamed(ask("text"), [cut])
