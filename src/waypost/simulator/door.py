"""The listening socket, which can be closed for a while so that connects are truly refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_BACKLOG = 4096


class Door:
    """Listens on one port. A second socket that never listens keeps the port ours while the first one is closed.

    Opening a listener is asynchronous, and orders may come meanwhile: one task follows what is wanted last.
    """

    def __init__(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._protocol = protocol
        self._host = ""
        self._port = 0
        self._reservation: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._is_wanted = True
        self._is_stopping = False
        self._orders = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; port 0 takes a free one. Returns the port. Raises OSError when it is taken."""
        self._reservation = _bound(host, port)
        self._host, self._port = host, self._reservation.getsockname()[1]
        try:
            await self._listen()
        except OSError:
            self._reservation.close()
            raise
        self._following = asyncio.ensure_future(self._follow())
        return self._port

    def refuse(self, for_s: float) -> None:
        """Connects are refused from now on, and for this time."""
        self._close()
        self._order(is_wanted=False)
        self._timer = asyncio.get_running_loop().call_later(for_s, self.open)

    def open(self) -> None:
        """Listens again, as soon as the loop gets to it."""
        self._order(is_wanted=True)

    async def stop(self) -> None:
        self._is_stopping = True
        self._order(is_wanted=False)
        assert self._following is not None, "started"
        await self._following
        self._close()
        assert self._reservation is not None, "started"
        self._reservation.close()

    def _order(self, *, is_wanted: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_wanted = is_wanted
        self._orders.set()

    async def _follow(self) -> None:
        while not self._is_stopping:
            await self._orders.wait()
            self._orders.clear()
            if self._is_wanted and self._server is None:
                await self._listen()
            if not self._is_wanted:
                self._close()

    async def _listen(self) -> None:
        listening = _bound(self._host, self._port)
        try:
            listening.listen(_BACKLOG)  # only here does Linux find that another process listens on the port
        except OSError:
            listening.close()
            raise
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=listening, backlog=_BACKLOG)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
