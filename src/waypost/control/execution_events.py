"""An execution's states as server-sent events, one for each that is seen, the end last.

    id: 3
    event: execution
    data: {"id": "exec_…", "status": "PROCESSING", …}

The id is the row's version, so who comes back with `Last-Event-ID` misses nothing and is told nothing twice. Steps that
follow fast may be told as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import StreamingResponse

from waypost.control.execution_answers import shown
from waypost.kit import ids
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.executions import ExecutionRow

HEARTBEAT_S = 15.0
STREAM_S_MAX = 840.0  # then the reader comes back: what stands between may end a long answer on its own terms
RETRY_MS = 1_000
_HEARTBEAT = b": \n\n"
_encode = msgspec.json.Encoder().encode


def event_stream(
    request: Request, news: ExecutionNews, row: ExecutionRow, look: Callable[[], Awaitable[ExecutionRow]]
) -> StreamingResponse:
    """`row` is how it is now, `look` reads it again."""
    last = request.headers.get("last-event-id", "")
    seen = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "x-execution-id": ids.text("exec", row.id)}
    return StreamingResponse(_events(news, row, look, seen), media_type="text/event-stream", headers=headers)


async def _events(
    news: ExecutionNews, row: ExecutionRow, look: Callable[[], Awaitable[ExecutionRow]], seen: int
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + STREAM_S_MAX
    yield b"retry: %d\n\n" % RETRY_MS
    with news.of(row.id) as steps:
        row = await look()  # it may have taken a step before we listened
        while True:
            version = 1 if row.asynchronous is None else row.asynchronous.version
            if version > seen:
                seen = version
                yield b"id: %d\nevent: execution\ndata: %b\n\n" % (version, _encode(shown(row)))
            if row.ended is not None or loop.time() >= until_s:
                return
            try:
                await asyncio.wait_for(steps.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield _HEARTBEAT
            row = await look()
