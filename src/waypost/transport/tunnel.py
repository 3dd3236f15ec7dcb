"""A connection to an origin through an HTTP proxy (CONNECT, RFC 9110 §9.3.6)."""

from __future__ import annotations

import asyncio
import socket

import msgspec

_ANSWER_BYTES_MAX = 8192


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy that takes CONNECT. `authorization` is the value of Proxy-Authorization, a secret."""

    host: str
    port: int
    authorization: bytes = b""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


class TunnelRefused(ConnectionRefusedError):
    """The proxy does not connect us."""


async def open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """A socket whose bytes go to the origin from here on. Raises OSError, TunnelRefused among them.

    The caller bounds the time; cancelled, it leaves nothing open."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    family, kind, number, _, address = found[0]
    through = socket.socket(family, kind, number)
    try:
        through.setblocking(False)
        through.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(through, address)
        await loop.sock_sendall(through, _request(proxy, f"[{host}]" if ":" in host else host, port))
        await _read_consent(through)
    except BaseException:
        through.close()
        raise
    return through


async def _read_consent(through: socket.socket) -> None:
    """Read the proxy's answer, and nothing of what the origin may say after it. Raises TunnelRefused."""
    loop = asyncio.get_running_loop()
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        part = await loop.sock_recv(through, 1)
        if not part or len(answer) >= _ANSWER_BYTES_MAX:
            raise TunnelRefused
        answer += part
    words = answer.split(b" ", 2)
    if not answer.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].startswith(b"2"):
        raise TunnelRefused


def _request(proxy: Proxy, host: str, port: int) -> bytes:
    place = f"{host}:{port}".encode()
    authorization = b"proxy-authorization: %b\r\n" % proxy.authorization if proxy.authorization else b""
    return b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (place, place, authorization)
