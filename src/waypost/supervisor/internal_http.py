"""One GET to a process of ours, over its Unix socket or a loopback port: how its readiness and its metrics are read."""

from __future__ import annotations

import asyncio
from pathlib import Path

ANSWER_BYTES_MAX = 8 * 1024 * 1024  # a metrics page of many models is some 100 KB

Address = Path | int
"""A Unix socket, or a port of 127.0.0.1."""


async def get(address: Address, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError when nobody answers in time or the answer is not HTTP."""
    async with asyncio.timeout(timeout_s):
        if isinstance(address, int):
            reader, writer = await asyncio.open_connection("127.0.0.1", address, limit=ANSWER_BYTES_MAX)
        else:
            reader, writer = await asyncio.open_unix_connection(address, limit=ANSWER_BYTES_MAX)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            answer = await reader.read(ANSWER_BYTES_MAX)
            while chunk := await reader.read(ANSWER_BYTES_MAX - len(answer)):
                answer += chunk
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not head.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        raise ConnectionError("the answer is not HTTP")
    return int(words[1]), body


async def is_ready(address: Address, path: str) -> bool:
    """Whether somebody answers 200 there."""
    try:
        status, _ = await get(address, path, timeout_s=2.0)
    except OSError:  # TimeoutError is one
        return False
    return status == 200
