"""Receivers of webhooks on loopback, well and ill, that remember what came."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"


class Arrival(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> str:
        told: str = json.loads(self.body)["event_type"]
        return told


class Receivers:
    """One server, whose paths are as many receivers as a test wants: `/ok/7`, `/fails/3` (always), `/flaky/1` (three
    of ten), `/hangs/2`, `/resets/1`, `/gone/1`, `/moved/1`, `/talks/1` (an answer without end), `/busy/1` (429)."""

    def __init__(self, seed: int = 0) -> None:
        self.arrivals: list[Arrival] = []
        self.taken: list[Arrival] = []  # that were answered 2xx
        self.most_at_once: Counter[str] = Counter()
        self.heals = False
        self.port = 0
        self._dice = random.Random(seed)
        self._now: Counter[str] = Counter()
        self._ended = asyncio.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def accepted(self) -> Counter[str]:
        """How often each event was answered 2xx."""
        return Counter(each.event_id for each in self.taken)

    def of(self, path: str) -> list[Arrival]:
        return [each for each in self.arrivals if each.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = ""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            path = first.split(" ")[1]
            self._now[path] += 1
            self.most_at_once[path] = max(self.most_at_once[path], self._now[path])
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            arrival = Arrival(path, headers, body, time.time())
            self.arrivals.append(arrival)
            await self._answer(arrival, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if path:
                self._now[path] -= 1
            writer.close()

    async def _answer(self, arrival: Arrival, writer: asyncio.StreamWriter) -> None:
        kind = "ok" if self.heals else arrival.path.split("/")[1]
        if kind == "flaky":
            kind = "fails" if self._dice.random() < 0.3 else "ok"
        match kind:
            case "hangs":
                await self._ended.wait()
            case "resets":
                writer.transport.abort()
            case "talks":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                self.taken.append(arrival)
                while not self._ended.is_set():
                    writer.write(b"x" * 4096)
                    await writer.drain()
            case _:
                writer.write(_ANSWERS.get(kind, OK))
                if kind not in _ANSWERS:
                    self.taken.append(arrival)
                await writer.drain()

    def end(self) -> None:
        self._ended.set()


_ANSWERS = {
    "fails": BROKEN,
    "gone": b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
    "moved": b"HTTP/1.1 302 Found\r\nlocation: /ok/moved\r\ncontent-length: 0\r\n\r\n",
    "busy": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n",
}


@asynccontextmanager
async def receivers(seed: int = 0) -> AsyncIterator[Receivers]:
    found = Receivers(seed)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, backlog=4096)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        found.end()
        server.close()


async def until(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = 30.0) -> None:
    """Wait for it. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(work: object) -> AsyncIterator[None]:
    """Something with a `run`, beside."""
    task = asyncio.ensure_future(work.run())  # type: ignore[attr-defined]  # any worker
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
