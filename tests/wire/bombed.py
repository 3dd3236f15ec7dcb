"""Reads bodies made to take memory, each in a process forked for it, and tells as JSON lines what each took at most
beyond what the process had with the body in it: [name, bytes].

A caller's body is read in its format, read as a conversation, and written for every kind of provider; an answer is read
by every kind.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.wire.samples import AROUND as AROUND_NO_MODEL
from waypost.kit.errors import Refusal
from waypost.providers import MODALITIES
from waypost.providers.kind import BadAnswer, ProviderKind, Target, UpstreamError, check_values
from waypost.wire.formats import FORMATS, conversation_of
from waypost.wire.request import COUNTED_FROM_BYTES, ELEMENTS_MAX, VALUES_MAX, Around

MIB = 1 << 20
LONG = b"a" * (4 * MIB) + "\N{GRINNING FACE}".encode()
AROUND = Around(AROUND_NO_MODEL.open_sealed, path_model="m")
TARGET = Target(b"127.0.0.1:9100", "/v1", "sk-upstream", "m")
# Of each format: a body without its last bracket, and one with a place for more parts beside a medium.
BODIES = {
    "openai_chat": (
        b'{"model":"m","messages":[{"role":"user","content":"a"}]',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}},%b]}]}',
    ),
    "openai_responses": (
        b'{"model":"m","input":"a"',
        b'{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"u"},%b]}]}',
    ),
    "anthropic_messages": (
        b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"a"}]',
        b'{"max_tokens":9,"messages":[{"content":[{"type":"image","source":{"type":"url"}},%b],"role":"user"}],"model":"m"}',
    ),
    "gemini_generate": (
        b'{"contents":[{"parts":[{"text":"a"}]}]',
        b'{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA"}},%b]}]}',
    ),
    "openai_embeddings": (b'{"model":"m","input":"a"', b'{"model":"m","input":[%b]}'),
    "gemini_embed": (b'{"content":{"parts":[{"text":"a"}]}', b'{"requests":[{"content":{"parts":[%b]}}]}'),
    "openai_images": (b'{"model":"m","prompt":"a"', b'{"model":"m","prompt":"a","image":[%b]}'),
}


def several(part: bytes, count: int) -> bytes:
    return b",".join([part] * count)


def requests(start: bytes, around_parts: bytes) -> Iterator[tuple[str, bytes]]:
    keys = [b'"%x":0' % at for at in range(200_000)]
    yield "keys", b"%b,%b}" % (start, b",".join(keys))
    yield "keys within the bound", b"%b,%b}" % (start, b",".join(keys[: VALUES_MAX // 2]))
    for part, values in ((b"{}", 1), (b"[[]]", 2), (b'{"a":0}', 2), (b'{"a":{}}', 3)):
        for kind, count in (
            ("", 4 * MIB // len(part)),
            (" within the bound", (VALUES_MAX - 99) // values),
            (" not counted", COUNTED_FROM_BYTES // (len(part) + 1) - 99),
        ):
            yield f"a field of {part!r}{kind}", b'%b,"x":[%b]}' % (start, several(part, count))
            yield f"parts of {part!r}{kind}", around_parts % several(part, count)
    yield "numbers within the bound", around_parts % several(b"70000", ELEMENTS_MAX - 99)
    yield "escapes", b'%b,"x":"%b"}' % (start, b'\\"' * (2 * MIB))
    yield "escapes, nested", b'%b,"x":[%b,"%b"]}' % (start, several(b"[]", 99), b'\\"' * (2 * MIB))
    yield "a field in an alphabet of its own", b'%b,"x":"%b"}' % (start, LONG)
    yield "a key that stands twice, escaped", b'%b,"x":"%b","n":1,"\\u006e":2}' % (start, LONG)


def ask(format_name: str, body: bytes) -> None:
    request = FORMATS[format_name].read(body, AROUND)
    for kind in MODALITIES[request.modality].values():
        with contextlib.suppress(Refusal):
            if kind.format != format_name:
                kind.losses(conversation_of(request))
            kind.call(request, kind.prepare(TARGET), output_tokens_max=9)


def answers() -> Iterator[tuple[str, bytes]]:
    many = several(b"[[]]", 180_000)  # an event of less than 1 MiB
    yield "an error", b'{"type":"error","error":{"x":[%b]}}' % many
    yield "choices", b'{"choices":[{"message":{"content":"a","x":[%b]}}]}' % many
    yield "a whole answer", b'{"choices":[{"message":{"content":"a","x":[%b]}}]}' % several(b"[[]]", 3 * MIB)
    keys = [b'"%x":0' % at for at in range(3 * MIB)]
    yield "keys", b'{"choices":[{"message":{"content":"a"}}],%b}' % b",".join(keys)


def read_answer(kind: ProviderKind, body: bytes) -> None:
    with contextlib.suppress(BadAnswer, UpstreamError):
        check_values(body)
        kind.completion({}, body)
    if len(body) < MIB:
        for event in (b"data: %b\n\n", b"event: error\ndata: %b\n\n"):
            with contextlib.suppress(BadAnswer, UpstreamError):
                kind.stream().feed(event % body)


def peak_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024


def taken(act: Callable[[], None]) -> int:
    """In a process of its own: what one has taken would hide what the next one takes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_bytes("VmRSS")
        with contextlib.suppress(Refusal):
            act()
        os.write(writing, b"%d" % (peak_bytes("VmHWM") - before))
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 99)
    os.close(reading)
    os.waitpid(child, 0)
    return int(said)


def main() -> None:
    for name, parts in BODIES.items():
        for bomb, body in requests(*parts):
            print(json.dumps([f"{name}: {bomb}", taken(lambda: ask(name, body))]), flush=True)  # noqa: B023
    for name, kind in MODALITIES["chat"].items():
        for bomb, body in answers():
            print(json.dumps([f"{name}: {bomb}", taken(lambda: read_answer(kind, body))]), flush=True)  # noqa: B023


if __name__ == "__main__":
    main()
