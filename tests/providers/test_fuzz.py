"""Ten thousand odd inputs each: only the declared exceptions come out. Seeded, so that a failure can be run again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from tests.wire.samples import GOLDEN, identity_for, told
from tests.wire.samples import read as read_request
from waypost.kit.errors import Refusal
from waypost.providers import KINDS
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.wire.openai_chat_answer import render_completion
from waypost.wire.openai_chat_stream import StreamRenderer
from waypost.wire.sse import SseParser, SseTooLarge

CASES = 10_000
IDENTITY = identity_for(read_request(b'{"model":"m","messages":[{"role":"user"}]}'))
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 40,
    b"\\",
    b"\xff",
]
TOKENS += [b"\n", b"\r", b"\n\n", b"data: ", b"event: error\n", b"[DONE]", b'"index"', b'"usage"', b"\\ud800", b"\x00"]


def mutations(pattern: str) -> Iterator[bytes]:
    dice = random.Random(20_260_921)
    seeds = [path.read_bytes() for path in sorted(GOLDEN.glob(pattern))]
    for _ in range(CASES):
        data = bytearray(dice.choice(seeds) if dice.random() < 0.95 else dice.randbytes(60))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            end = at + dice.choice((0, 0, 1, 3, 20))
            data[at:end] = dice.choice((dice.choice(TOKENS), dice.randbytes(2), bytes(data[end : end + 9])))
        yield bytes(data[: dice.choice((len(data), len(data), dice.randrange(len(data) + 1)))])


def survives(act: Callable[[bytes], None], pattern: str, *declared: type[Exception]) -> None:
    for data in mutations(pattern):
        with contextlib.suppress(*declared):
            act(data)


def test_requests() -> None:
    survives(lambda data: str(read_request(data).text_bytes), "*/request.json", Refusal)  # type: ignore[arg-type]


def test_whole_answers() -> None:
    def act(data: bytes) -> None:
        completion, usage = KINDS["openai"].completion({}, data)
        render_completion(completion, IDENTITY, told(usage), "0.00")

    survives(act, "*/upstream.json", BadAnswer, UpstreamError)


@pytest.mark.parametrize("n", [1, 2])
def test_streams(n: int) -> None:
    def act(data: bytes) -> None:
        reader, renderer = KINDS["openai"].stream(n=n), StreamRenderer(IDENTITY, True)
        middle = len(data) // 2
        renderer.render(reader.feed(data[:middle]))
        renderer.render(reader.feed(data[middle:]))
        usage = reader.usage
        reader.end()
        renderer.finish(told(usage), "0.00")

    survives(act, "*/upstream.sse", BadAnswer, UpstreamError)


def test_events() -> None:
    survives(lambda data: str(SseParser().feed(data)), "*/upstream.sse", SseTooLarge)  # type: ignore[arg-type]


def test_errors() -> None:
    def act(data: bytes) -> None:
        KINDS["openai"].failure(429, {b"retry-after": data[:30], b"date": data[30:60]}, data, ())

    survives(act, "*/upstream.json")
