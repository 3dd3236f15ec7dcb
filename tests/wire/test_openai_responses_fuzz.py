"""Odd input in OpenAI's Responses format: only the declared exceptions come out. Seeded, as in `providers.test_fuzz`.

WAYPOST_FUZZED=100000 tries that many of each instead of a few.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable

from tests.providers.test_fuzz import TOKENS
from tests.wire.samples import COST
from tests.wire.test_openai_responses_golden import FORMAT, GOLDEN, KIND, TARGET, ask, identity, read
from waypost.kit.errors import Refusal
from waypost.providers import openai_responses_build
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.wire.canonical import Usage
from waypost.wire.formats import conversation_of

CASES = int(os.environ.get("WAYPOST_FUZZED", "3000"))
REQUEST = ask("tools_parallel")


def survives(act: Callable[[bytes], None], pattern: str, *declared: type[Exception]) -> None:
    dice = random.Random(20_261_126)
    seeds = [path.read_bytes() for path in sorted(GOLDEN.glob(pattern))]
    for _ in range(CASES):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            end = at + dice.choice((0, 0, 1, 3, 20))
            data[at:end] = dice.choice((dice.choice(TOKENS), dice.randbytes(2), bytes(data[end : end + 9])))
        with contextlib.suppress(*declared):
            act(bytes(data[: dice.choice((len(data), len(data), dice.randrange(len(data) + 1)))]))


def test_requests_are_understood_or_refused() -> None:
    def act(data: bytes) -> None:
        request = read(data)
        FORMAT.stream(request, identity(request)).finish(Usage(), COST)  # says again what was asked
        KIND.call(request, TARGET, output_tokens_max=7)
        conversation = conversation_of(request)
        openai_responses_build.losses(conversation)
        openai_responses_build.build(conversation, "x")

    survives(act, "*/request.json", Refusal)


def test_whole_answers_are_read_or_bad() -> None:
    def act(data: bytes) -> None:
        completion, usage = KIND.completion({}, data, target=TARGET)
        FORMAT.render(completion, REQUEST, identity(REQUEST), usage or Usage(), COST)

    survives(act, "*/upstream.json", BadAnswer, UpstreamError)


def test_streams_are_read_or_bad() -> None:
    def act(data: bytes) -> None:
        reader, writer = KIND.stream(target=TARGET), FORMAT.stream(REQUEST, identity(REQUEST))
        middle = len(data) // 2
        writer.render(reader.feed(data[:middle]))
        writer.render(reader.feed(data[middle:]))
        reader.end()
        writer.finish(reader.usage or Usage(), COST)

    survives(act, "*/upstream.sse", BadAnswer, UpstreamError)
