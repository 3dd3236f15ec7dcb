"""The vault process, as another process of the same machine sees it: asks are pipelined on a few connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from waypost.stores.vault import (
    VALUE_BYTES_MAX,
    VaultFull,
    VaultUnavailable,
    check_value,
    encode_key,
    encode_owned,
)
from waypost.stores.vault_frames import ANSWER_HEAD, Operation, Status, ask_head

CONNECTIONS = 4  # so that a large value on one of them does not keep all others waiting
ANSWER_S = 5.0  # for one ask: 32 MiB take some 50 ms, and a restart of the vault one second
_READ_BYTES = 1024 * 1024


class SocketVault:
    """A `Vault` at a Unix socket. Connections are made when first needed, and made anew after the vault was restarted:
    an ask that meets an old one is asked once more."""

    def __init__(self, path: Path, *, answer_s: float = ANSWER_S) -> None:
        self._path = path
        self._answer_s = answer_s
        self._connections: list[_Connection] = []
        self._opening = asyncio.Lock()

    async def put(self, key: str, value: bytes, ttl_s: float, *, owner: bytes = b"") -> None:
        ttl_s = check_value(value, ttl_s)
        raw_key = encode_owned(key, owner)
        head = ask_head(Operation.PUT, raw_key, value_bytes=len(value), ttl_s=ttl_s)
        status, _ = await self._ask(head, value)
        if status == Status.FULL:
            raise VaultFull

    async def get(self, key: str) -> bytes | None:
        status, value = await self._ask(ask_head(Operation.GET, encode_key(key)))
        return value if status == Status.DONE else None

    async def delete(self, *keys: str) -> None:
        await asyncio.gather(*(self._ask(ask_head(Operation.DELETE, encode_key(key))) for key in keys))

    async def check(self) -> None:
        await self.get("check")

    async def close(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()

    async def _ask(self, head: bytes, value: bytes = b"") -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self._answer_s):
                for connection in (await self._connection(), None):
                    try:
                        return await (connection or await self._connection(is_new=True)).ask(head, value)
                    except _Broken:
                        continue
        except (OSError, TimeoutError):
            pass
        raise VaultUnavailable

    async def _connection(self, *, is_new: bool = False) -> _Connection:
        """The one with the fewest asks under way, or another one while there may be more. Raises OSError."""
        async with self._opening:
            usable = self._connections = [each for each in self._connections if each.is_open]
            least = min(usable, key=_waiting, default=None)
            if least is not None and not is_new and (not least.waiting or len(usable) >= CONNECTIONS):
                return least
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=_READ_BYTES)
            connection = _Connection(reader, writer)
            self._connections.append(connection)
            return connection


class _Broken(Exception):
    """The connection ended before the answer."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._asked: deque[asyncio.Future[tuple[int, bytes]]] = deque()  # in the order of their answers
        self._reading = asyncio.ensure_future(self._read())

    @property
    def is_open(self) -> bool:
        return not self._reading.done()

    @property
    def waiting(self) -> int:
        return len(self._asked)

    async def ask(self, head: bytes, value: bytes) -> tuple[int, bytes]:
        """Status and value. Raises _Broken. When nobody waits for it any more the answer is read all the same; an
        answer that came to nobody in time ends the connection, since all behind it wait too."""
        if not self.is_open:
            raise _Broken
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._writer.write(head)
        if value:
            self._writer.write(value)
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.done() or answer.cancelled():
                self._writer.transport.abort()
            raise

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    async def _read(self) -> None:
        try:
            while True:
                status, value_bytes = ANSWER_HEAD.unpack(await self._reader.readexactly(ANSWER_HEAD.size))
                if value_bytes > VALUE_BYTES_MAX or not self._asked:
                    return
                value = await self._reader.readexactly(value_bytes) if value_bytes else b""
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result((status, value))
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._writer.transport.abort()
            for answer in self._asked:
                if not answer.done():
                    answer.set_exception(_Broken())
            self._asked.clear()


def _waiting(connection: _Connection) -> int:
    return connection.waiting
