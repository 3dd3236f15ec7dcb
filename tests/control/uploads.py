"""Files sent and fetched as callers do it, through the control plane's application."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Message

from tests.control.plane import Answer, Plane

PUBLIC = "https://ai.example.org"


def picture(size: int = 200, *, width: int = 640, height: int = 480, filler: bytes = b"\0") -> bytes:
    """A PNG by its header, of so many bytes."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", width, height, 8, 6, 0, 0, 0, 0)
    return head + filler * (size - len(head))


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


async def announce(plane: Plane, *, key: str | None = None, **body: object) -> dict[str, Any]:
    answer = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT", **body}, key=key)
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json
    return made


async def upload(plane: Plane, content: bytes, *, key: str | None = None, **body: object) -> dict[str, Any]:
    """The file, ready."""
    made = await announce(plane, key=key, **body)
    sent = await plane.ask("PUT", path_of(made["upload_url"]), content, key="", headers=FROM)
    assert sent.status == 200, sent.body
    file: dict[str, Any] = sent.json
    return file


FROM = {"x-forwarded-for": "203.0.113.7"}


def kept(plane: Plane) -> list[Path]:
    """Everything that there is in the store, whole or begun."""
    return [path for path in (plane.settings.data_dir / "files").rglob("*") if path.is_file()]


async def put_slowly(
    plane: Plane, url: str, parts: Iterable[bytes], *, between: Iterable[Callable[[], Any]] = (), hang_up: bool = False
) -> Answer:
    """The parts one by one, one of `between` before each; then the end, or the connection's."""
    path, _, query = path_of(url).partition("?")
    scope = {
        "type": "http",
        "method": "PUT",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"x-forwarded-for", b"203.0.113.7")],
    }
    messages: list[Message] = []

    async def receiving() -> AsyncIterator[Message]:
        for part, step in itertools.zip_longest(parts, between):
            waiting = None if step is None else step()
            if waiting is not None:
                await waiting
            await asyncio.sleep(0)
            yield {"type": "http.request", "body": part, "more_body": True}
        yield {"type": "http.disconnect"} if hang_up else {"type": "http.request", "body": b"", "more_body": False}
        while True:
            yield {"type": "http.disconnect"}

    received = receiving()

    async def send(message: Message) -> None:
        messages.append(message)

    await plane.application(scope, received.__anext__, send)
    start = messages[0]
    shown = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], shown, b"".join(each.get("body", b"") for each in messages[1:]))
