"""What is written down as charged for a stream has left this process before: a kill in that moment takes none of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator

from tests.e2e.stack import ask
from tests.e2e.test_heartbeat import KeptBooks, Relaying, relaying
from waypost.dispatch.ports import Hold
from waypost.dispatch.streams import Streams
from waypost.ledger.record import ClosedAttempt, Progress
from waypost.simulator import Simulator

_TEXT = re.compile(rb'"content":("(?:[^"\\]|\\.)+")')


class Watching(KeptBooks):
    """Looks, in the moment of each record, at what a caller's socket has by then."""

    def __init__(self, caller: socket.socket) -> None:
        super().__init__()
        self.caller = caller
        self.received = b""
        self.at_progress: list[tuple[int, int]] = []
        self.at_end: list[int] = []

    def pieces(self) -> int:
        """Pieces of text that have arrived."""
        try:
            while data := self.caller.recv(1 << 16):
                self.received += data
        except BlockingIOError:
            pass
        return len(_TEXT.findall(self.received))

    def progress(self, record: Progress) -> None:
        self.at_progress.append((record.output_tokens, self.pieces()))

    def closed(self, attempt: ClosedAttempt, hold: Hold) -> None:
        self.at_end.append(self.pieces())
        super().closed(attempt, hold)


@contextlib.asynccontextmanager
async def asked(gateway: Relaying, text: str) -> AsyncIterator[Watching]:
    """A stream under way, and the books that it is written down in."""
    caller = socket.create_connection(("127.0.0.1", gateway.server.port))
    caller.setblocking(False)
    with caller:
        books = gateway.dispatcher.books = Watching(caller)
        gateway.dispatcher.streams = Streams(books, every_s=0.001)
        body = json.dumps(ask(text, stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        await asyncio.get_running_loop().sock_sendall(caller, head + body)
        async with asyncio.timeout(20):
            while not books.at_end:  # noqa: ASYNC110  written from callbacks
                await asyncio.sleep(0.01)
        yield books
        gateway.dispatcher.streams.close()


async def test_every_piece_of_a_stream_has_left_when_its_end_is_written_down() -> None:
    async with Simulator() as sim, relaying(sim) as gateway, asked(gateway, "sim: words=40 delay_ms=0") as books:
        assert books.at_end == [40]


async def test_what_is_written_down_as_delivered_has_left() -> None:
    async with Simulator() as sim, relaying(sim) as gateway, asked(gateway, "sim: words=400 delay_ms=1") as books:
        assert len(books.at_progress) > 20
        assert [(told, pieces) for told, pieces in books.at_progress if told > pieces] == []
