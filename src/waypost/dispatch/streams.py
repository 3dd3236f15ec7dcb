"""Every stream of this process that has begun to be delivered, so that one timer writes down how far each has come."""

from __future__ import annotations

import asyncio
from typing import Protocol

from waypost.dispatch.ports import Books
from waypost.ledger.record import Progress
from waypost.telemetry.events import report_bug

PROGRESS_S = 1.0  # what a process that dies may leave uncharged of each stream


class Stream(Protocol):
    def progress(self) -> Progress | None: ...


class Streams:
    """One per process. The timer runs while there is a stream."""

    def __init__(self, books: Books, *, every_s: float = PROGRESS_S) -> None:
        self._books = books
        self._every_s = every_s
        self._streams: dict[Stream, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Stream) -> None:
        self._streams[stream] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._write)

    def discard(self, stream: Stream) -> None:
        self._streams.pop(stream, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self) -> None:
        # Set again first: whatever happens below must not end the records of all.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every_s, self._write) if self._streams else None
        for stream in list(self._streams):
            try:
                record = stream.progress()
                if record is not None:
                    self._books.progress(record)
            except Exception as bug:  # noqa: BLE001  an edge: the next stream's record must be written all the same
                report_bug(bug)
