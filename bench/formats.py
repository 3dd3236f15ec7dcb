"""What translating a stream costs: `./run python -m bench.formats [CHUNKS]`, CPU of reading and writing per chunk.

For every provider kind the recorded stream of the tests, with its first piece of text said over and over; for every
caller's format what is written of it. No sockets: this is the part of a chunk's cost that the formats decide.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from waypost.providers import KINDS
from waypost.wire.envelope import Envelope
from waypost.wire.formats import FORMATS
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around

CHUNKS = 2_000
ROUNDS = 7  # the fastest counts: others disturb in one direction only
_WIRE = Path(__file__).parents[1] / "tests" / "wire"
RECORDED = {
    "openai": ("golden", b'"content":"'),
    "openai-responses": ("golden_openai_responses", b"event: response.output_text.delta"),
    "anthropic": ("golden_anthropic_messages", b'"text_delta"'),
    "gemini": ("golden_gemini_generate", b'"text"'),
}
ASKED: dict[str, dict[str, object]] = {
    "openai_chat": {"messages": [{"role": "user", "content": "hi"}]},
    "openai_responses": {"input": "hi", "store": False},
    "anthropic_messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100},
    "gemini_generate": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def stream_of(kind: str, chunks: int) -> list[bytes]:
    """The reads of a stream: what stands before the first piece of text, and that piece many times."""
    folder, sign = RECORDED[kind]
    text = (_WIRE / folder / "text" / "upstream.sse").read_bytes().replace(b"\r\n", b"\n")
    events = [event + b"\n\n" for event in text.split(b"\n\n") if event.strip()]
    at = next(i for i, event in enumerate(events) if sign in event and b'"content":""' not in event)
    return events[:at] + [events[at]] * chunks


def cost_us(kind: str, asked_as: str, chunks: int) -> float:
    """CPU microseconds per chunk."""
    chat_format = FORMATS[asked_as]
    around = Around(lambda _: None, path_model="swift-1", is_stream=True)
    request = chat_format.read(json.dumps({"model": "swift-1", "stream": True, **ASKED[asked_as]}).encode(), around)
    identity = AnswerIdentity("a-1", 1_800_000_000, "swift-1", b"o" * 16, b"s" * 32, Envelope(b"s" * 32))
    reads = stream_of(kind, chunks)
    best = float("inf")
    for _ in range(ROUNDS):
        reader, writer = KINDS[kind].stream(), chat_format.stream(request, identity)
        begun = time.process_time()
        for read in reads:
            writer.render(reader.feed(read))
        best = min(best, time.process_time() - begun)
    return best / len(reads) * 1e6


def main(chunks: int) -> None:
    print(f"| provider | {' | '.join(ASKED)} |\n|---|{'---|' * len(ASKED)}")
    for kind in RECORDED:
        own = KINDS[kind].format
        costs = {name: cost_us(kind, name, chunks) for name in ASKED}
        cells = [f"{cost:.1f} ({cost / costs[own]:.1f} ×)" for cost in costs.values()]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else CHUNKS)
