"""Recorded conversations in Anthropic's format: what a caller asks, what goes to a provider of each of two kinds, what
comes back from one of Anthropic's, and what the caller reads.

A folder holds `request.json` and `upstream.json` and/or `upstream.sse` as Anthropic sends them. `call.json`,
`call.openai.json`, `answer.json` and `answer.sse` are ours: UPDATE_GOLDEN=1 writes them anew, and the difference is for
people to read. `{{origin value}}` in a request stands for the signature that was sealed for the caller.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from anthropic.types import ContentBlock, Message, Usage

from tests.wire.anthropic_samples import accumulated, around, identity, meaning, sealed
from tests.wire.samples import COST, unsealed
from waypost.kit.values import replace
from waypost.providers import KINDS
from waypost.providers.kind import Target
from waypost.wire import canonical
from waypost.wire.formats import FORMATS
from waypost.wire.request import ChatRequest

GOLDEN = Path(__file__).parent / "golden_anthropic_messages"
FORMAT = FORMATS["anthropic_messages"]
CONVERSATIONS = sorted(path.name for path in GOLDEN.iterdir())
WHOLE = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.json").exists()]
STREAMED = [name for name in CONVERSATIONS if (GOLDEN / name / "upstream.sse").exists()]
_SEALED = re.compile(r"\{\{(\S+) ([^}]*)\}\}")


def ask(name: str) -> ChatRequest:
    text = (GOLDEN / name / "request.json").read_text()
    written = _SEALED.sub(lambda found: sealed(found[1], found[2]), text)
    known = replace(around(), pseudonym=lambda user: f"pseudonym of {user}")
    return FORMAT.read(written.encode(), known)


def compare(path: Path, actual: bytes) -> None:
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_bytes(actual)
    assert actual.decode() == path.read_text()


def is_closed(message: Message) -> bool:
    """Whether every field is one of the SDK's; `cost` is the one that we add."""
    strangers = [block.model_extra for block in message.content if block.model_extra]
    return not strangers and not message.model_extra and set(message.usage.model_extra or {}) <= {"cost"}


def test_there_are_enough_conversations() -> None:
    assert len(CONVERSATIONS) >= 12
    assert get_args(ContentBlock)
    assert "cost" not in Usage.model_fields


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_providers_are_asked_as_recorded(name: str) -> None:
    for kind, file in (("anthropic", "call.json"), ("openai", "call.openai.json")):
        target = KINDS[kind].prepare(Target(b"127.0.0.1:9100", "", "sk-upstream", "claude-sonnet-4-5"))
        body = KINDS[kind].call(ask(name), target, output_tokens_max=8192)[1]
        compare(GOLDEN / name / file, msgspec.json.format(body, indent=2) + b"\n")
        assert "wp1A" not in body.decode()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_reads_as_recorded(name: str) -> None:
    completion, usage = KINDS["anthropic"].completion({}, (GOLDEN / name / "upstream.json").read_bytes())
    assert usage is not None
    answer = FORMAT.render(completion, ask(name), identity(), usage, COST)

    compare(GOLDEN / name / "answer.json", unsealed(answer))
    parsed = Message.model_validate_json(answer, strict=True)
    assert is_closed(parsed)
    assert parsed.model == "swift-1"


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_answer_reads_as_recorded_and_as_the_whole_one(name: str) -> None:
    def streamed(reads: list[bytes]) -> bytes:
        reader, writer = KINDS["anthropic"].stream(), FORMAT.stream(ask(name), identity())
        out = b"".join([writer.render(chunks) for data in reads if (chunks := reader.feed(data))])
        reader.end()
        return out + writer.finish(reader.usage or canonical.Usage(), COST)

    upstream = (GOLDEN / name / "upstream.sse").read_bytes()
    answer = streamed([upstream])

    compare(GOLDEN / name / "answer.sse", unsealed(answer))
    assert unsealed(streamed([upstream[at : at + 1] for at in range(len(upstream))])) == unsealed(answer)
    parsed = accumulated(answer)
    assert is_closed(parsed)
    if name in WHOLE and name not in ("hidden_thinking", "refusal"):  # recorded at other times
        whole = json.loads((GOLDEN / name / "answer.json").read_text())
        assert [block.type for block in parsed.content] == [block["type"] for block in whole["content"]]
        assert meaning(parsed)[1:] == meaning(Message.model_validate({**whole, "content": []}))[1:]
