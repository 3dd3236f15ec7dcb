"""Callers who send a byte at a time, to keep connections open: each is cut off, and everybody else is served meanwhile.

WAYPOST_TEST_LORIS=2000 makes it two thousand of them.
"""

from __future__ import annotations

import asyncio
import os
import resource

from tests.transport.loopback import connected, echo, read_answer, run, serving
from waypost.transport.http1_server import Http1Server, ServerLimits

LORIS = int(os.environ.get("WAYPOST_TEST_LORIS", "200"))
GOOD = 20
LIMITS = ServerLimits(head_s=1.0, body_s=1.0, body_grace_s=0.5, keep_alive_s=1.0)
STARTS = (
    b"",  # nothing at all
    b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
)


async def crawl(port: int, start: bytes) -> None:
    """Until the other side has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    ended = asyncio.ensure_future(reader.read())
    while not ended.done():
        if start:
            writer.write(b"x" if start.endswith((b" ", b";")) else b"1\r\nx\r\n" if b"chunked" in start else b"x")
        await asyncio.wait({ended}, timeout=0.1)
    ended.exception()
    writer.close()


async def be_good(server: Http1Server, is_over: asyncio.Event) -> int:
    answered = 0
    while not is_over.is_set():
        async with connected(server.port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await read_answer(reader)).status == 200
            answered += 1
        await asyncio.sleep(0.02)
    return answered


def test_whoever_crawls_is_cut_off_and_whoever_asks_is_answered() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def main() -> None:
        is_over = asyncio.Event()
        async with serving(echo, LIMITS) as server:
            crawling = [asyncio.ensure_future(crawl(server.port, STARTS[n % len(STARTS)])) for n in range(LORIS)]
            good = [asyncio.ensure_future(be_good(server, is_over)) for _ in range(GOOD)]
            await asyncio.gather(*crawling)
            is_over.set()
            answered = await asyncio.gather(*good)
            assert all(answered)
            assert server.buffered_bytes == 0

    run(main())
