"""A child for the supervisor's tests: ready at once, says its pid to every caller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from waypost.kit.errors import ErrorCode
from waypost.supervisor.inheritance import die_with_supervisor, read_inheritance
from waypost.transport.http1_server import Exchange, Http1Server


def answer(exchange: Exchange) -> None:
    if exchange.path == "/metrics":
        exchange.respond(200, b"", b"# TYPE answers counter\nanswers_total 7\n")
    else:
        exchange.respond(200, b"", str(os.getpid()).encode())


def refuse(code: ErrorCode) -> tuple[bytes, bytes]:
    return b"", code.name.encode()


async def serve() -> None:
    inheritance = read_inheritance(os.environ)
    assert inheritance is not None
    die_with_supervisor(os.environ)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    internal, public = Http1Server(answer, refuse), Http1Server(answer, refuse)
    await internal.listen(unix_path=str(inheritance.internal_socket))
    await public.listen(
        sock=socket.socket(fileno=inheritance.listen_fd),
        siblings=[socket.socket(fileno=fd) for fd in inheritance.sibling_fds],
    )
    await stop.wait()
    public.stop_accepting()
    await public.let_idle_leave(1.0)
    await public.drain(5.0)
    await internal.drain(0.0)


if __name__ == "__main__":
    asyncio.run(serve())
