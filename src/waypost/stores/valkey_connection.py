"""One connection to a Valkey server on which commands are sent ahead of their answers: many callers at the same moment
cost one connection, made before any of them came, and not one each.

Protocol: RESP2, https://valkey.io/topics/protocol/.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from typing import Any, cast

from redis.asyncio.connection import parse_url

_BUFFERED_MAX = 1024 * 1024  # of answers; those that we ask for have some hundred bytes


class ValkeyError(Exception):
    """The server refused a command. Its words are left out: they may quote what was sent."""


class ValkeyGone(Exception):
    """The connection has ended."""


class ValkeyConnection(asyncio.Protocol):
    """Made by `connect_pipelined`. `gone` is done when it has ended."""

    def __init__(self) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._answers = AnswerReader()
        self._asked: deque[asyncio.Future[Any]] = deque()

    def call(self, *words: bytes) -> asyncio.Future[Any]:
        """Its answer: bytes, an integer, None, or a list of these. Raises ValkeyGone; the answer may raise that, and
        ValkeyError. Who waits no longer cancels it."""
        if self.gone.done():
            raise ValkeyGone
        answer = self.gone.get_loop().create_future()
        self._asked.append(answer)
        head = b"*%d\r\n" % len(words)
        self._transport.write(head + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        return answer

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type

    def data_received(self, data: bytes) -> None:
        try:
            for found in self._answers.feed(data):
                answer = self._asked.popleft()
                if answer.done():
                    continue
                if isinstance(found, ValkeyError):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)
        except (ValueError, IndexError):  # no RESP, or an answer that nobody asked for
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(ValkeyGone())
                answer.exception()  # whoever waits hears of it all the same
        self._asked.clear()


class AnswerReader:
    """Bytes → whole answers, however they are cut."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Any]:
        """The answers that are whole now; a refusal is a ValkeyError among them. Raises ValueError for what is no
        RESP."""
        self._buffer += data
        found, at = [], 0
        while (parsed := _parse(self._buffer, at)) is not None:
            answer, at = parsed
            found.append(answer)
        self._buffer = self._buffer[at:]
        if len(self._buffer) > _BUFFERED_MAX:
            raise ValueError("an answer has no end")
        return found


def _parse(buffer: bytes, at: int) -> tuple[Any, int] | None:
    """The answer that begins there, and where the next one does; None while it is not whole."""
    end = buffer.find(b"\r\n", at)
    if end < 0:
        return None
    kind, line, at = buffer[at : at + 1], buffer[at + 1 : end], end + 2
    if kind == b"+":
        return line, at
    if kind == b"-":
        return ValkeyError(), at
    number = int(line)
    if kind == b":":
        return number, at
    if kind not in b"$*":
        raise ValueError("this is no RESP")
    if number < 0:
        return None, at
    if kind == b"$":
        return (buffer[at : at + number], at + number + 2) if len(buffer) >= at + number + 2 else None
    items = []
    for _ in range(number):
        parsed = _parse(buffer, at)
        if parsed is None:
            return None
        items.append(parsed[0])
        at = parsed[1]
    return items, at


async def connect_pipelined(url: str) -> ValkeyConnection:
    """Connected, and let in. Raises OSError, ValkeyError, ValkeyGone; bound the time from outside."""
    told = cast("dict[str, Any]", parse_url(re.sub(r"^valkey", "redis", url)))
    loop = asyncio.get_running_loop()
    if "path" in told:
        _, connection = await loop.create_unix_connection(ValkeyConnection, told["path"])
    else:
        tls = ssl.create_default_context() if url.startswith(("valkeys:", "rediss:")) else None
        host, port = told.get("host", "127.0.0.1"), told.get("port", 6379)
        _, connection = await loop.create_connection(ValkeyConnection, host, port, ssl=tls)
    try:
        if told.get("password") is not None:
            names = [told["username"]] if told.get("username") else []
            await connection.call(b"AUTH", *(word.encode() for word in (*names, told["password"])))
        if told.get("db"):
            await connection.call(b"SELECT", b"%d" % told["db"])
    except BaseException:
        connection.close()
        raise
    return connection
