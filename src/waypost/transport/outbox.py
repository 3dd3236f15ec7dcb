"""What connections have to say within one turn of the loop, handed to the kernel together at its end.

A turn handles all sockets that were ready at once. A write between two of them wakes a reader on another core, who
falls asleep again before the next one: waking it is dearer than the write (docs/performance.md). Written one right
after the other, they find it awake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_HELD_BYTES_MAX: Final = 256 * 1024  # so that what is paused by a full socket is paused in time


class Outbox:
    """Bytes on their way to transports, in order. Who closes a transport and wants them sent calls `flush` before."""

    __slots__ = ("_held_bytes", "_is_due", "_waiting", "turn")

    def __init__(self) -> None:
        self.turn = 0
        """Of what is added now; a later one once that was written."""
        self._waiting: deque[tuple[asyncio.Transport, bytes]] = deque()
        self._held_bytes = 0
        self._is_due = False

    def add(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write this when the turn ends, or at once when much is waiting. Call it inside a running loop."""
        self._waiting.append((transport, data))
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES_MAX:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def flush(self) -> None:
        """Write all of it now. What its transport was closed before is dropped."""
        self.turn += 1
        self._held_bytes = 0
        waiting = self._waiting
        while waiting:  # a write may pause or end its connection, which may come back here
            transport, data = waiting.popleft()
            if not transport.is_closing():
                transport.write(data)

    def _end_turn(self) -> None:
        self._is_due = False
        try:
            self.flush()
        finally:
            if self._waiting:  # one transport's error is not to keep the others waiting
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._end_turn)
