"""Recorded conversations of Gemini callers with providers of the gemini kind: what is asked, what goes upstream, what
comes back, and what the caller reads.

A folder holds `request.json`, and `upstream.json` and/or `upstream.sse` as a provider would send them, written by hand.
`call.json`, `answer.json` and `answer.sse` are ours: UPDATE_GOLDEN=1 writes them anew, and the difference is for people
to read. A sealed signature differs each time; what is in it stands in its place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.gemini_samples import events_of, identity_for, parsed, read
from tests.wire.samples import COST, ENVELOPE, told
from waypost.providers import KINDS
from waypost.providers.kind import Target
from waypost.wire.canonical import Usage
from waypost.wire.gemini_generate_answer import render_answer
from waypost.wire.gemini_generate_stream import GeminiStream
from waypost.wire.request import ChatRequest

GOLDEN = Path(__file__).parent / "golden_gemini_generate"
CONVERSATIONS = sorted(path.name for path in GOLDEN.iterdir())
WHOLE = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.json").exists()]
STREAMED = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.sse").exists()]
GEMINI = KINDS["gemini"]
TARGET = GEMINI.prepare(Target(b"127.0.0.1:9100", "", "AIza-upstream", "gemini-alpha-2026"))
_SEALED = re.compile(rb'"(wp1A[A-Za-z0-9_-]+)"')


def ask(name: str, *, is_stream: bool = False) -> ChatRequest:
    return read((GOLDEN / name / "request.json").read_bytes(), is_stream=is_stream, query="alt=sse")


def compare(path: Path, actual: bytes) -> None:
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_bytes(actual)
    assert actual == path.read_bytes()


def opened(answer: bytes) -> bytes:
    def show(found: re.Match[bytes]) -> bytes:
        signature = ENVELOPE.open(found[1].decode(), b"o" * 16)
        assert signature is not None
        value = signature.value.replace("\0", " with the text ")
        return f'"SEALED {signature.origin} {value}"'.encode()

    return _SEALED.sub(show, answer)


def answered_whole(name: str) -> bytes:
    request = ask(name)
    completion, usage = GEMINI.completion({}, (GOLDEN / name / "upstream.json").read_bytes(), n=request.n)
    assert usage is None or told(usage) == usage
    return render_answer(completion, request, identity_for(request), told(usage), COST)


def stream_through(name: str, reads: Iterable[bytes]) -> bytes:
    request = ask(name, is_stream=True)
    reader = GEMINI.stream(n=request.n, target=TARGET)
    writer = GeminiStream(request, identity_for(request))
    out = b"".join([writer.render(reader.feed(data)) for data in reads])
    reader.end()
    return out + writer.finish(reader.usage or Usage(), COST)


def test_there_are_enough_conversations() -> None:
    assert len(CONVERSATIONS) >= 12


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_provider_is_asked_as_recorded(name: str) -> None:
    head, body = GEMINI.call(ask(name), TARGET, output_tokens_max=8192)

    assert head.startswith(b"POST /v1beta/models/gemini-alpha-2026:generateContent HTTP/1.1\r\n")
    compare(GOLDEN / name / "call.json", body)


@pytest.mark.parametrize("name", WHOLE)
def test_what_was_recorded_is_what_the_format_says(name: str) -> None:
    """The hand-written side, by the SDK's types."""
    sent = json.loads((GOLDEN / name / "upstream.json").read_bytes())
    sent["usageMetadata"].pop("serviceTier", None)
    types.GenerateContentResponse.model_validate(sent)
    request = json.loads((GOLDEN / name / "request.json").read_bytes())
    for content in request["contents"]:
        types.Content.model_validate(content)
    config = request.get("generationConfig", request.get("generation_config", {}))
    types.GenerateContentConfig.model_validate(config)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_reads_as_recorded(name: str) -> None:
    answer = answered_whole(name)

    compare(GOLDEN / name / "answer.json", opened(answer))
    assert parsed(answer).model_version == "swift-1"


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_answer_reads_as_recorded(name: str) -> None:
    answer = stream_through(name, [(GOLDEN / name / "upstream.sse").read_bytes()])

    compare(GOLDEN / name / "answer.sse", opened(answer))
    events = [parsed(event) for event in events_of(answer)]
    assert [event.usage_metadata is not None for event in events] == [False] * (len(events) - 1) + [True]
    reasons = [candidate.finish_reason for event in events[:-1] for candidate in event.candidates or []]
    assert set(reasons) <= {None}


# In "safety" the stream says something before it is stopped.
@pytest.mark.parametrize("name", sorted(set(WHOLE) & set(STREAMED) - {"safety"}))
def test_streamed_pieces_add_up_to_the_whole(name: str) -> None:
    def said(candidates: list[types.Candidate]) -> dict[int, tuple[str, str, list[object]]]:
        by_index: dict[int, tuple[str, str, list[object]]] = {}
        for candidate in candidates:
            text, thoughts, calls = by_index.get(candidate.index or 0, ("", "", []))
            for part in (candidate.content.parts if candidate.content else None) or []:
                thoughts += part.text or "" if part.thought else ""
                text += part.text or "" if not part.thought else ""
                if part.function_call:
                    calls = [*calls, (part.function_call.name, part.function_call.args)]
            by_index[candidate.index or 0] = (text, thoughts, calls)
        return by_index

    whole = parsed(answered_whole(name)).candidates or []
    events = events_of(stream_through(name, [(GOLDEN / name / "upstream.sse").read_bytes()]))
    pieces = [candidate for event in events for candidate in parsed(event).candidates or []]
    assert said(pieces) == said(whole)


@pytest.mark.parametrize("name", STREAMED)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_chunking_yields_the_same_events(name: str, data: st.DataObject) -> None:
    stream = (GOLDEN / name / "upstream.sse").read_bytes()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    reads = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert opened(stream_through(name, reads)) == opened(stream_through(name, [stream]))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_nothing_of_the_provider_is_in_the_answer(name: str) -> None:
    for path in (GOLDEN / name).glob("answer.*"):
        answer = path.read_bytes()
        for word in (b"alpha", b"mAitaLmk", b"safetyRatings", b"tokenId", b"searchEntryPoint", b"serviceTier"):
            assert word not in answer, (path.name, word)
