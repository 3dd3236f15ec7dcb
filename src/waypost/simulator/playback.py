"""Plays an answer's writes into a socket: at their times, at the reader's speed, without a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from waypost.simulator.reply import Write

_BURST = 64  # writes before other connections get their turn


class Listener(Protocol):
    """Who wants to know how an answer goes."""

    def on_write(self, write: Write) -> None: ...

    def on_closed(self, *, is_early: bool) -> None:
        """Once: everything was written, or the caller left before."""


class Playback:
    """One answer. A paused reader holds it up, so that nothing is generated into memory."""

    __slots__ = ("_is_blocked", "_listener", "_on_done", "_timer", "_transport", "_waiting", "_writes", "is_over")

    def __init__(
        self, transport: asyncio.Transport, writes: Iterator[Write], listener: Listener, on_done: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._writes = writes
        self._listener = listener
        self._on_done = on_done
        self._timer: asyncio.Handle | None = None
        self._waiting: Write | None = None  # its pause has begun
        self._is_blocked = False
        self.is_over = False

    def run(self) -> None:
        """Writes what is due; called again by its own timer."""
        self._timer = None
        if self._is_blocked or self.is_over:
            return
        loop = asyncio.get_running_loop()
        due: list[bytes] = []
        write, self._waiting = self._waiting, None
        for _ in range(_BURST):
            if write is None:
                write = next(self._writes, None)
                if write is None:
                    self._finish(due)
                    return
                if write.pause_s:
                    self._send(due)
                    self._waiting = write
                    self._timer = loop.call_later(write.pause_s, self.run)
                    return
            self._listener.on_write(write)
            due.append(write.data)
            if write.is_apart:
                break
            write = None
        self._send(due)
        self._timer = loop.call_soon(self.run)

    def block(self) -> None:
        self._is_blocked = True

    def unblock(self) -> None:
        self._is_blocked = False
        if self._timer is None and not self.is_over:
            self._timer = asyncio.get_running_loop().call_soon(self.run)

    def stop(self) -> None:
        """The connection is gone."""
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, due: list[bytes]) -> None:
        data = b"".join(due)
        if data:
            self._transport.write(data)  # may call `block`

    def _finish(self, due: list[bytes]) -> None:
        self._send(due)
        self.is_over = True
        self._on_done()
