"""The vault's side of its Unix socket. A value goes from the socket straight into the memory that keeps it, and from
there straight to the socket: no copy is made that nobody would wipe.

A connection is read in parts, each into a buffer of exactly its size: head → key → value (or into nothing, when there
is no room) → the answer. While an answer waits to be read nothing more is read, so one connection holds one at most.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from waypost.stores.payloads import Entry, Payloads
from waypost.stores.vault import KEY_BYTES_MAX, OWNER_BYTES_MAX, TTL_S_MAX, VALUE_BYTES_MAX, VaultFull
from waypost.stores.vault_frames import ASK_HEAD, Operation, Status, answer_head

CONNECTIONS_MAX = 256  # some for each process of ours; who comes after them is sent away
_NOWHERE_BYTES = 64 * 1024  # read at a time of a value for which there is no room
_EXPIRE_EVERY_S_MAX = 1.0  # between looks at what is over, while there is anything


class VaultServer:
    """Serves payloads at a Unix socket, and ends those whose time is over."""

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self, path: Path) -> None:
        """Serve there. The socket is as open to others as the umask says. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self, loop), str(path))
        self._expire()

    async def close(self) -> None:
        """Forget everything, and end the connections."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.cut()
        self.payloads.forget_all()
        await asyncio.sleep(0)  # for the connections to be lost

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self.payloads.expire(loop.time())
        self._timer = loop.call_later(_EXPIRE_EVERY_S_MAX, self._expire)


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, server: VaultServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._payloads = server.payloads
        self._loop = loop
        self._transport: asyncio.Transport
        self._part = memoryview(b"")  # what is being read into
        self._filled = 0
        self._operation = Operation.GET
        self._key_bytes = self._value_bytes = self._ttl_ms = 0
        self._key = self._owner = b""
        self._head: bytearray | None = bytearray(ASK_HEAD.size)
        self._entry: Entry | None = None  # being received
        self._skips_bytes = 0  # of a value for which there is no room
        self._sending: Entry | None = None
        self._await_head()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type
        self._transport.set_write_buffer_limits(high=0)  # so that we are told when an answer has been read whole
        self._server.connections.add(self)
        if len(self._server.connections) > CONNECTIONS_MAX:
            self.cut()

    def connection_lost(self, _: Exception | None) -> None:
        self._server.connections.discard(self)
        self._part = memoryview(b"")
        if self._entry is not None:
            self._payloads.give_back(self._entry)
            self._entry = None
        self._end_sending()

    def cut(self) -> None:
        self._transport.abort()

    def get_buffer(self, _: int) -> memoryview:
        return self._part[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled < len(self._part):
            return
        if self._head is not None:
            self._take_head(self._head)
        elif not self._key:
            self._key, _, self._owner = bytes(self._part).partition(b"\0")
            if not self._key:
                self.cut()
                return
            self._take_key()
        elif self._skips_bytes:
            self._skips_bytes -= len(self._part)
            self._skip()
        else:
            self._put()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._end_sending()
        self._transport.resume_reading()

    def _await_head(self) -> None:
        self._head, self._key = bytearray(ASK_HEAD.size), b""
        self._await(memoryview(self._head))

    def _await(self, part: memoryview) -> None:
        self._part, self._filled = part, 0

    def _take_head(self, head: bytearray) -> None:
        operation, self._key_bytes, self._value_bytes, self._ttl_ms = ASK_HEAD.unpack(head)
        is_put = operation == Operation.PUT
        is_fit = self._value_bytes <= VALUE_BYTES_MAX and 0 < self._ttl_ms <= TTL_S_MAX * 1000
        if (
            operation not in tuple(Operation)
            or not 0 < self._key_bytes <= KEY_BYTES_MAX + 1 + OWNER_BYTES_MAX
            or (not is_fit if is_put else self._value_bytes)
        ):
            self.cut()
            return
        self._operation, self._head = Operation(operation), None
        self._await(memoryview(bytearray(self._key_bytes)))

    def _take_key(self) -> None:
        if self._operation is Operation.GET:
            self._get()
        elif self._operation is Operation.DELETE:
            self._answer(Status.DONE if self._payloads.forget(self._key) else Status.MISSING)
        else:
            try:
                self._entry = self._payloads.reserve(self._key, self._value_bytes, self._owner)
            except VaultFull:
                self._skips_bytes = self._value_bytes
                self._skip()
                return
            if self._value_bytes:
                self._await(memoryview(self._entry.buffer))
            else:
                self._put()

    def _skip(self) -> None:
        if self._skips_bytes:
            self._await(memoryview(bytearray(min(self._skips_bytes, _NOWHERE_BYTES))))
        else:
            self._answer(Status.FULL)

    def _put(self) -> None:
        entry, self._entry = self._entry, None
        assert entry is not None
        self._payloads.keep(entry, now_s=self._loop.time(), ttl_s=self._ttl_ms / 1000)
        self._answer(Status.DONE)

    def _get(self) -> None:
        entry = self._payloads.find(self._key, self._loop.time())
        if entry is None:
            self._answer(Status.MISSING)
            return
        assert self._sending is None, "nothing is read while an answer waits"
        self._sending = entry
        self._await_head()
        self._transport.write(answer_head(Status.DONE, entry.value_bytes))
        if entry.value_bytes:
            self._transport.write(memoryview(entry.buffer))
        if not self._transport.get_write_buffer_size():
            self._end_sending()

    def _answer(self, status: Status) -> None:
        self._await_head()
        self._transport.write(answer_head(status))

    def _end_sending(self) -> None:
        entry, self._sending = self._sending, None
        if entry is not None:
            self._payloads.end_reading(entry)
