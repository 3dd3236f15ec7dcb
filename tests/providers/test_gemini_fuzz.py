"""Odd inputs in Gemini's format: only the declared exceptions come out. Seeded, so that a failure can be run again;
WAYPOST_FUZZED=100000 makes that many of each."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator

import pytest

from tests.providers.test_fuzz import TOKENS
from tests.wire.gemini_samples import identity_for, read
from tests.wire.samples import told
from tests.wire.test_golden_gemini_generate import GEMINI, GOLDEN, TARGET
from waypost.kit.errors import Refusal
from waypost.providers import MODALITIES
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.wire.formats import FORMATS, conversation_of
from waypost.wire.gemini_generate_answer import render_answer
from waypost.wire.gemini_generate_stream import GeminiStream
from waypost.wire.request import Around

CASES = int(os.environ.get("WAYPOST_FUZZED", "2000"))
REQUEST = read(b'{"contents":[{"parts":[{"text":"a"}]}]}')
IDENTITY = identity_for(REQUEST)
OWN = [
    b'"parts"',
    b'"text"',
    b'"functionCall"',
    b'"args":{}',
    b'"finishReason"',
    b'"STOP"',
    b'"candidates"',
    b"\r\n\r\n",
]


def mutations(seeds: list[bytes]) -> Iterator[bytes]:
    dice = random.Random(20_261_126)
    for _ in range(CASES):
        data = bytearray(dice.choice(seeds) if dice.random() < 0.95 else dice.randbytes(60))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            end = at + dice.choice((0, 0, 1, 3, 20))
            data[at:end] = dice.choice((dice.choice(TOKENS + OWN), dice.randbytes(2), bytes(data[end : end + 9])))
        yield bytes(data[: dice.choice((len(data), len(data), dice.randrange(len(data) + 1)))])


def survives(act: Callable[[bytes], object], seeds: list[bytes], *declared: type[Exception]) -> None:
    for data in mutations(seeds):
        with contextlib.suppress(*declared):
            act(data)


def recorded(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob(pattern))]


def test_requests() -> None:
    def act(data: bytes) -> None:
        request = read(data)
        GEMINI.call(request, TARGET, output_tokens_max=10)
        conversation_of(request)

    survives(act, recorded("*/request.json"), Refusal)


def test_whole_answers() -> None:
    def act(data: bytes) -> None:
        completion, usage = GEMINI.completion({}, data, target=TARGET)
        render_answer(completion, REQUEST, IDENTITY, told(usage), "0.00")

    survives(act, recorded("*/upstream.json"), BadAnswer, UpstreamError)


@pytest.mark.parametrize("n", [1, 2])
def test_streams(n: int) -> None:
    def act(data: bytes) -> None:
        reader, writer = GEMINI.stream(n=n, target=TARGET), GeminiStream(REQUEST, IDENTITY)
        middle = len(data) // 2
        writer.render(reader.feed(data[:middle]))
        writer.render(reader.feed(data[middle:]))
        usage = reader.usage
        reader.end()
        writer.finish(told(usage), "0.00")

    survives(act, recorded("*/upstream.sse"), BadAnswer, UpstreamError)


def test_errors() -> None:
    seed = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"retryDelay":"3s"}]}}'
    survives(lambda data: GEMINI.failure(429, {}, data, ()), [seed, b"[" + seed + b"]"])


def test_embeddings() -> None:
    around = Around(lambda _: None, "vec-1")
    kinds = MODALITIES["embedding"]
    asked = [
        b'{"content":{"parts":[{"text":"a"}]},"taskType":"X"}',
        b'{"requests":[{"content":{"parts":[{"text":"a"}]}}]}',
    ]
    survives(lambda data: conversation_of(FORMATS["gemini_embed"].read(data, around)), asked, Refusal)
    asked = [b'{"model":"m","input":["a","b"],"dimensions":3}', b'{"model":"m","input":[[1,2],[3]]}']
    survives(lambda data: conversation_of(FORMATS["openai_embeddings"].read(data, around)), asked, Refusal)
    answers = [b'{"embeddings":[{"values":[0.5,1]}],"usageMetadata":{"promptTokenCount":1}}']
    survives(lambda data: kinds["gemini"].completion({}, data), answers, BadAnswer, UpstreamError)
    answers = [b'{"data":[{"embedding":[0.5,1],"index":0},{"embedding":"AAAA"}],"usage":{"prompt_tokens":1}}']
    survives(lambda data: kinds["openai"].completion({}, data), answers, BadAnswer, UpstreamError)
