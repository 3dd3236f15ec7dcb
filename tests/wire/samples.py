"""A target, an identity and the recorded conversations, as several tests use them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from waypost.metering.usage import is_plausible
from waypost.providers import KINDS
from waypost.providers.kind import Target
from waypost.wire.canonical import Usage
from waypost.wire.envelope import Envelope
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_chat import read_request
from waypost.wire.openai_chat_stream import StreamRenderer
from waypost.wire.request import Around, ChatRequest

GOLDEN = Path(__file__).parent / "golden"
COST = "0.000123"
ENVELOPE = Envelope(b"s" * 32)
AROUND = Around(lambda sealed: ENVELOPE.open(sealed, b"o" * 16))
TARGET = KINDS["openai"].prepare(Target(b"127.0.0.1:9100", "/v1", "sk-upstream", "alpha-large-2026"))


def identity_for(request: ChatRequest) -> AnswerIdentity:
    return AnswerIdentity(
        completion_id="chatcmpl-" + "0123456789abcdef" * 2,
        created_s=1_800_000_000,
        model=request.model,
        org_id=b"o" * 16,
        tool_id_secret=b"s" * 32,
        envelope=ENVELOPE,
        wants_logprobs=request.wants_logprobs,
        uses_functions=request.uses_functions,
    )


def told(usage: Usage | None) -> Usage:
    """What a caller is told of: the provider's usage when it can be, else a count of ours."""
    if usage is not None and is_plausible(usage, context_window=128_000, max_output=128_000, n=1):
        return usage
    return Usage(input_tokens=1, output_tokens=1, is_estimated=True)


def ask(name: str) -> ChatRequest:
    return read((GOLDEN / name / "request.json").read_bytes())


def read(body: bytes) -> ChatRequest:
    return read_request(body, AROUND)


def stream_through(request: ChatRequest, reads: Iterable[bytes], target: Target = TARGET) -> bytes:
    """Everything that the caller of a complete stream reads, unsealed. Raises what the reader raises."""
    reader = KINDS["openai"].stream(n=request.n, target=target)
    renderer = StreamRenderer(identity_for(request), request.include_usage)
    out = b"".join([renderer.render(reader.feed(data)) for data in reads])
    reader.end()
    return unsealed(out + renderer.finish(reader.usage or Usage(), COST))


def unsealed(answer: bytes) -> bytes:
    """With what is inside each seal in its place, as no two seals are equal."""

    def shown(found: re.Match[bytes]) -> bytes:
        signature = ENVELOPE.open(found[0].decode(), b"o" * 16)
        assert signature is not None
        return f"sealed {signature.origin} {signature.value}".encode()

    return re.sub(rb"wp1A[A-Za-z0-9_=-]+", shown, answer)
