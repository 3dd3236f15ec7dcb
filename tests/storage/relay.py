"""Stands between the product and its database, and loses what passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from psycopg import conninfo as conninfos


class Relay:
    """While it withholds, what is asked gets through and no answer comes back: what a frozen server looks like, and a
    network that has lost the way. `cut` then ends all sessions, so that nobody ever learns the answers."""

    def __init__(self, real: str, directory: Path, *, loses_announcements: bool = False) -> None:
        """`loses_announcements`: NOTIFY never arrives, everything else does."""
        parts = conninfos.conninfo_to_dict(real)
        self._real = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        self._path = directory / f".s.PGSQL.{parts['port']}"
        self.conninfo = conninfos.make_conninfo(real, host=str(directory))
        self.lost = 0  # announcements
        self._loses_announcements = loses_announcements
        self._passes_answers = asyncio.Event()
        self._passes_answers.set()
        self._sessions: set[asyncio.Task[None]] = set()

    def withhold(self) -> None:
        self._passes_answers.clear()

    async def cut(self) -> None:
        """End every session; answers to later ones pass again."""
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        self._passes_answers.set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_unix_server(self._accept, self._path)
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.ensure_future(self._relay(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        session.add_done_callback(lambda _: writer.close())  # also of one that was cut before it began

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        real_reader, real_writer = await asyncio.open_unix_connection(self._real)
        answering = asyncio.ensure_future(self._pump(real_reader, writer, self._passes_answers))
        try:
            await self._pump(reader, real_writer, None)
        finally:
            answering.cancel()
            for one in (writer, real_writer):
                one.close()
            for one in (writer, real_writer):
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passes: asyncio.Event | None
    ) -> None:
        with contextlib.suppress(OSError):
            rest = b""
            while data := await source.read(1 << 16):
                if passes is not None:
                    await passes.wait()
                    if self._loses_announcements:
                        data, rest = self._without_announcements(rest + data)
                sink.write(data)
                await sink.drain()

    def _without_announcements(self, data: bytes) -> tuple[bytes, bytes]:
        """Whole messages of the server but NotificationResponse, and the start of the next one."""
        kept, at = b"", 0
        while len(data) >= at + 5:
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if len(data) < end:
                break
            if data[at : at + 1] == b"A":
                self.lost += 1
            else:
                kept += data[at:end]
            at = end
        return kept, data[at:]
