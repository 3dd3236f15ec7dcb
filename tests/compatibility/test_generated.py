"""Generated conversations from every caller's format to every kind of provider: nothing said is lost, no tool argument
changes. 10,000 in the ordinary run; `WAYPOST_GENERATED=100000 ./run test tests/compatibility --timeout 0` makes more.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from tests.wire.samples import AROUND, read
from waypost.kit.values import replace
from waypost.providers import KINDS
from waypost.providers.kind import ProviderKind, Target
from waypost.wire.conversation import Call, Conversation, Media, Result, Text, Tool, Turn
from waypost.wire.formats import FORMATS, conversation_of
from waypost.wire.request import ChatRequest

CASES = int(os.environ.get("WAYPOST_GENERATED", "10000"))
CHAT_KINDS = {
    name: kind for name, kind in KINDS.items() if name in ("openai", "openai-responses", "anthropic", "gemini")
}
PAIRS = [(asked_as, answered_by) for asked_as in CHAT_KINDS for answered_by in CHAT_KINDS]
TARGET = Target(b"127.0.0.1:1", "", "k", "m")
WORDS = (
    "plain",
    "ünï",
    "東京",
    "🙂",
    '"quoted"',
    "back\\slash",
    "</tag>",
    "{brace}",
    "tab\tin",
    "'it's'",
    "null",
    "-0.5",
)
MINIMAL = read(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')


class Dice:
    """Conversations by the throw of seeded dice."""

    def __init__(self, seed: int) -> None:
        self._roll = random.Random(seed)
        self._calls = 0

    def text(self) -> str:
        return " ".join(self._roll.choices(WORDS, k=self._roll.randint(1, 6)))

    def value(self, depth: int) -> Any:
        kind = self._roll.randrange(7 if depth else 5)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(self._roll.randrange(3))]
        if kind == 6:
            return {self.text(): self.value(depth - 1) for _ in range(self._roll.randrange(3))}
        return (self.text(), self._roll.randrange(-(2**53), 2**53), self._roll.random(), True, None)[kind]

    def call(self) -> Call:
        self._calls += 1
        arguments = (
            {} if self._roll.random() < 0.2 else {f"a{at}": self.value(3) for at in range(self._roll.randint(1, 3))}
        )
        return Call(f"call_{self._calls}", self._roll.choice(("look_up", "f", "tool-2")), json.dumps(arguments))

    def user(self) -> list[Text | Media]:
        parts: list[Text | Media] = [Text(self.text())]
        if self._roll.random() < 0.2:
            parts.append(Media("image", "image/png", "iVBORw0KGgo="))
        return parts

    def conversation(self) -> Conversation:
        turns = [Turn("user", self.user())]
        for _ in range(self._roll.randrange(4)):
            calls = [self.call() for _ in range(self._roll.randrange(4))]
            turns.append(Turn("assistant", [Text(self.text()), *calls]))
            results = [Result(call.id, [Text(self.text())], name=call.name) for call in calls]
            turns.append(Turn("user", results or self.user()))
        tools = [Tool(name, "d", '{"type":"object","properties":{}}') for name in ("look_up", "f", "tool-2")]
        return Conversation([Text(self.text())] if self._roll.random() < 0.5 else [], turns, tools)


def said(conversation: Conversation) -> object:
    """All that was said and called, whoever joined or split it: words, calls, results and images, each in order."""
    parts = [part for turn in conversation.turns for part in turn.parts]
    texts = [part.text for part in (*conversation.system, *parts) if isinstance(part, Text)]
    return (
        " ".join(texts).split(),
        [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)],
        [
            " ".join(each.text for each in part.parts if isinstance(each, Text))
            for part in parts
            if isinstance(part, Result)
        ],
        [part.data for part in parts if isinstance(part, Media)],
        [tool.name for tool in conversation.tools],
    )


def sent(kind: ProviderKind, request: ChatRequest) -> ChatRequest:
    """The request as a provider of the kind gets it, read again."""
    _, body = kind.call(request, kind.prepare(TARGET), output_tokens_max=1000)
    return FORMATS[kind.format].read(body, replace(AROUND, path_model="m"))


@pytest.mark.parametrize(("asked_as", "answered_by"), PAIRS, ids="-".join)
def test_nothing_said_is_lost_and_no_argument_changes(asked_as: str, answered_by: str) -> None:
    for seed in range(PAIRS.index((asked_as, answered_by)), CASES, len(PAIRS)):
        conversation = Dice(seed).conversation()
        made = replace(MINIMAL, format="generated", conversation=conversation)
        asked = sent(CHAT_KINDS[asked_as], made)

        answered = sent(CHAT_KINDS[answered_by], asked)

        assert said(conversation_of(answered)) == said(conversation), seed
