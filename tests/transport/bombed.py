"""A server in a process of its own, which tells how much memory it has taken at most since it was last asked: PORT on
stdout, then until killed. POST /read reads the body as a chat request."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import uvloop

from tests.transport.loopback import refuse
from tests.wire.samples import AROUND
from waypost.kit.errors import Refusal
from waypost.transport.http1_server import Exchange, Http1Server
from waypost.wire.openai_chat import read_request
from waypost.wire.sse import SseParser, SseTooLarge


def peak_bytes() -> int:
    """The highest resident size since the last call."""
    status = Path("/proc/self/status").read_text()
    found = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(found.split()[1]) * 1024


def answer(exchange: Exchange) -> None:
    if exchange.path == "/read":
        with contextlib.suppress(Refusal):
            read_request(exchange.body.unwrap(), AROUND)
    elif exchange.path == "/events":
        with contextlib.suppress(SseTooLarge):
            parser = SseParser()
            for _ in range(4):
                parser.feed(exchange.body.unwrap())
    exchange.respond(200, b"", str(peak_bytes() if exchange.path == "/peak" else 0).encode())


async def main() -> None:
    server = Http1Server(answer, refuse)
    await server.listen(host="127.0.0.1")
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
