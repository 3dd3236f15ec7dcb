"""The public port: one listening socket for each gateway, all on the same address.

With SO_REUSEPORT the kernel deals connections out by a hash, so that a burst reaches every gateway: of 256 connections
at once, 4 processes got 59 to 74 each, where one shared socket gave them 0, 2, 93 and 161 (whoever wakes first takes
all that wait). The supervisor keeps all of them open, so that nobody is turned away while a gateway restarts; whom a
dead or busy gateway lets wait for longer than a moment, another one takes (`Http1Server.listen`).
"""

from __future__ import annotations

import os
import socket
import sys

BACKLOG = 4096  # callers who may wait while a gateway restarts; the kernel caps it at somaxconn


class PortUnusable(Exception):
    """Nothing can be listened at there. The message is a sentence for the operator, with what to do."""


def open_public_sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address; port 0 takes a free one. Raises PortUnusable.

    Where the kernel does not deal connections out (all but Linux), there is one socket, and all share it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise PortUnusable(f"{host} is not an address to listen at ({error.strerror}): give another --host.") from None
    # The first one alone refuses a port that another program shares with whoever asks.
    first = _open(family, kind, address, is_shared=False)
    if count == 1 or sys.platform != "linux":
        first.listen(BACKLOG)
        return [first]
    address = first.getsockname()
    first.close()
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(_open(family, kind, address, is_shared=True))
            opened[-1].listen(BACKLOG)
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def taken(port: int, option: str, error: OSError) -> str:
    """The sentence for a port that cannot be listened at."""
    reason = os.strerror(error.errno) if error.errno else "no such address"
    return f"Port {port} cannot be used ({reason}): stop the program that has it, or give another {option}."


def _open(
    family: socket.AddressFamily, kind: socket.SocketKind, address: tuple[object, ...], *, is_shared: bool
) -> socket.socket:
    public = socket.socket(family, kind)
    try:
        public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        public.bind(address)
    except OSError as error:
        public.close()
        port = address[1]
        assert isinstance(port, int)
        raise PortUnusable(taken(port, "--port", error)) from None
    return public
